//! Streams and events.

use std::ffi::c_uint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::Context;
use super::driver::{self, Handle};
use crate::board::{BoardError, DevicePtr};

/// A queue of work, with no order between it and any other.
pub(super) struct Stream {
    pub(super) context: Arc<Context>,
    pub(super) handle: Handle,
    has_work: AtomicBool,
    is_recording: AtomicBool,
}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, BoardError> {
        context.bind()?;
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame, and a context is bound.
        let status = unsafe { (context.driver.stream_create)(&raw mut handle, driver::STREAM_NON_BLOCKING) };
        context.driver.check("cuStreamCreate", status)?;
        Ok(Self {
            context: Arc::clone(context),
            handle,
            has_work: AtomicBool::new(false),
            is_recording: AtomicBool::new(false),
        })
    }

    /// To be told whenever work is issued.
    pub(super) fn note_work(&self) {
        self.has_work.store(true, Ordering::Release);
    }

    /// Whether work was issued since this was asked last.
    pub(super) fn take_has_work(&self) -> bool {
        self.has_work.swap(false, Ordering::AcqRel)
    }

    /// Whether it records instead of doing.
    pub(super) fn is_recording(&self) -> bool {
        self.is_recording.load(Ordering::Acquire)
    }

    pub(super) fn set_recording(&self, is_recording: bool) {
        self.is_recording.store(is_recording, Ordering::Release);
    }

    /// Queues a copy to the host.
    ///
    /// # Safety
    /// `out` must stay borrowed until the stream has done the copy.
    pub(super) unsafe fn queue_read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        let (place, bytes) = (out.as_mut_ptr().cast(), out.len());
        let copy = self.context.driver.copy_to_host;
        // SAFETY: the length is that of `out`, which the caller keeps borrowed; the stream is valid while this lives.
        let status = unsafe { copy(place, from.address(), bytes, self.handle) };
        self.context.driver.check("cuMemcpyDtoHAsync", status)
    }

    /// Makes what follows wait for what `event` was recorded after; not at all if it never was.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), BoardError> {
        // SAFETY: both handles are valid while their owners live.
        let status = unsafe { (self.context.driver.stream_wait)(self.handle, event.handle, 0) };
        self.context.driver.check("cuStreamWaitEvent", status)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made by `new`, and not used after. Work under way is finished first by the driver.
            let _ = unsafe { (self.context.driver.stream_destroy)(self.handle) };
        }
    }
}

/// A place in a stream that can be waited for. A thread that waits sleeps.
pub(super) struct Event {
    context: Arc<Context>,
    handle: Handle,
}

impl Event {
    /// One that can only be waited for.
    pub(super) fn fence(context: &Arc<Context>) -> Result<Self, BoardError> {
        Self::with_flags(context, driver::EVENT_BLOCKING_SYNC | driver::EVENT_DISABLE_TIMING)
    }

    /// One that knows its time.
    pub(super) fn timed(context: &Arc<Context>) -> Result<Self, BoardError> {
        Self::with_flags(context, driver::EVENT_BLOCKING_SYNC)
    }

    fn with_flags(context: &Arc<Context>, flags: c_uint) -> Result<Self, BoardError> {
        context.bind()?;
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame, and a context is bound.
        let status = unsafe { (context.driver.event_create)(&raw mut handle, flags) };
        context.driver.check("cuEventCreate", status)?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    /// Takes the stream's present end.
    pub(super) fn record(&self, stream: &Stream) -> Result<(), BoardError> {
        // SAFETY: both handles are valid while their owners live.
        let status = unsafe { (self.context.driver.event_record)(self.handle, stream.handle) };
        self.context.driver.check("cuEventRecord", status)
    }

    /// Takes this place of the step that `stream` records, anew at every replay.
    pub(super) fn record_in_graph(&self, stream: &Stream) -> Result<(), BoardError> {
        let record = self.context.driver.event_record_with_flags;
        // SAFETY: both handles are valid while their owners live.
        let status = unsafe { record(self.handle, stream.handle, driver::EVENT_RECORD_EXTERNAL) };
        self.context.driver.check("cuEventRecordWithFlags", status)
    }

    /// Waits until it is passed; not at all if it was never recorded.
    ///
    /// # Errors
    /// If the device fails, or a rank is lost whose part it waits for.
    pub(super) fn wait(&self) -> Result<(), BoardError> {
        if let Some(patience) = self.context.patience() {
            return patience.wait(|| self.is_passed());
        }
        // SAFETY: the handle is valid while this lives.
        let status = unsafe { (self.context.driver.event_synchronize)(self.handle) };
        self.context.driver.check("cuEventSynchronize", status)
    }

    /// Whether it is passed, or was never recorded.
    fn is_passed(&self) -> Result<bool, BoardError> {
        // SAFETY: the handle is valid while this lives.
        match unsafe { (self.context.driver.event_query)(self.handle) } {
            driver::NOT_READY => Ok(false),
            status => self.context.driver.check("cuEventQuery", status).map(|()| true),
        }
    }

    /// Milliseconds from this to a later one; both have been passed.
    pub(super) fn ms_until(&self, later: &Self) -> Result<f32, BoardError> {
        let mut ms = 0.0;
        // SAFETY: the pointer is to a float of this frame; both handles are valid while their owners live.
        let status = unsafe { (self.context.driver.event_elapsed)(&raw mut ms, self.handle, later.handle) };
        self.context.driver.check("cuEventElapsedTime", status)?;
        Ok(ms)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: made by `with_flags`, and not used after.
            let _ = unsafe { (self.context.driver.event_destroy)(self.handle) };
        }
    }
}
