//! How a batch is divided among threads.

use std::ops::Range;

/// Fewest rows of a slice: a matrix product of fewer is summed in another order.
const MIN_ROWS: usize = 16;
/// The `gemm` crate sums products of at most so many elements in another order than larger ones.
const SMALL_PRODUCT: usize = 256;
/// Rows of a slice that are enough for matrix products to run at full speed.
const FULL_ROWS: usize = 256;
/// Slices of a thread at most. With several, one that was held up leaves work to the others.
const MAX_PER_THREAD: usize = 4;

/// A batch cut between sequences, into parts that differ by one sequence at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slices {
    n_sequences: usize,
    len: usize,
}

impl Slices {
    /// Slices of `n_sequences` sequences of `t` rows for `n_threads` threads, in a network whose narrowest row has
    /// `narrowest` numbers: as few as it takes for each product of a slice to be summed as that of all sequences is.
    pub(super) fn new(n_sequences: usize, t: usize, narrowest: usize, n_threads: usize) -> Self {
        let least_rows = (SMALL_PRODUCT / narrowest + 1).max(MIN_ROWS);
        let most = n_sequences / least_rows.div_ceil(t);
        let per_thread = (n_sequences * t / (n_threads * FULL_ROWS)).clamp(1, MAX_PER_THREAD);
        Self { n_sequences, len: (n_threads * per_thread).min(most).max(1) }
    }

    /// All sequences in one.
    pub(super) fn whole(n_sequences: usize) -> Self {
        Self { n_sequences, len: 1 }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The sequences of each slice.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let Self { n_sequences, len } = *self;
        (0..len).map(move |i| i * n_sequences / len..(i + 1) * n_sequences / len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_rows_make_slices_longer() {
        for (n_sequences, narrowest, expected) in
            [(2, 16, 1), (3, 16, 1), (4, 16, 2), (8, 16, 4), (8, 8, 2), (8, 17, 4)]
        {
            assert_eq!(
                Slices::new(n_sequences, 16, narrowest, 4).len(),
                expected,
                "{n_sequences} of {narrowest}"
            );
        }
    }

    #[test]
    fn slices_are_whole_sequences_of_enough_rows_and_leave_none_out() {
        for (n_sequences, t, n_threads) in
            [(12, 64, 2), (8, 256, 2), (5, 12, 2), (1, 3, 8), (64, 1, 3), (7, 17, 16)]
        {
            let slices = Slices::new(n_sequences, t, 64, n_threads);
            let ranges: Vec<_> = slices.ranges().collect();
            assert_eq!(ranges.len(), slices.len());
            assert_eq!((ranges[0].start, ranges[ranges.len() - 1].end), (0, n_sequences));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(
                ranges.len() == 1 || ranges.iter().all(|range| range.len() * t >= MIN_ROWS),
                "{ranges:?}"
            );
            let sizes = || ranges.iter().map(Range::len);
            assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1, "{ranges:?}");
        }
        assert_eq!(Slices::new(12, 64, 64, 2).len(), 2);
        assert_eq!(Slices::new(8, 256, 64, 2).len(), 8);
    }
}
