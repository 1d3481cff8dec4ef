//! Which source each window of a mixture is from.
//!
//! Of every first n windows, source k has n · shareₖ / Σ shares to within less than one window: Tijdeman's rule for
//! the chairman assignment problem, whose error is at most 1 − 1 / (2K − 2) for K sources. It is a function of the
//! shares alone and repeats after Σ shares windows.
//!
//! # References
//! Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980), 323–330.

use std::sync::{Mutex, PoisonError};

/// The order of a mixture's sources.
#[derive(Debug)]
pub(crate) struct Schedule {
    shares: Vec<u64>,
    total: u64,
    /// Where it was last followed to, so that what comes next need not be counted from the beginning.
    cursor: Mutex<Cursor>,
}

/// A place in the schedule: how many windows each source had before it.
#[derive(Clone, Debug)]
struct Cursor {
    position: u64,
    counts: Vec<u64>,
}

/// A window: its source, and how many windows of the same source came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub source: usize,
    pub ordinal: u64,
}

impl Clone for Schedule {
    fn clone(&self) -> Self {
        Self::new(self.shares.clone())
    }
}

impl Schedule {
    /// The schedule of sources with these shares, all above 0.
    pub(crate) fn new(shares: Vec<u64>) -> Self {
        let total = shares.iter().sum();
        let cursor = Mutex::new(Cursor { position: 0, counts: vec![0; shares.len()] });
        Self { shares, total, cursor }
    }

    /// The `n` windows from number `first` on.
    pub(crate) fn turns(&self, first: u64, n: usize) -> Vec<Turn> {
        let mut cursor = self.at(first);
        let turns = (0..n)
            .map(|_| {
                let source = self.next(&cursor);
                let ordinal = cursor.counts[source];
                cursor.counts[source] += 1;
                cursor.position += 1;
                Turn { source, ordinal }
            })
            .collect();
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = cursor;
        turns
    }

    /// Each source's part of all windows.
    pub(crate) fn parts(&self) -> impl Iterator<Item = f64> {
        self.shares.iter().map(|share| *share as f64 / self.total as f64)
    }

    /// The place before window `position`.
    fn at(&self, position: u64) -> Cursor {
        let known = self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // After a whole period, every source had its share.
        let periods = position / self.total;
        let whole = Cursor {
            position: periods * self.total,
            counts: self.shares.iter().map(|share| periods * share).collect(),
        };
        let mut cursor = if (whole.position..=position).contains(&known.position) { known } else { whole };
        while cursor.position < position {
            let source = self.next(&cursor);
            cursor.counts[source] += 1;
            cursor.position += 1;
        }
        cursor
    }

    /// The source whose turn it is: of those that may be given a window without having too many, the one that would
    /// first have too few.
    fn next(&self, cursor: &Cursor) -> usize {
        let (total, n) = (i128::from(self.total), i128::from(cursor.position) + 1);
        let bound = 2 * self.shares.len() as i128 - 2;
        let places = self.shares.iter().zip(&cursor.counts).enumerate();
        // In units of 1 / (total · bound): how much a source is due after this window, if it does not get it.
        let due = places.map(|(source, (share, count))| {
            (source, i128::from(*share), (i128::from(*share) * n - total * i128::from(*count)) * bound)
        });
        let may_have_it = due.filter(|(.., due)| *due >= total);
        let deadline = |due: i128| total * (bound - 1) - due;
        let first = may_have_it.min_by(|a, b| (deadline(a.2) * b.1).cmp(&(deadline(b.2) * a.1)));
        first.map_or(0, |(source, ..)| source)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_first_windows_have_each_source_to_within_less_than_one(
            shares in proptest::collection::vec(1u64..200, 1..7),
            from in 0u64..5000,
        ) {
            let total: u64 = shares.iter().sum();
            let schedule = Schedule::new(shares.clone());
            let mut counts = vec![0u64; shares.len()];
            for n in 0..2 * total + 3 {
                let turn = schedule.turns(n, 1)[0];
                prop_assert_eq!(turn.ordinal, counts[turn.source]);
                counts[turn.source] += 1;
                for (count, share) in counts.iter().zip(&shares) {
                    let error = i128::from(count * total) - i128::from((n + 1) * share);
                    prop_assert!(error.unsigned_abs() < u128::from(total), "{shares:?} {n} {counts:?}");
                }
            }
            // Asked for at any place, it is the same.
            let whole = Schedule::new(shares.clone()).turns(0, (from % (2 * total)) as usize + 5);
            let late = Schedule::new(shares).turns(from % (2 * total), 5);
            prop_assert_eq!(&whole[whole.len() - 5..], &late[..]);
            prop_assert_eq!(&schedule.turns(from % (2 * total), 5)[..], &late[..]);
        }
    }

    #[test]
    fn large_shares_do_not_overflow() {
        let shares = vec![999_999_999_999_999, 1, 123_456_789_012];
        let schedule = Schedule::new(shares);
        assert_eq!(schedule.turns(0, 1000).iter().filter(|turn| turn.source == 1).count(), 0);
    }
}
