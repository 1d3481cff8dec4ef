//! Waiting within a deadline.

use std::time::{Duration, Instant};

use super::library::Request;
use super::wire::Wire;
use super::{parting, roll_call};
use crate::deadline::Cut;
use crate::pace::{Pace, Pauses};

/// How often a waiting rank answers those that ask whether it is there.
const ANSWER_EVERY: Duration = Duration::from_millis(20);

impl Wire {
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
