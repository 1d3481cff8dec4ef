//! Documents in windows: which of them lie together.
//!
//! A document longer than a window is cut into pieces of a whole window and a rest. Pieces are packed longest first, each
//! into the fullest window that has room for it (best-fit decreasing). That is a function of the documents' lengths, so
//! windows are the same in every epoch and at a resume, and only their order is drawn.
//!
//! # References
//! Ding et al., *Fewer Truncations Improve Language Modeling*, 2024, section 3. Krell et al., *Efficient Sequence Packing
//! without Cross-contamination*, 2021, section 3.1.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::DataError;

wattle_settings::choices! {
    /// How documents become windows.
    pub enum Packing (default None) {
        /// One after the other, cut anywhere; attention crosses their bounds.
        None = "none",
        /// Whole documents, as many as fit in a window, each seen by itself; what is left is padding.
        Documents = "documents",
        /// One document in a window, the rest of which is padding.
        Padded = "padded",
    }
}

/// How the windows of a split are made of its documents, and those that were made last.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    is_padded: bool,
    /// The token that ends each document.
    pub(crate) end: u32,
    /// How many documents there are, where that is known.
    pub(crate) n_documents: Option<u64>,
    made: Arc<Mutex<Option<(usize, Arc<Bins>)>>>,
}

impl Packed {
    /// Of documents that end with `end`; `None` where they are not kept apart.
    pub(crate) fn new(packing: Packing, end: u32, n_documents: Option<u64>) -> Option<Self> {
        let is_padded = packing == Packing::Padded;
        (packing != Packing::None).then(|| Self { is_padded, end, n_documents, made: Arc::default() })
    }

    /// Windows of `context` rows: those made before, or of the `pieces` of all documents.
    pub(crate) fn bins(
        &self,
        context: usize,
        pieces: impl FnOnce() -> Result<Pieces, DataError>,
    ) -> Result<Arc<Bins>, DataError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bins)) = made.as_ref().filter(|(of, _)| *of == context) {
            return Ok(Arc::clone(bins));
        }
        let pieces = pieces()?;
        let bins =
            Arc::new(if self.is_padded { Bins::padded(pieces) } else { Bins::packed(pieces, context) });
        *made = Some((context, Arc::clone(&bins)));
        Ok(bins)
    }
}

/// A stretch of a document within one window: neighbouring targets, each with the token before it as input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where in the split its first target is.
    pub first_target: u64,
    /// Number of targets.
    pub len: usize,
}

/// The pieces of all documents, in order.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first_targets: Vec<u64>,
    lens: Vec<u32>,
}

impl Pieces {
    /// Adds a document's targets, at most `context` to a piece; pieces that are not `worth` it are left out.
    pub(crate) fn add(&mut self, targets: Range<u64>, context: usize, mut worth: impl FnMut(Piece) -> bool) {
        for first_target in targets.clone().step_by(context) {
            let len = (targets.end - first_target).min(context as u64);
            if worth(Piece { first_target, len: len as usize }) {
                self.first_targets.push(first_target);
                self.lens.push(len as u32);
            }
        }
    }
}

/// Windows, and the pieces in each.
#[derive(Debug, PartialEq)]
pub(crate) struct Bins {
    /// Of all pieces, window after window.
    first_targets: Vec<u64>,
    lens: Vec<u32>,
    /// Which piece is the first of each window, and how many there are in all.
    starts: Vec<usize>,
}

impl Bins {
    /// A window for each piece.
    fn padded(Pieces { first_targets, lens }: Pieces) -> Self {
        Self { starts: (0..=lens.len()).collect(), first_targets, lens }
    }

    /// As few windows of `context` rows as best-fit decreasing finds.
    fn packed(pieces: Pieces, context: usize) -> Self {
        let (window_of, n_windows) = best_fit(&pieces.lens, context);
        let mut starts = vec![0; n_windows + 1];
        window_of.iter().for_each(|&window| starts[window as usize + 1] += 1);
        for window in 0..n_windows {
            starts[window + 1] += starts[window];
        }
        let mut next = starts.clone();
        let (mut first_targets, mut lens) = (vec![0; pieces.lens.len()], vec![0; pieces.lens.len()]);
        for (piece, window) in window_of.into_iter().enumerate() {
            let place = &mut next[window as usize];
            (first_targets[*place], lens[*place]) = (pieces.first_targets[piece], pieces.lens[piece]);
            *place += 1;
        }
        Self { first_targets, lens, starts }
    }

    /// Number of windows.
    pub(crate) fn len(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// The pieces of window `i`, in the order of their documents.
    pub(crate) fn pieces(&self, i: u64) -> impl Iterator<Item = Piece> {
        let pieces = self.starts[i as usize]..self.starts[i as usize + 1];
        let lens = self.lens[pieces.clone()].iter().map(|&len| len as usize);
        self.first_targets[pieces].iter().zip(lens).map(|(&first_target, len)| Piece { first_target, len })
    }

    /// Rows of window `i` that are no padding.
    pub(crate) fn filled(&self, i: u64) -> u64 {
        self.pieces(i).map(|piece| piece.len as u64).sum()
    }
}

/// The window of each piece, and the number of windows.
fn best_fit(lens: &[u32], context: usize) -> (Vec<u32>, usize) {
    let mut by_len: Vec<u32> = (0..lens.len() as u32).collect();
    by_len.sort_by_key(|&piece| std::cmp::Reverse(lens[piece as usize]));
    // Windows by the room that is left in them.
    let mut open: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let (mut window_of, mut n_windows) = (vec![0; lens.len()], 0);
    for piece in by_len {
        let len = lens[piece as usize];
        let fullest = open.range_mut(len..).next().and_then(|(&room, windows)| Some((room, windows.pop()?)));
        let (room, window) = fullest.unwrap_or((context as u32, n_windows));
        n_windows = n_windows.max(window + 1);
        if open.get(&room).is_some_and(Vec::is_empty) {
            open.remove(&room);
        }
        if room > len {
            open.entry(room - len).or_default().push(window);
        }
        window_of[piece as usize] = window;
    }
    (window_of, n_windows as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lens: &[u64], context: usize) -> Pieces {
        let mut pieces = Pieces::default();
        let mut at = 0;
        for len in lens {
            pieces.add(at..at + len, context, |_| true);
            at += len;
        }
        pieces
    }

    fn lens(bins: &Bins) -> Vec<Vec<usize>> {
        (0..bins.len()).map(|i| bins.pieces(i).map(|piece| piece.len).collect()).collect()
    }

    #[test]
    fn the_longest_go_first_each_into_the_fullest_window_with_room() {
        let bins = Bins::packed(of(&[3, 7, 4, 6, 1, 23], 10), 10);
        assert_eq!(lens(&bins), [vec![10], vec![10], vec![3, 7], vec![4, 6], vec![1, 3]]);
        assert_eq!(bins.filled(4), 4);
        let rest = bins.pieces(4).last().unwrap();
        assert_eq!(rest, Piece { first_target: 3 + 7 + 4 + 6 + 1 + 20, len: 3 });
        assert_eq!(lens(&Bins::padded(of(&[3, 12], 10))), [[3], [10], [2]]);
    }

    proptest! {
        #[test]
        fn every_target_lies_in_one_window_and_no_two_could_be_one(
            documents in proptest::collection::vec(1u64..60, 1..80),
            context in 1usize..40,
        ) {
            let bins = Bins::packed(of(&documents, context), context);
            let mut targets: Vec<u64> = (0..bins.len())
                .flat_map(|i| bins.pieces(i).collect::<Vec<_>>())
                .flat_map(|piece| piece.first_target..piece.first_target + piece.len as u64)
                .collect();
            targets.sort_unstable();
            prop_assert_eq!(targets, (0..documents.iter().sum()).collect::<Vec<_>>());
            let mut filled: Vec<u64> = (0..bins.len()).map(|i| bins.filled(i)).collect();
            filled.sort_unstable();
            prop_assert!(filled.last() <= Some(&(context as u64)));
            if let [first, second, ..] = filled[..] {
                prop_assert!(first + second > context as u64, "{filled:?} of {context}");
            }
            prop_assert_eq!(&bins, &Bins::packed(of(&documents, context), context));
        }
    }
}
