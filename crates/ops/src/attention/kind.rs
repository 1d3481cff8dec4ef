//! Which keys a query sees.

use std::ops::Range;

/// Which positions of its sequence, or of its document within it, a query sees.
///
/// A sequence may hold several documents one after the other. An operation is then given `documents`: for each of the t
/// rows of a sequence, the row at which its document starts. No query sees a position of another document.
///
/// # References
/// Window: Beltagy et al., *Longformer*, 2020, section 3.1; as in Jiang et al., *Mistral 7B*, 2023, section 2.
/// Documents: Krell et al., *Efficient Sequence Packing without Cross-contamination*, 2021, section 3.2.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Itself and all positions before it: `j ≤ i`.
    #[default]
    Causal,
    /// All positions.
    Full,
    /// The last w positions up to and including itself, w at least 1: `i − w < j ≤ i`.
    Window(usize),
}

impl Kind {
    /// The keys that the query of a row sees: at least one, in one range. Neither end of the range falls from one row to
    /// the next.
    ///
    /// `row` may be t or more, since kernels take several rows at once: such a row belongs to the last row's document.
    #[inline(always)]
    pub(crate) fn keys(self, row: usize, t: usize, documents: Option<&[u32]>) -> Range<usize> {
        let start = documents.map_or(0, |documents| documents[row.min(t - 1)] as usize);
        match self {
            Self::Causal => start..row + 1,
            Self::Window(window) => start.max((row + 1).saturating_sub(window))..row + 1,
            Self::Full => match documents {
                None => 0..t,
                Some(documents) => start..documents.partition_point(|&other| other as usize <= start),
            },
        }
    }

    /// The kind as kernels of a board take it, for a sequence of `t` positions: a window, which is t for causal attention,
    /// or 0 for full attention.
    pub(crate) fn window(self, t: usize) -> usize {
        match self {
            Self::Causal => t,
            Self::Full => 0,
            Self::Window(window) => window.min(t),
        }
    }

    /// Checks that a window sees something, and that documents follow one another in `b` whole sequences of `t` rows.
    ///
    /// # Panics
    /// If they do not.
    pub(crate) fn check(self, b: usize, t: usize, documents: Option<&[u32]>) {
        assert!(self != Self::Window(0), "a window of 0 positions sees nothing: expected at least 1");
        let Some(documents) = documents else { return };
        assert_eq!(documents.len(), b * t, "one start of a document for each row");
        for (sequence, starts) in documents.chunks_exact(t).enumerate() {
            let mut before = 0;
            for (row, &start) in starts.iter().enumerate() {
                assert!(
                    start as usize == row || row > 0 && start == before,
                    "sequence {sequence}, row {row}: its document starts at {start}; expected {row} or that of the \
                     row before"
                );
                before = start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_sees_one_range() {
        let documents = [0, 0, 0, 3, 4, 4];
        let keys = |kind: Kind, documents: Option<&[u32]>| {
            (0..6).map(|row| kind.keys(row, 6, documents)).collect::<Vec<_>>()
        };
        assert_eq!(keys(Kind::Causal, None), [0..1, 0..2, 0..3, 0..4, 0..5, 0..6]);
        assert_eq!(keys(Kind::Window(2), None), [0..1, 0..2, 1..3, 2..4, 3..5, 4..6]);
        assert_eq!(keys(Kind::Full, None), vec![0..6; 6]);
        assert_eq!(keys(Kind::Causal, Some(&documents)), [0..1, 0..2, 0..3, 3..4, 4..5, 4..6]);
        assert_eq!(keys(Kind::Window(2), Some(&documents)), [0..1, 0..2, 1..3, 3..4, 4..5, 4..6]);
        assert_eq!(keys(Kind::Full, Some(&documents)), [0..3, 0..3, 0..3, 3..4, 4..6, 4..6]);
    }

    #[test]
    fn ends_never_fall_past_the_last_row() {
        let documents = [0, 0, 0, 3, 4, 4];
        for kind in [Kind::Causal, Kind::Full, Kind::Window(1), Kind::Window(3), Kind::Window(9)] {
            for documents in [None, Some(&documents[..])] {
                let keys: Vec<_> = (0..8).map(|row| kind.keys(row, 6, documents)).collect();
                let rise =
                    |pair: &[Range<usize>]| pair[0].start <= pair[1].start && pair[0].end <= pair[1].end;
                assert!(keys.windows(2).all(rise), "{kind:?} {keys:?}");
                assert!(keys.iter().all(|keys| !keys.is_empty()), "{kind:?} {keys:?}");
            }
        }
    }

    #[test]
    #[should_panic(
        expected = "sequence 1, row 2: its document starts at 1; expected 2 or that of the row before"
    )]
    fn a_document_that_starts_within_another_is_refused() {
        Kind::Causal.check(2, 3, Some(&[0, 0, 2, 0, 0, 1]));
    }

    #[test]
    #[should_panic(expected = "a window of 0 positions")]
    fn a_window_of_nothing_is_refused() {
        Kind::Window(0).check(1, 3, None);
    }
}
