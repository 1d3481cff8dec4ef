//! What tests with random cases have in common: how many there are, and what each draws.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use wattle_random::{Purpose, Stream};

/// The number in the environment variable `variable`, or the size of the sample that every test run takes.
///
/// # Panics
/// If the variable is not a number.
pub fn size(variable: &str, sample: u64) -> u64 {
    std::env::var(variable).map_or(sample, |n| n.parse().unwrap())
}

/// Numbers one after another, always the same for the same seed.
pub struct Draws {
    stream: Stream,
    drawn: u64,
}

impl Draws {
    /// The numbers of one case.
    pub fn new(seed: u64) -> Self {
        Self { stream: Stream::new(seed, Purpose::Order, 0), drawn: 0 }
    }

    /// A number below `n`; 0 if that is 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.drawn += 1;
        self.stream.word(self.drawn) as usize % n.max(1)
    }
}
