//! What goes wrong between ranks.

use std::time::Duration;

/// Ranks could not find one another, or parted.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// Some ranks did not answer.
    #[error("{} did not answer within {:.0} s: {operation}", ranks(.silent), .waited.as_secs_f64())]
    Silent {
        /// Those that did not answer, as far as that could be found out; else empty.
        silent: Vec<usize>,
        /// What was waited for.
        operation: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// A rank has ended, or said that it cannot go on.
    #[error("{} has ended: {reason}", ranks(.gone))]
    Gone {
        /// Those that have ended, as far as known.
        gone: Vec<usize>,
        /// What is known of it.
        reason: String,
    },
}

/// Ranks for a person: `ranks 1 and 3`.
fn ranks(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
    match numbers.as_slice() {
        [] => String::from("a rank"),
        [one] => format!("rank {one}"),
        [others @ .., last] => format!("ranks {} and {last}", others.join(", ")),
    }
}
