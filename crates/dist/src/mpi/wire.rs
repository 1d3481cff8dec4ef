//! Requests, and waiting for them within a deadline.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::library::{Library, Request};
use super::pace::{Pace, Pauses};
use super::{parting, roll_call};
use crate::error::DistError;

/// Why a wait ended early.
pub(super) enum Cut {
    /// The deadline passed.
    Late,
    /// The library reported an error.
    Failed(DistError),
}

impl From<DistError> for Cut {
    fn from(error: DistError) -> Self {
        Self::Failed(error)
    }
}

/// The library, and this rank among the others.
pub(super) struct Wire {
    pub(super) library: Library,
    pub(super) rank: usize,
    pub(super) world: usize,
}

/// How often a waiting rank answers those that ask whether it is there.
const ANSWER_EVERY: Duration = Duration::from_millis(20);

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

    /// Waits until `request` is complete, and meanwhile answers ranks that ask whether this one is there.
    pub(super) fn wait(&self, request: &mut Request, pace: Pace, deadline: Instant) -> Result<(), Cut> {
        let mut pauses = Pauses::new(pace);
        let mut answered = Duration::ZERO;
        while !self.is_done(request)? {
            if Instant::now() >= deadline {
                return Err(Cut::Late);
            }
            let waited = pauses.pause();
            if waited - answered >= ANSWER_EVERY {
                roll_call::answer(self)?;
                parting::heed(self)?;
                answered = waited;
            }
        }
        Ok(())
    }

    /// Waits until every rank is here.
    pub(super) fn meet(&self, deadline: Instant) -> Result<(), Cut> {
        let mut request: Request = 0;
        // SAFETY: the request outlives the call; MPI keeps no address of it.
        let code = unsafe { (self.library.functions.ibarrier)(self.library.world, &raw mut request) };
        self.library.check("MPI_Ibarrier", code)?;
        self.wait(&mut request, Pace::Patient, deadline)
    }
}

/// A length or a rank as MPI counts.
pub(super) fn count(n: usize) -> c_int {
    c_int::try_from(n).expect("ranks and rounds are below 2^31")
}
