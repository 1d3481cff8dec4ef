//! The driver's functions, and what its errors mean.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use wattle_cuda::Nvidia;

use super::entry::entry_points;
use crate::board::BoardError;

/// What the driver gives for a context, stream, event, module, function or graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Handle(*mut c_void);

// SAFETY: the driver's handles may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above; the driver locks what it has to.
unsafe impl Sync for Handle {}

impl Handle {
    /// None yet: what a call that makes one overwrites.
    pub(super) const NULL: Self = Self(std::ptr::null_mut());

    /// As a library beside the driver's takes it.
    pub(super) const fn as_ptr(self) -> *mut c_void {
        self.0
    }
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(super) const OUT_OF_MEMORY: c_int = 2;
/// `CUDA_ERROR_NOT_READY`: an event that is still to come.
pub(super) const NOT_READY: c_int = 600;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
pub(super) const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
pub(super) const COMPUTE_CAPABILITY_MINOR: c_int = 76;
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`.
pub(super) const MAX_SHARED_BYTES_OPTIN: c_int = 97;
/// `CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES`.
pub(super) const FUNC_SHARED_BYTES: c_int = 1;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(super) const FUNC_MAX_DYNAMIC_SHARED_BYTES: c_int = 8;
/// `CU_STREAM_NON_BLOCKING`: no order with the legacy default stream.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_BLOCKING_SYNC`: a thread that waits sleeps.
pub(super) const EVENT_BLOCKING_SYNC: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub(super) const EVENT_DISABLE_TIMING: c_uint = 2;
/// `CU_EVENT_RECORD_EXTERNAL`: in a graph, a node that records the event at every launch.
pub(super) const EVENT_RECORD_EXTERNAL: c_uint = 1;
/// `CU_STREAM_CAPTURE_MODE_RELAXED`: what else the thread calls is not forbidden meanwhile.
pub(super) const CAPTURE_RELAXED: c_int = 2;
/// `CU_JIT_ERROR_LOG_BUFFER`.
pub(super) const JIT_ERROR_LOG_BUFFER: c_int = 5;
/// `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`.
pub(super) const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

/// `CUuuid`.
pub(super) type Uuid = [u8; 16];

entry_points! {
    /// The part of the driver that a board needs.
    Driver of Nvidia::Driver;
    init = cuInit(c_uint) -> c_int;
    version = cuDriverGetVersion(*mut c_int) -> c_int;
    error_name = cuGetErrorName(c_int, *mut *const c_char) -> c_int;
    error_text = cuGetErrorString(c_int, *mut *const c_char) -> c_int;
    device_get = cuDeviceGet(*mut c_int, c_int) -> c_int;
    device_count = cuDeviceGetCount(*mut c_int) -> c_int;
    device_uuid = cuDeviceGetUuid_v2(*mut Uuid, c_int) -> c_int;
    device_name = cuDeviceGetName(*mut c_char, c_int, c_int) -> c_int;
    device_attribute = cuDeviceGetAttribute(*mut c_int, c_int, c_int) -> c_int;
    context_retain = cuDevicePrimaryCtxRetain(*mut Handle, c_int) -> c_int;
    context_release = cuDevicePrimaryCtxRelease_v2(c_int) -> c_int;
    context_set = cuCtxSetCurrent(Handle) -> c_int;
    memory_info = cuMemGetInfo_v2(*mut usize, *mut usize) -> c_int;
    memory_alloc = cuMemAlloc_v2(*mut u64, usize) -> c_int;
    memory_free = cuMemFree_v2(u64) -> c_int;
    host_alloc = cuMemHostAlloc(*mut *mut c_void, usize, c_uint) -> c_int;
    host_free = cuMemFreeHost(*mut c_void) -> c_int;
    copy_to_device = cuMemcpyHtoDAsync_v2(u64, *const c_void, usize, Handle) -> c_int;
    copy_to_host = cuMemcpyDtoHAsync_v2(*mut c_void, u64, usize, Handle) -> c_int;
    copy_within = cuMemcpyDtoDAsync_v2(u64, u64, usize, Handle) -> c_int;
    set_bytes = cuMemsetD8Async(u64, u8, usize, Handle) -> c_int;
    stream_create = cuStreamCreate(*mut Handle, c_uint) -> c_int;
    stream_destroy = cuStreamDestroy_v2(Handle) -> c_int;
    stream_wait = cuStreamWaitEvent(Handle, Handle, c_uint) -> c_int;
    event_create = cuEventCreate(*mut Handle, c_uint) -> c_int;
    event_destroy = cuEventDestroy_v2(Handle) -> c_int;
    event_record = cuEventRecord(Handle, Handle) -> c_int;
    event_record_with_flags = cuEventRecordWithFlags(Handle, Handle, c_uint) -> c_int;
    event_query = cuEventQuery(Handle) -> c_int;
    event_synchronize = cuEventSynchronize(Handle) -> c_int;
    event_elapsed = cuEventElapsedTime(*mut f32, Handle, Handle) -> c_int;
    module_load = cuModuleLoadDataEx(*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void) -> c_int;
    module_unload = cuModuleUnload(Handle) -> c_int;
    function_count = cuModuleGetFunctionCount(*mut c_uint, Handle) -> c_int;
    functions = cuModuleEnumerateFunctions(*mut Handle, c_uint, Handle) -> c_int;
    function_name = cuFuncGetName(*mut *const c_char, Handle) -> c_int;
    function_attribute = cuFuncGetAttribute(*mut c_int, c_int, Handle) -> c_int;
    function_set_attribute = cuFuncSetAttribute(Handle, c_int, c_int) -> c_int;
    launch = cuLaunchKernel(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void,
    ) -> c_int;
    begin_capture = cuStreamBeginCapture_v2(Handle, c_int) -> c_int;
    end_capture = cuStreamEndCapture(Handle, *mut Handle) -> c_int;
    graph_instantiate = cuGraphInstantiateWithFlags(*mut Handle, Handle, u64) -> c_int;
    graph_destroy = cuGraphDestroy(Handle) -> c_int;
    exec_upload = cuGraphUpload(Handle, Handle) -> c_int;
    exec_launch = cuGraphLaunch(Handle, Handle) -> c_int;
    exec_destroy = cuGraphExecDestroy(Handle) -> c_int;
}

impl Driver {
    /// An error unless `status` is success.
    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), BoardError> {
        if status == 0 { Ok(()) } else { Err(BoardError::Call { call, why: self.explain(status) }) }
    }

    /// Name, text, and where there is something to do about it, what.
    pub(super) fn explain(&self, status: c_int) -> String {
        let name = self.text(self.error_name, status).unwrap_or_else(|| format!("error {status}"));
        let text = self.text(self.error_text, status).unwrap_or_default();
        format!("{name} ({text}){}", remedy(status))
    }

    fn text(
        &self,
        call: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
        status: c_int,
    ) -> Option<String> {
        let mut text = std::ptr::null();
        // SAFETY: the pointer is to a pointer of this frame, which is set to a static string or to null.
        let known = unsafe { call(status, &raw mut text) } == 0 && !text.is_null();
        // SAFETY: not null, and the driver's strings end with a zero and live as long as it.
        known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// What is to be done about an error, or what it hides.
fn remedy(status: c_int) -> &'static str {
    match status {
        // NO_BINARY_FOR_GPU, INVALID_PTX, UNSUPPORTED_PTX_VERSION
        209 | 218 | 222 => {
            "; the kernels in this program do not fit this GPU and its driver: update the driver"
        }
        // ILLEGAL_ADDRESS, LAUNCH_FAILED, MISALIGNED_ADDRESS, ILLEGAL_INSTRUCTION
        700 | 715 | 716 | 719 => {
            "; an earlier kernel failed, and the process has to end: compute-sanitizer names the kernel"
        }
        900..=908 => "; what was called cannot be part of a recorded step: run it without recording",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_one_can_mend_say_how() {
        assert!(remedy(222).contains("update the driver"));
        assert!(remedy(901).contains("without recording"));
        assert_eq!(remedy(1), "");
    }
}
