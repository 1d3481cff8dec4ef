//! Launches that are made again and again with the same arguments.

use wattle_ops::board::Board;

use super::error::EngineError;

/// What is known of some launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    NotYet,
    As(usize),
    /// The board cannot: launches are made one by one.
    Failed,
}

/// Records what `issue` launches, for [`Board::replay`].
///
/// # Errors
/// If the board cannot record it.
pub(super) fn record(
    board: &dyn Board,
    issue: impl FnOnce() -> Result<(), EngineError>,
) -> Result<usize, EngineError> {
    board.begin_record()?;
    let issued = issue();
    let ended = board.end_record().map_err(EngineError::from);
    issued.and(ended)
}
