//! Reads and marks that do not wait for the work under way.

use std::sync::Arc;

use super::context::Context;
use super::stream::{Event, Stream};
use crate::board::{BoardError, DevicePtr};

/// A stream that is otherwise idle, so whatever it is given is done at once.
///
/// It has no order with the stream of the work. A read therefore sees what a finished step wrote, and a mark is taken
/// now and not at the end of the queue.
pub(super) struct Beside {
    stream: Stream,
    end: Event,
}

impl Beside {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, BoardError> {
        Ok(Self { stream: Stream::new(context)?, end: Event::fence(context)? })
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Copies to the host, and returns once that is done.
    pub(super) fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        // SAFETY: `out` is borrowed until the copy is done, which `wait` waits for.
        let queued = unsafe { self.stream.queue_read(from, out) };
        self.wait()?;
        queued
    }

    /// Waits until this stream, and nothing else, has done its work.
    pub(super) fn wait(&self) -> Result<(), BoardError> {
        self.end.record(&self.stream)?;
        self.end.wait()
    }
}
