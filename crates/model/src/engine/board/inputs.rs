//! What a step is told: its tokens, and what differs from step to step.

use std::borrow::Cow;
use std::ops::Range;

use wattle_ops::board::{Board, Ptr, StepState};

use super::cutter::Cutter;
use super::error::EngineError;
use super::{Masks, Sequences};

/// Places in turn. While a step reads one, the next step's batch is copied into the other.
pub(super) const N_SLOTS: usize = 2;

/// Where a step finds what it is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// What differs from step to step.
    pub(super) state: Ptr<StepState>,
    /// (b·t)
    pub(super) tokens: Ptr<u32>,
    /// (b·t)
    pub(super) targets: Ptr<u32>,
    /// (b·t): each micro-batch's rows in the order of their tokens, counted within the micro-batch.
    pub(super) order: Ptr<u32>,
    /// (b·t), where targets have weights.
    pub(super) weights: Option<Ptr<f32>>,
    /// (b·t), where sequences hold documents: the row of its sequence at which each row's document starts.
    pub(super) documents: Option<Ptr<u32>>,
    /// Tokens that there is room for.
    len: usize,
}

/// Bytes in front of the tokens.
const STATE_BYTES: usize = 256;
const WORD: usize = size_of::<u32>();

impl Slot {
    /// Cuts room for `len` tokens, and for what `masks` says of each.
    pub(super) fn cut(cutter: &mut Cutter, len: usize, masks: Masks) -> Self {
        let n_arrays = 3 + usize::from(masks.weights) + usize::from(masks.documents);
        let start = cutter.take_bytes(STATE_BYTES + n_arrays * len * WORD);
        let array = |i: usize| start.offset(STATE_BYTES + i * len * WORD);
        let [tokens, targets, order] = [0, 1, 2].map(|i| Ptr::new(array(i)));
        let weights = masks.weights.then(|| Ptr::new(array(3)));
        let documents = masks.documents.then(|| Ptr::new(array(n_arrays - 1)));
        Self { state: Ptr::new(start), tokens, targets, order, weights, documents, len }
    }

    /// Copies it all at once, for as many tokens as there is room for or fewer. The board may still be at work on
    /// another slot. Targets count once each and sequences are one document where nothing else is said.
    pub(super) fn write(
        &self,
        board: &dyn Board,
        state: &[u8],
        sequences: Sequences<'_>,
        order: &[u32],
    ) -> Result<(), EngineError> {
        let Sequences { inputs, targets, weights, documents } = sequences;
        let mut arrays: Vec<Cow<'_, [u32]>> = vec![inputs.into(), targets.into(), order.into()];
        if self.weights.is_some() {
            let bits = |weights: &[f32]| weights.iter().map(|weight| weight.to_bits()).collect();
            arrays.push(weights.map_or_else(|| vec![1f32.to_bits(); inputs.len()], bits).into());
        }
        if self.documents.is_some() {
            arrays.push(documents.map_or_else(|| vec![0; inputs.len()].into(), Cow::from));
        }
        let mut bytes = Vec::with_capacity(STATE_BYTES + arrays.len() * self.len * WORD);
        bytes.extend_from_slice(state);
        bytes.resize(STATE_BYTES, 0);
        for (i, words) in arrays.iter().enumerate() {
            bytes.resize(STATE_BYTES + i * self.len * WORD, 0);
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        Ok(board.write_ahead(self.state.bytes(), &bytes)?)
    }

    /// The same, from token `first` on.
    pub(super) fn from(&self, first: usize) -> Self {
        let [tokens, targets, order] = [self.tokens, self.targets, self.order].map(|words| words.add(first));
        let weights = self.weights.map(|weights| weights.add(first));
        let documents = self.documents.map(|documents| documents.add(first));
        Self { tokens, targets, order, weights, documents, len: self.len - first, ..*self }
    }
}

/// Each micro-batch's rows in the order of their tokens, equals in the order in which they stand: so the rows
/// that add to one row of the token table are neighbours, and always in the same order.
pub(super) fn order_by_token(tokens: &[u32], micro_batches: &[Range<usize>], n_vocab: usize) -> Vec<u32> {
    let mut order = vec![0; tokens.len()];
    for rows in micro_batches {
        sort(&mut order[rows.clone()], &tokens[rows.clone()], n_vocab);
    }
    order
}

/// A counting sort.
fn sort(order: &mut [u32], tokens: &[u32], n_vocab: usize) {
    let mut next = vec![0u32; n_vocab + 1];
    tokens.iter().for_each(|&token| next[token as usize + 1] += 1);
    for token in 0..n_vocab {
        next[token + 1] += next[token];
    }
    for (row, &token) in tokens.iter().enumerate() {
        let place = &mut next[token as usize];
        order[*place as usize] = row as u32;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_token_are_neighbours_in_their_order() {
        let tokens = [3, 1, 3, 0, 1, 1, 0, 3];
        assert_eq!(order_by_token(&tokens, &[0..5, 5..8], 4), [3, 1, 4, 0, 2, 1, 0, 2]);
    }
}
