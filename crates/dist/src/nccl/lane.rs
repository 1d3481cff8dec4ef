//! The way of a fabric's bytes through a GPU: page-locked memory, memory of the device, a stream.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::slice;
use std::time::{Duration, Instant};

use super::driver::{self, Driver, Handle, check};
use crate::deadline::Cut;
use crate::error::DistError;
use crate::pace::{Pace, Pauses};

/// Memory and a stream on one device. Nothing is freed: a GPU that waits for a lost rank would make the driver wait too.
pub(super) struct Lane {
    driver: Driver,
    context: Handle,
    /// The stream of NCCL's work.
    stream: Handle,
    /// Another, for a look at what has come while that waits.
    beside: Handle,
    end: Handle,
    /// What is sent, then what is received, `bytes` each.
    on_device: [u64; 2],
    on_host: [*mut c_void; 2],
    bytes: usize,
}

// SAFETY: the driver's handles and memory may be used from any thread; the lane has one owner.
unsafe impl Send for Lane {}

/// How long a copy from the device takes at most, where the device works.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

impl Lane {
    /// Makes device `ordinal` the calling thread's, and takes `bytes` for either direction.
    pub(super) fn open(ordinal: usize, bytes: usize) -> Result<Self, DistError> {
        let driver = Driver::open()?;
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: the pointers of this and the next call are to values of this frame.
        if unsafe { (driver.device_get)(&raw mut device, number) } != 0 {
            return Err(DistError::Board { why: format!("the driver shows no CUDA device {ordinal}") });
        }
        // SAFETY: as above; the device is the driver's.
        let status = unsafe { (driver.context_retain)(&raw mut context, device) };
        check("cuDevicePrimaryCtxRetain", status)?;
        let none = ptr::null_mut();
        let (on_device, on_host) = ([0; 2], [ptr::null_mut(); 2]);
        let mut lane =
            Self { driver, context, stream: none, beside: none, end: none, on_device, on_host, bytes };
        lane.bind()?;
        for stream in [&raw mut lane.stream, &raw mut lane.beside] {
            // SAFETY: the pointer is to a handle of this frame, and a context is bound.
            let status = unsafe { (lane.driver.stream_create)(stream, driver::STREAM_NON_BLOCKING) };
            check("cuStreamCreate", status)?;
        }
        // SAFETY: as above.
        let status = unsafe { (lane.driver.event_create)(&raw mut lane.end, driver::EVENT_DISABLE_TIMING) };
        check("cuEventCreate", status)?;
        for side in 0..2 {
            // SAFETY: as above.
            let status = unsafe { (lane.driver.memory_alloc)(&raw mut lane.on_device[side], bytes) };
            check("cuMemAlloc", status)?;
            // SAFETY: as above.
            let status = unsafe { (lane.driver.host_alloc)(&raw mut lane.on_host[side], bytes, 0) };
            check("cuMemHostAlloc", status)?;
        }
        Ok(lane)
    }

    /// Makes the device the calling thread's.
    pub(super) fn bind(&self) -> Result<(), DistError> {
        // SAFETY: the context is kept for as long as the process.
        check("cuCtxSetCurrent", unsafe { (self.driver.context_set)(self.context) })
    }

    /// Bytes for either direction.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The stream of NCCL's work.
    pub(super) fn stream(&self) -> *mut c_void {
        self.stream
    }

    /// Where what is sent lies on the device, at byte `at` of it.
    pub(super) fn sent(&self, at: usize) -> *const c_void {
        ptr::with_exposed_provenance(self.on_device[0] as usize + at)
    }

    /// Where what is received lies on the device, at byte `at` of it.
    pub(super) fn received(&self, at: usize) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.on_device[1] as usize + at)
    }

    /// Lets `fill` write the first `len` bytes to send, and queues their copy to the device. Nothing may be under way.
    pub(super) fn send(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), DistError> {
        assert!(len <= self.bytes, "a round is no longer than the memory for it");
        // SAFETY: the memory has that many bytes, and neither the device nor anybody else reads them now.
        fill(unsafe { slice::from_raw_parts_mut(self.on_host[0].cast(), len) });
        if len == 0 {
            return Ok(());
        }
        // SAFETY: both places have that many bytes, for as long as the process.
        let status =
            unsafe { (self.driver.copy_to_device)(self.on_device[0], self.on_host[0], len, self.stream) };
        check("cuMemcpyHtoDAsync", status)
    }

    /// Queues the copy of the first `len` received bytes to the host, and notes the end of it all.
    pub(super) fn receive(&mut self, len: usize) -> Result<(), DistError> {
        self.copy_back(len, self.stream)
    }

    fn copy_back(&mut self, len: usize, stream: Handle) -> Result<(), DistError> {
        assert!(len <= self.bytes, "a round is no longer than the memory for it");
        if len > 0 {
            // SAFETY: both places have that many bytes, for as long as the process.
            let status =
                unsafe { (self.driver.copy_to_host)(self.on_host[1], self.on_device[1], len, stream) };
            check("cuMemcpyDtoHAsync", status)?;
        }
        // SAFETY: both are kept for as long as the process.
        check("cuEventRecord", unsafe { (self.driver.event_record)(self.end, stream) })
    }

    /// Waits until what is queued has been done, and meanwhile `heed`s what may end the wait.
    pub(super) fn wait(
        &self,
        deadline: Instant,
        mut heed: impl FnMut() -> Result<(), DistError>,
    ) -> Result<(), Cut> {
        let mut pauses = Pauses::new(Pace::Patient);
        while !self.is_done()? {
            heed()?;
            if Instant::now() >= deadline {
                return Err(Cut::Late);
            }
            pauses.pause();
        }
        Ok(())
    }

    fn is_done(&self) -> Result<bool, DistError> {
        // SAFETY: the event is kept for as long as the process.
        let status = unsafe { (self.driver.event_query)(self.end) };
        if status == driver::NOT_READY {
            return Ok(false);
        }
        check("cuEventQuery", status).map(|()| true)
    }

    /// The first `len` received bytes, after [`Lane::wait`].
    pub(super) fn has_received(&self, len: usize) -> &[u8] {
        assert!(len <= self.bytes, "a round is no longer than the memory for it");
        // SAFETY: the memory has that many bytes, and the device writes none of them now.
        unsafe { slice::from_raw_parts(self.on_host[1].cast(), len) }
    }

    /// What has come so far of `len` bytes, while the stream waits for the rest. Nothing can be done afterwards.
    pub(super) fn look_beside(&mut self, len: usize) -> Option<&[u8]> {
        self.copy_back(len, self.beside).ok()?;
        let until = Instant::now() + LOOK_WITHIN;
        self.wait(until, || Ok(())).ok()?;
        Some(self.has_received(len))
    }
}
