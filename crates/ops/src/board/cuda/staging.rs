//! Copies to the device through memory that it reads by itself, so that a caller need not wait.

use std::collections::VecDeque;
use std::ptr;
use std::sync::Arc;

use super::context::Context;
use super::pinned::Pinned;
use super::ring::Ring;
use super::stream::{Event, Stream};
use crate::board::{BoardError, DevicePtr};

/// Page-locked memory that is used in turn.
pub(super) struct Staging {
    context: Arc<Context>,
    pinned: Pinned,
    piece_bytes: usize,
    ring: Ring,
    /// One for each region of the ring, in order: passed once the region has been copied.
    fences: VecDeque<Event>,
    spare: Vec<Event>,
}

impl Staging {
    /// `capacity` bytes; what is longer than a quarter of them goes in pieces.
    pub(super) fn new(context: &Arc<Context>, capacity: usize) -> Result<Self, BoardError> {
        Ok(Self {
            context: Arc::clone(context),
            pinned: Pinned::new(context, capacity)?,
            piece_bytes: capacity / 4,
            ring: Ring::new(capacity),
            fences: VecDeque::new(),
            spare: Vec::new(),
        })
    }

    /// Queues the copy of `bytes`, which may change afterwards. Waits only while the ring is full.
    pub(super) fn send(&mut self, stream: &Stream, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        let mut address = to.address();
        for piece in bytes.chunks(self.piece_bytes) {
            self.send_piece(stream, address, piece)?;
            address += piece.len() as u64;
        }
        Ok(())
    }

    fn send_piece(&mut self, stream: &Stream, address: u64, piece: &[u8]) -> Result<(), BoardError> {
        let fence = match self.spare.pop() {
            Some(fence) => fence,
            None => Event::fence(&self.context)?,
        };
        let start = self.take(piece.len())?;
        // SAFETY: `start` and the piece's length lie within the memory, as the ring has its size.
        let source = unsafe { self.pinned.as_ptr().cast::<u8>().add(start) };
        // SAFETY: no copy under way reads the region, which the ring gives out once only until its fence is passed.
        unsafe { ptr::copy_nonoverlapping(piece.as_ptr(), source, piece.len()) };
        // SAFETY: the source stays as it is until the fence is passed; the caller vouches for the address.
        let status = unsafe {
            (self.context.driver.copy_to_device)(address, source.cast(), piece.len(), stream.handle)
        };
        let queued = self.context.driver.check("cuMemcpyHtoDAsync", status);
        let fenced = fence.record(stream);
        self.fences.push_back(fence);
        queued.and(fenced)
    }

    fn take(&mut self, len: usize) -> Result<usize, BoardError> {
        loop {
            if let Some(start) = self.ring.take(len) {
                return Ok(start);
            }
            let oldest =
                self.fences.pop_front().expect("a piece is shorter than the ring, so something is taken");
            oldest.wait()?;
            self.ring.give_back();
            self.spare.push(oldest);
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for fence in &self.fences {
            let _ = fence.wait();
        }
    }
}
