//! Copies to the device beside the work under way.

use std::mem;
use std::sync::Arc;

use super::context::Context;
use super::staging::Staging;
use super::stream::{Event, Stream};
use crate::board::{BoardError, DevicePtr};

/// Bytes of page-locked memory; a batch of 65,536 tokens and as many targets is 512 KiB.
const STAGING_BYTES: usize = 8 << 20;

/// A second stream for copies, and how it and the stream of the work wait for each other.
///
/// Calls with no work between them are one group. A group's copies wait for what was issued before the group before
/// it, and are waited for by what is issued after them.
pub(super) struct Ahead {
    staging: Staging,
    stream: Stream,
    /// The end of the copies.
    landed: Event,
    /// The end of the work that was issued before the present group ended.
    last: Event,
    /// The same of the group before it.
    before_last: Event,
    is_first: bool,
}

impl Ahead {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, BoardError> {
        Ok(Self {
            staging: Staging::new(context, STAGING_BYTES)?,
            stream: Stream::new(context)?,
            landed: Event::fence(context)?,
            last: Event::fence(context)?,
            before_last: Event::fence(context)?,
            is_first: true,
        })
    }

    /// Queues a copy beside what `work` is given since the last group.
    pub(super) fn send(&mut self, work: &Stream, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        let has_work = work.take_has_work();
        if mem::take(&mut self.is_first) {
            self.before_last.record(work)?;
        } else if has_work {
            mem::swap(&mut self.before_last, &mut self.last);
        }
        self.stream.wait_for(&self.before_last)?;
        self.staging.send(&self.stream, to, bytes)?;
        self.landed.record(&self.stream)?;
        work.wait_for(&self.landed)?;
        self.last.record(work)
    }
}
