//! The calls, whatever carries them.

use std::time::Duration;

use crate::error::DistError;
use crate::place::Place;

/// What ranks tell one another. Every rank makes the same calls in the same order; each call is one of all ranks together.
///
/// No call waits for longer than it is told. Once one has failed, the fabric is of no more use: the ranks have parted, and
/// all that is left is to end.
pub trait Fabric: Send + Sync {
    /// Which rank this is.
    fn place(&self) -> &Place;

    /// What carries the calls, for a person: library and version.
    fn describe(&self) -> String;

    /// Returns once every rank has called it.
    ///
    /// # Errors
    /// If a rank does not answer in time, or has ended.
    fn barrier(&self, within: Duration) -> Result<(), DistError>;

    /// Fills `bytes` with those of rank `root`.
    ///
    /// # Shapes
    /// `bytes` is of one length on all ranks.
    ///
    /// # Errors
    /// As for [`Fabric::barrier`].
    fn broadcast(&self, bytes: &mut [u8], root: usize, within: Duration) -> Result<(), DistError>;

    /// Fills `all` with the bytes of each rank, in the order of ranks.
    ///
    /// # Shapes
    /// `own` is of one length on all ranks; `all` is that times the number of ranks.
    ///
    /// # Errors
    /// As for [`Fabric::barrier`].
    fn all_gather(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError>;

    /// Whether `own` holds on every rank.
    ///
    /// # Errors
    /// As for [`Fabric::barrier`].
    fn all_agree(&self, own: bool, within: Duration) -> Result<bool, DistError> {
        let mut all = vec![0; self.place().world];
        self.all_gather(&[own.into()], &mut all, within)?;
        Ok(all.iter().all(|&answer| answer != 0))
    }

    /// Gives rank 0 the bytes of each rank, whose lengths may differ, in the order of ranks; the others get none.
    ///
    /// # Errors
    /// As for [`Fabric::barrier`].
    fn gather(&self, own: &[u8], within: Duration) -> Result<Option<Vec<Vec<u8>>>, DistError>;

    /// Gives each rank one of the equal pieces of every rank's `own`: piece r of rank s becomes piece s of rank r's `all`.
    ///
    /// # Shapes
    /// Both are of one length on all ranks, a multiple of their number.
    ///
    /// # Errors
    /// As for [`Fabric::barrier`].
    fn exchange(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError>;

    /// Tells the others that this rank cannot go on, and why: a call that they are in, or make next, fails with
    /// [`DistError::Gone`]. Does not wait.
    fn part(&self, reason: &str);

    /// Ends this process, and the others as far as the launcher sees to that, without waiting for anybody.
    fn abort(&self, exit_code: u8) -> !;
}
