//! The part of CUDA's driver by which bytes go through a GPU.

use std::ffi::{c_int, c_uint, c_void};

use wattle_cuda::Nvidia;

use crate::entry::entry_points;
use crate::error::DistError;

/// What the driver gives for a context, stream or event.
pub(super) type Handle = *mut c_void;

/// `CU_STREAM_NON_BLOCKING`: no order with the legacy default stream.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CUDA_ERROR_NOT_READY`: an event that is still to come.
pub(super) const NOT_READY: c_int = 600;

entry_points! {
    /// The driver's functions.
    Driver, else "update NVIDIA's driver";
    init = cuInit(c_uint) -> c_int;
    device_get = cuDeviceGet(*mut c_int, c_int) -> c_int;
    context_retain = cuDevicePrimaryCtxRetain(*mut Handle, c_int) -> c_int;
    context_set = cuCtxSetCurrent(Handle) -> c_int;
    memory_alloc = cuMemAlloc_v2(*mut u64, usize) -> c_int;
    host_alloc = cuMemHostAlloc(*mut *mut c_void, usize, c_uint) -> c_int;
    copy_to_device = cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, Handle) -> c_int;
    copy_to_host = cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, Handle) -> c_int;
    stream_create = cuStreamCreate(*mut Handle, c_uint) -> c_int;
    event_create = cuEventCreate(*mut Handle, c_uint) -> c_int;
    event_record = cuEventRecord(Handle, Handle) -> c_int;
    event_query = cuEventQuery(Handle) -> c_int;
}

impl Driver {
    /// Opens and starts it; it then stays for as long as the process.
    pub(super) fn open() -> Result<Self, DistError> {
        let absent = |error: wattle_cuda::CudaError| DistError::Board { why: error.to_string() };
        let library = wattle_cuda::open(Nvidia::Driver).map_err(absent)?;
        let driver = Self::of(&library, &Nvidia::Driver.file_name())?;
        std::mem::forget(library);
        // SAFETY: zero is the only value of its flags.
        check("cuInit", unsafe { (driver.init)(0) })?;
        Ok(driver)
    }
}

/// An error unless `status` is success.
pub(super) fn check(call: &'static str, status: c_int) -> Result<(), DistError> {
    if status == 0 {
        return Ok(());
    }
    Err(DistError::Library { library: Nvidia::Driver.file_name(), call, reason: format!("error {status}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_entry_point_is_named_twice() {
        let mut names: Vec<_> = Driver::SIGNATURES.iter().map(|(name, ..)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Driver::SIGNATURES.len());
    }
}
