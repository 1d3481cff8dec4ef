//! A step that is recorded once and done again and again.

use std::sync::Arc;

use super::context::Context;
use super::driver::{self, Handle};
use super::stream::Stream;
use crate::board::BoardError;

/// What a stream was given between [`begin`] and [`Recording::end`], ready to be launched as one.
pub(super) struct Recording {
    context: Arc<Context>,
    exec: Handle,
}

/// Makes the stream record instead of do.
pub(super) fn begin(stream: &Stream) -> Result<(), BoardError> {
    let d = &stream.context.driver;
    // SAFETY: the stream is valid while its owner lives.
    let status = unsafe { (d.begin_capture)(stream.handle, driver::CAPTURE_RELAXED) };
    d.check("cuStreamBeginCapture", status)?;
    stream.set_recording(true);
    Ok(())
}

impl Recording {
    /// Ends what [`begin`] began. Whatever comes of it, the stream does its work again afterwards.
    pub(super) fn end(stream: &Stream) -> Result<Self, BoardError> {
        let d = &stream.context.driver;
        let mut graph = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame; the stream is valid while its owner lives.
        let status = unsafe { (d.end_capture)(stream.handle, &raw mut graph) };
        stream.set_recording(false);
        d.check("cuStreamEndCapture", status)?;
        let mut exec = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame, and the graph was just made.
        let instantiated = unsafe { (d.graph_instantiate)(&raw mut exec, graph, 0) };
        // SAFETY: what was instantiated does not need the graph any more.
        let destroyed = unsafe { (d.graph_destroy)(graph) };
        d.check("cuGraphInstantiate", instantiated)?;
        let recording = Self { context: Arc::clone(&stream.context), exec };
        d.check("cuGraphDestroy", destroyed)?;
        recording.upload(stream)?;
        Ok(recording)
    }

    /// Queues all of it.
    pub(super) fn replay(&self, stream: &Stream) -> Result<(), BoardError> {
        let d = &self.context.driver;
        // SAFETY: both handles are valid while their owners live.
        d.check("cuGraphLaunch", unsafe { (d.exec_launch)(self.exec, stream.handle) })
    }

    /// Takes it to the device now, so that the first replay does not.
    fn upload(&self, stream: &Stream) -> Result<(), BoardError> {
        let d = &self.context.driver;
        // SAFETY: both handles are valid while their owners live.
        d.check("cuGraphUpload", unsafe { (d.exec_upload)(self.exec, stream.handle) })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: instantiated by `end`; the driver keeps it until a replay under way is done.
            let _ = unsafe { (self.context.driver.exec_destroy)(self.exec) };
        }
    }
}
