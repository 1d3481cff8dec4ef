//! Page-locked memory, which the device reads and writes by itself.

use std::ffi::c_void;
use std::ptr;
use std::slice;
use std::sync::Arc;

use super::context::Context;
use crate::board::BoardError;
use crate::board::host_memory::HostNumbers;

/// Page-locked memory of this process, freed when this is dropped.
pub(super) struct Pinned {
    context: Arc<Context>,
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone, and the driver takes calls from any thread.
unsafe impl Send for Pinned {}
// SAFETY: through a shared reference the memory is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// `bytes` of it.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, BoardError> {
        context.bind()?;
        let mut start = ptr::null_mut();
        // SAFETY: the pointer is to a pointer of this frame, and a context is bound.
        let status = unsafe { (context.driver.host_alloc)(&raw mut start, bytes, 0) };
        context.driver.check("cuMemHostAlloc", status)?;
        Ok(Self { context: Arc::clone(context), start, bytes })
    }

    /// Where it begins.
    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.start
    }
}

impl HostNumbers for Pinned {
    fn numbers(&self) -> &[f32] {
        // SAFETY: the memory begins at a page, is as long as that and stays until `drop`; any bits are a number.
        unsafe { slice::from_raw_parts(self.start.cast(), self.bytes / size_of::<f32>()) }
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.cast(), self.bytes / size_of::<f32>()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated by `new`, and nothing uses it any more.
            let _ = unsafe { (self.context.driver.host_free)(self.start) };
        }
    }
}
