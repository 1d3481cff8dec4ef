//! The other processes that a launcher started beside this one.

use std::time::Duration;

use wattle_dist::{Launched, connect};
use wattle_session::SessionError;
use wattle_train::Ranks;

/// How long ranks may take to find one another.
const START: Duration = Duration::from_secs(300);

/// Whether a launcher started this process as another rank than the first: what there is to say, that one says.
pub fn is_follower() -> bool {
    Launched::here().ok().flatten().is_some_and(|launched| launched.rank > 0)
}

/// Ranks on this machine, this one included.
pub fn local_world() -> usize {
    Launched::here().ok().flatten().and_then(|launched| launched.local_world).unwrap_or(1)
}

/// Finds the other ranks. In training each waits for the others for `deadline_s`.
///
/// # Errors
/// If a launcher started this process and the others cannot be reached.
pub fn find(deadline_s: f64) -> Result<Ranks, SessionError> {
    match connect(START) {
        Ok(fabric) => Ok(Ranks::new(fabric, Duration::from_secs_f64(deadline_s))),
        // It is wrong on all of them.
        Err(_) if is_follower() => Err(SessionError::ToldByLeader { is_usage: true }),
        Err(error) => Err(SessionError::config(error.to_string())),
    }
}
