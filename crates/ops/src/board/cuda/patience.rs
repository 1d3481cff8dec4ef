//! Waits that end where other ranks may never do their part.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use wattle_dist::nccl::Communicator;
use wattle_dist::{DistError, Fabric};

use super::lock;
use crate::board::BoardError;

/// What a board of several ranks waits with: work that is queued behind a collective ends only if all ranks take part.
pub(super) struct Patience {
    fabric: Arc<dyn Fabric>,
    communicator: Arc<Mutex<Communicator>>,
    within_ms: AtomicU64,
    /// Why no further wait makes sense, once a rank is lost.
    lost: OnceLock<String>,
}

/// What is waited for.
const WORK: &str = "a step on the GPUs";
/// Once the deadline has passed, how long the ranks are asked who is still there; no longer than the deadline itself.
const ASK_WITHIN: Duration = Duration::from_secs(10);
const SHORTEST: Duration = Duration::from_micros(20);
const LONGEST: Duration = Duration::from_millis(1);

impl Patience {
    pub(super) fn new(
        fabric: &Arc<dyn Fabric>,
        communicator: &Arc<Mutex<Communicator>>,
        within: Duration,
    ) -> Self {
        let patience = Self {
            fabric: Arc::clone(fabric),
            communicator: Arc::clone(communicator),
            within_ms: AtomicU64::new(0),
            lost: OnceLock::new(),
        };
        patience.set_within(within);
        patience
    }

    /// For how long other ranks are waited for.
    pub(super) fn within(&self) -> Duration {
        Duration::from_millis(self.within_ms.load(Ordering::Relaxed))
    }

    pub(super) fn set_within(&self, within: Duration) {
        let ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.within_ms.store(ms, Ordering::Relaxed);
    }

    /// Whether a rank is lost. What the device has been given may then never end, so nothing may wait for it, and nothing
    /// that it uses may be freed.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// # Errors
    /// If a rank is lost.
    pub(super) fn check(&self) -> Result<(), BoardError> {
        let gone = |reason: &String| DistError::Gone { gone: Vec::new(), reason: reason.clone() }.into();
        self.lost.get().map_or(Ok(()), |reason| Err(gone(reason)))
    }

    /// Waits until `is_done`. Sleeps grow with the time waited, to a millisecond.
    pub(super) fn wait(&self, is_done: impl Fn() -> Result<bool, BoardError>) -> Result<(), BoardError> {
        self.check()?;
        let began = Instant::now();
        while !is_done()? {
            let waited = began.elapsed();
            let settled = lock(&self.communicator).is_settled();
            settled.map_err(|error| self.lose(error))?;
            if waited >= self.within() {
                return Err(self.lose(self.name_silent(WORK)));
            }
            thread::sleep((waited / 16).clamp(SHORTEST, LONGEST));
        }
        Ok(())
    }

    /// Waits until the communicator has set up what it was given.
    pub(super) fn settle(&self, communicator: &Communicator, what: &'static str) -> Result<(), BoardError> {
        communicator.settle(what, self.within()).map_err(|error| match error {
            DistError::Silent { .. } => self.lose(self.name_silent(what)),
            error => self.lose(error),
        })
    }

    /// Notes that ranks have parted.
    pub(super) fn lose(&self, error: DistError) -> BoardError {
        let _ = self.lost.set(format!("an earlier call failed: {error}"));
        error.into()
    }

    /// The deadline has passed. NCCL does not know who is late; who answers a last call is not.
    fn name_silent(&self, operation: &'static str) -> DistError {
        let waited = self.within();
        match self.fabric.barrier(waited.min(ASK_WITHIN)) {
            Err(said @ DistError::Gone { .. }) if !said.ranks().is_empty() => said,
            Err(said) => DistError::Silent { silent: said.ranks().to_vec(), operation, waited },
            Ok(()) => DistError::Silent { silent: Vec::new(), operation, waited },
        }
    }
}
