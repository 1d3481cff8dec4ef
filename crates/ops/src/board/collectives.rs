//! What the boards of several ranks do together.

use std::time::Duration;

use super::{BoardError, DevicePtr, Ptr};

/// Part of a buffer, and the rank that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Where it lies.
    pub at: DevicePtr,
    /// Its length.
    pub n_bytes: usize,
    /// The rank.
    pub owner: usize,
}

/// Sums and copies between the boards of all ranks, beside each board's own work. All ranks issue the same, in the same
/// order, and what is issued while a board records is recorded too.
///
/// Collectives have an order of their own, which [`Collectives::fork`] and [`Collectives::join`] tie to that of the
/// board's work.
pub trait Collectives: Send + Sync {
    /// Which rank this board belongs to.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world(&self) -> usize;

    /// Collectives from here on wait for the board's work so far.
    ///
    /// # Errors
    /// If the device fails.
    fn fork(&self) -> Result<(), BoardError>;

    /// The board's work from here on waits for the collectives so far.
    ///
    /// # Errors
    /// If the device fails, or a rank has not taken part in time.
    fn join(&self) -> Result<(), BoardError>;

    /// Replaces this rank's part of `x` by its sum over ranks. The other parts stay as they are.
    ///
    /// # Shapes
    /// `x` (world, n), of which row r is rank r's part.
    ///
    /// # Errors
    /// If the device or the library fails, or a rank has not taken part in time.
    fn reduce_scatter(&self, x: Ptr<f32>, n: usize) -> Result<(), BoardError>;

    /// Gives all ranks each rank's part of `x`.
    ///
    /// # Shapes
    /// `x` (world, n_bytes), of which row r is rank r's part.
    ///
    /// # Errors
    /// As for [`Collectives::reduce_scatter`].
    fn all_gather(&self, x: DevicePtr, n_bytes: usize) -> Result<(), BoardError>;

    /// Replaces each of `parts`, all of `f32`, by its sum over ranks where its owner has it. What the other ranks have of it
    /// is of no use afterwards.
    ///
    /// # Errors
    /// As for [`Collectives::reduce_scatter`].
    fn reduce(&self, parts: &[Owned]) -> Result<(), BoardError>;

    /// Gives all ranks each of `parts` as its owner has it.
    ///
    /// # Errors
    /// As for [`Collectives::reduce_scatter`].
    fn broadcast(&self, parts: &[Owned]) -> Result<(), BoardError>;

    /// Whether `own` holds on every rank. It is asked at once, and cannot be recorded.
    ///
    /// # Errors
    /// If a rank does not answer in time.
    fn all_agree(&self, own: bool) -> Result<bool, BoardError>;

    /// How long to wait for other ranks from now on.
    fn set_deadline(&self, within: Duration);
}
