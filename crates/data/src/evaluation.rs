//! Evaluation batches: windows in order, the same at every evaluation.

use crate::batch::{Batch, check_batch_size};
use crate::error::DataError;
use crate::store::TokenStore;
use crate::windows::Windows;

/// An iterator over the batches of one evaluation.
///
/// With `max_batches` 0, every window of the split in which something is learnt in order, the last batch possibly smaller. Else at most
/// `max_batches` full batches, their windows spread evenly over the split.
#[derive(Clone, Debug)]
pub struct EvalBatches {
    context: usize,
    batch_size: usize,
    /// Windows of the split.
    available: Windows,
    /// Windows evaluated.
    chosen: u64,
    next: u64,
}

impl EvalBatches {
    /// The batches of an evaluation on `store`.
    ///
    /// # Errors
    /// If the split has not one window of `context` + 1 tokens.
    pub fn new(
        store: &TokenStore,
        context: usize,
        batch_size: usize,
        max_batches: usize,
    ) -> Result<Self, DataError> {
        let available = Windows::new(store, context)?;
        check_batch_size(batch_size)?;
        let limit = (max_batches as u64).saturating_mul(batch_size as u64);
        let chosen = if limit == 0 { available.len() } else { available.len().min(limit) };
        Ok(Self { context, batch_size, available, chosen, next: 0 })
    }

    /// Number of tokens that go through the model over all batches; of conversations not all of them count.
    pub fn tokens(&self) -> u64 {
        self.chosen * self.context as u64
    }

    /// The `i`-th window chosen: ⌊i · available / chosen⌋.
    fn window(&self, i: u64) -> u64 {
        let place = u128::from(i) * u128::from(self.available.len()) / u128::from(self.chosen);
        place as u64
    }

    fn remaining(&self) -> u64 {
        (self.chosen - self.next).div_ceil(self.batch_size as u64)
    }
}

impl Iterator for EvalBatches {
    type Item = Result<Batch, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = (self.chosen - self.next).min(self.batch_size as u64) as usize;
        let first = self.next;
        self.next += rows as u64;
        (rows > 0).then(|| {
            let mut batch = Batch::with_room(rows, self.context);
            let mut chosen = (first..first + rows as u64).map(|i| self.window(i));
            chosen.try_for_each(|window| self.available.append(window, &mut batch))?;
            Ok(batch)
        })
    }

    /// Batches that are passed over are not read.
    fn nth(&mut self, n: usize) -> Option<Self::Item> {
        let passed = (n as u64).saturating_mul(self.batch_size as u64);
        self.next = self.next.saturating_add(passed).min(self.chosen);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.remaining() as usize;
        (remaining, Some(remaining))
    }
}

impl ExactSizeIterator for EvalBatches {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::counting_store;

    fn starts(batches: EvalBatches) -> Vec<Vec<u32>> {
        batches.map(|batch| batch.unwrap().inputs.chunks(5).map(|row| row[0] / 5).collect()).collect()
    }

    #[test]
    fn the_whole_split_in_order_with_a_smaller_last_batch() {
        let (_dir, store) = counting_store(7 * 5 + 1, 1000, 10);
        let batches = EvalBatches::new(&store, 5, 3, 0).unwrap();
        assert_eq!((batches.len(), batches.tokens()), (3, 35));
        assert_eq!(starts(batches.clone()), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(starts(EvalBatches::new(&store, 5, 3, 99).unwrap()), starts(batches.clone()));
        let passed = |n: usize| batches.clone().nth(n).map(|batch| batch.unwrap());
        for n in [0, 1, 2, 3, usize::MAX] {
            assert_eq!(
                passed(n),
                batches.clone().map(Result::unwrap).collect::<Vec<_>>().get(n).cloned(),
                "{n}"
            );
        }
    }

    #[test]
    fn a_limited_evaluation_is_spread_over_the_split() {
        let (_dir, store) = counting_store(40 * 5 + 1, 1000, 64);
        let batches = EvalBatches::new(&store, 5, 2, 2).unwrap();
        assert_eq!((batches.len(), batches.tokens()), (2, 20));
        assert_eq!(starts(batches), [vec![0, 10], vec![20, 30]]);
    }

    #[test]
    fn a_split_without_a_window_is_an_error() {
        let (_dir, store) = counting_store(5, 1000, 64);
        assert!(matches!(EvalBatches::new(&store, 5, 2, 0), Err(DataError::TooShort { .. })));
    }
}
