//! Waiting that ends.

use std::time::{Duration, Instant};

use crate::error::DistError;

/// Why a wait ended early.
pub(crate) enum Cut {
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

/// When a wait that may take `within` ends. Waits without an end get a century.
pub(crate) fn deadline(within: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + within.min(CENTURY)
}
