//! Memory of the device.

use std::sync::Arc;

use super::context::Context;
use super::driver;
use super::stream::Stream;
use crate::board::{BoardError, DevicePtr};

/// Everything that was allocated; it is freed when this is dropped.
pub(super) struct Arenas {
    context: Arc<Context>,
    device: String,
    addresses: Vec<u64>,
}

impl Arenas {
    pub(super) fn new(context: &Arc<Context>, device: &str) -> Self {
        Self { context: Arc::clone(context), device: device.to_owned(), addresses: Vec::new() }
    }

    /// Memory of `bytes`, zero for whatever `stream` does after.
    pub(super) fn allocate(&mut self, bytes: usize, stream: &Stream) -> Result<DevicePtr, BoardError> {
        let mut address = 0;
        // The driver refuses to allocate nothing. What it gives begins at a multiple of 256 at least.
        let size = bytes.max(1);
        // SAFETY: the pointer is to an address of this frame.
        let status = unsafe { (self.context.driver.memory_alloc)(&raw mut address, size) };
        if status == driver::OUT_OF_MEMORY {
            let free = self.context.memory()?.free;
            return Err(BoardError::OutOfMemory { device: self.device.clone(), asked: bytes as u64, free });
        }
        self.context.driver.check("cuMemAlloc", status)?;
        self.addresses.push(address);
        let at = DevicePtr::new(address);
        zero(stream, at, size)?;
        Ok(at)
    }
}

impl Drop for Arenas {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        for address in &self.addresses {
            // SAFETY: allocated by `allocate`; whoever drops the arenas has waited for the work that uses them.
            let _ = unsafe { (self.context.driver.memory_free)(*address) };
        }
    }
}

/// Queues that `bytes` at an address become zero.
pub(super) fn zero(stream: &Stream, at: DevicePtr, bytes: usize) -> Result<(), BoardError> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: that the address is of as many bytes in an arena is the caller's part.
    let status = unsafe { (stream.context.driver.set_bytes)(at.address(), 0, bytes, stream.handle) };
    stream.context.driver.check("cuMemsetD8Async", status)
}
