//! The library, and this rank among the others.

use std::ffi::c_int;

use super::library::{Library, Request};
use crate::error::DistError;

/// The library, and this rank among the others.
pub(super) struct Wire {
    pub(super) library: Library,
    pub(super) rank: usize,
    pub(super) world: usize,
}

impl Wire {
    /// Whether `request` is complete.
    pub(super) fn is_done(&self, request: &mut Request) -> Result<bool, DistError> {
        let mut done: c_int = 0;
        let status = self.library.status_ignore();
        // SAFETY: the request was made by this library and is live, or it is done, which MPI allows.
        let code = unsafe { (self.library.functions.test)(request, &raw mut done, status) };
        self.library.check("MPI_Test", code)?;
        Ok(done != 0)
    }
}

/// A length or a rank as MPI counts.
pub(super) fn count(n: usize) -> c_int {
    c_int::try_from(n).expect("ranks and rounds are below 2^31")
}
