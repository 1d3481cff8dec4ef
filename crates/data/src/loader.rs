//! Training batches as a pure function of seed, epoch, step and rank.
//!
//! The loader has no state: a resumed run asks for the step it is at and gets what it would have got.

use std::ops::Range;

use wattle_random::Permutation;

use crate::error::DataError;
use crate::store::TokenStore;
use crate::windows::Windows;

/// Token ids of `batch_size` sequences of `context` tokens, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the model reads, `[batch_size, context]`.
    pub inputs: Vec<u32>,
    /// What it is to predict, `[batch_size, context]`: the inputs shifted by one.
    pub targets: Vec<u32>,
    /// How much each target counts, `[batch_size, context]`: finite and at least 0, where 0 leaves it out. Absent, each
    /// counts once.
    pub weights: Option<Vec<f32>>,
    /// For each token the position in its sequence at which its document starts, `[batch_size, context]`. No token sees
    /// one of another document. Absent, each sequence is one document.
    pub documents: Option<Vec<u32>>,
    /// Number of sequences.
    pub batch_size: usize,
    /// Tokens of a sequence.
    pub context: usize,
}

impl Batch {
    /// A batch in which each target counts once and each sequence is one document.
    pub fn plain(inputs: Vec<u32>, targets: Vec<u32>, batch_size: usize, context: usize) -> Self {
        Self { inputs, targets, weights: None, documents: None, batch_size, context }
    }

    /// The first `n` sequences.
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        self.batch_size = self.batch_size.min(n);
        let len = self.batch_size * self.context;
        self.inputs.truncate(len);
        self.targets.truncate(len);
        self.weights.iter_mut().for_each(|weights| weights.truncate(len));
        self.documents.iter_mut().for_each(|documents| documents.truncate(len));
        self
    }

    /// The batch of the windows with these indices.
    pub(crate) fn of_windows(
        store: &TokenStore,
        context: usize,
        windows: impl ExactSizeIterator<Item = u64> + Clone,
    ) -> Result<Self, DataError> {
        let masked = windows.clone();
        let batch_size = windows.len();
        let mut inputs = Vec::with_capacity(batch_size * context);
        let mut targets = Vec::with_capacity(batch_size * context);
        let mut window = vec![0; context + 1];
        for window_idx in windows {
            store.read(window_idx * context as u64, &mut window)?;
            inputs.extend_from_slice(&window[..context]);
            targets.extend_from_slice(&window[1..]);
        }
        Ok(Self::plain(inputs, targets, batch_size, context).with_masks(store, masked))
    }

    /// The same with the masks of the windows that it is of, if there are any.
    fn with_masks(mut self, store: &TokenStore, windows: impl Iterator<Item = u64>) -> Self {
        if store.has_mask() {
            let mut weights = Vec::with_capacity(self.targets.len());
            let mut mask = vec![false; self.context];
            for window_idx in windows {
                store.read_mask(window_idx * self.context as u64 + 1, &mut mask);
                weights.extend(mask.iter().map(|&is_learnt| f32::from(u8::from(is_learnt))));
            }
            self.weights = Some(weights);
        }
        self
    }

    /// Number of tokens to predict, those that do not count too.
    pub fn tokens(&self) -> u64 {
        self.targets.len() as u64
    }

    /// Number of targets that count.
    pub fn counted(&self) -> u64 {
        match &self.weights {
            Some(weights) => weights.iter().filter(|&&weight| weight > 0.0).count() as u64,
            None => self.tokens(),
        }
    }
}

/// Cuts the training split into batches.
#[derive(Clone, Debug)]
pub struct Loader {
    store: TokenStore,
    context: usize,
    batch_size: usize,
    seed: u64,
    windows: Windows,
    rank: usize,
    world_size: usize,
}

impl Loader {
    /// A loader of batches of `batch_size` sequences of `context` tokens, in an order drawn from `seed`.
    ///
    /// # Errors
    /// If the split has not one window, or an epoch not one batch.
    pub fn new(store: &TokenStore, context: usize, batch_size: usize, seed: u64) -> Result<Self, DataError> {
        let windows = Windows::new(store, context)?;
        check_batch_size(batch_size)?;
        if windows.len() < batch_size as u64 {
            let (source_name, windows) = (store.source().to_owned(), windows.len());
            return Err(DataError::NoSteps { source_name, windows, batch_size });
        }
        Ok(Self { store: store.clone(), context, batch_size, seed, windows, rank: 0, world_size: 1 })
    }

    /// The part of one rank: of every batch, its `rank`-th of `world_size` equal parts.
    ///
    /// # Errors
    /// If the batch does not divide by the ranks, or there is no such rank.
    pub fn for_rank(self, rank: usize, world_size: usize) -> Result<Self, DataError> {
        if rank >= world_size {
            let expected = format!("below the number of ranks, {world_size}");
            return Err(DataError::Argument { name: "rank", expected, got: rank.to_string() });
        }
        if !self.batch_size.is_multiple_of(world_size) {
            let expected = format!("a multiple of the number of ranks, {world_size}");
            let got = self.batch_size.to_string();
            return Err(DataError::Argument { name: "train.batch_size", expected, got });
        }
        Ok(Self { rank, world_size, ..self })
    }

    /// Batches of an epoch; the last short one is dropped.
    pub fn steps_per_epoch(&self) -> u64 {
        self.windows.len() / self.batch_size as u64
    }

    /// Tokens that go through the model in one step, over all ranks; of conversations not all of them are learnt.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch_size * self.context) as u64
    }

    /// Windows of the split in which something is learnt.
    pub fn windows(&self) -> u64 {
        self.windows.len()
    }

    /// Targets that count in the batch at `step_in_epoch`, over all ranks.
    ///
    /// # Errors
    /// If the epoch has no such step.
    pub fn counted(&self, epoch: u64, step_in_epoch: u64) -> Result<u64, DataError> {
        self.check_step(step_in_epoch)?;
        if !self.store.has_mask() {
            return Ok(self.tokens_per_step());
        }
        let (mut mask, mut counted) = (vec![false; self.context], 0);
        for window_idx in self.chosen(epoch, step_in_epoch, 0..self.batch_size) {
            self.store.read_mask(window_idx * self.context as u64 + 1, &mut mask);
            counted += mask.iter().filter(|&&is_learnt| is_learnt).count() as u64;
        }
        Ok(counted)
    }

    /// This rank's part of the batch at `step_in_epoch`, counted from 0.
    ///
    /// # Errors
    /// If the epoch has no such step, or a shard is damaged.
    pub fn batch(&self, epoch: u64, step_in_epoch: u64) -> Result<Batch, DataError> {
        self.check_step(step_in_epoch)?;
        let local = self.batch_size / self.world_size;
        let rows = self.rank * local..(self.rank + 1) * local;
        Batch::of_windows(&self.store, self.context, self.chosen(epoch, step_in_epoch, rows))
    }

    /// The windows of some rows of a batch.
    fn chosen(
        &self,
        epoch: u64,
        step_in_epoch: u64,
        rows: Range<usize>,
    ) -> impl ExactSizeIterator<Item = u64> + Clone {
        let first = step_in_epoch * self.batch_size as u64;
        let order = Permutation::new(self.seed, epoch, self.windows.len());
        rows.map(move |row| self.windows.at(order.at(first + row as u64)))
    }

    fn check_step(&self, step_in_epoch: u64) -> Result<(), DataError> {
        let steps = self.steps_per_epoch();
        if step_in_epoch >= steps {
            let expected = format!("below the {steps} steps of an epoch");
            let got = step_in_epoch.to_string();
            return Err(DataError::Argument { name: "step_in_epoch", expected, got });
        }
        Ok(())
    }
}

/// That a batch has at least one sequence.
pub(crate) fn check_batch_size(batch_size: usize) -> Result<(), DataError> {
    if batch_size > 0 {
        return Ok(());
    }
    let expected = "at least 1".to_owned();
    Err(DataError::Argument { name: "train.batch_size", expected, got: batch_size.to_string() })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::store::tests::counting_store;

    #[test]
    fn every_window_comes_once_an_epoch_and_targets_are_shifted() {
        let (_dir, store) = counting_store(10 * 7 + 1, 1000, 16);
        let loader = Loader::new(&store, 7, 2, 3).unwrap();
        assert_eq!((loader.windows(), loader.steps_per_epoch(), loader.tokens_per_step()), (10, 5, 14));
        let mut orders = HashSet::new();
        for epoch in 0..4 {
            let mut starts = Vec::new();
            for step in 0..loader.steps_per_epoch() {
                let batch = loader.batch(epoch, step).unwrap();
                assert_eq!((batch.batch_size, batch.context, batch.tokens()), (2, 7, 14));
                for (input, target) in batch.inputs.chunks(7).zip(batch.targets.chunks(7)) {
                    assert_eq!(input, (input[0]..input[0] + 7).collect::<Vec<_>>());
                    assert_eq!(target, (input[0] + 1..input[0] + 8).collect::<Vec<_>>());
                    starts.push(input[0]);
                }
            }
            orders.insert(starts.clone());
            starts.sort_unstable();
            assert_eq!(starts, (0..10).map(|i| i * 7).collect::<Vec<_>>());
        }
        assert_eq!(orders.len(), 4, "epochs repeat an order");
    }

    #[test]
    fn a_step_asked_for_again_is_the_same() {
        let (_dir, store) = counting_store(500, 1000, 100);
        let loader = || Loader::new(&store, 8, 4, 11).unwrap();
        let run: Vec<Batch> = (0..10).map(|step| loader().batch(1, step).unwrap()).collect();
        assert_eq!(loader().batch(1, 7).unwrap(), run[7]);
        assert_ne!(Loader::new(&store, 8, 4, 12).unwrap().batch(1, 7).unwrap(), run[7]);
    }

    #[test]
    fn the_last_short_batch_is_dropped() {
        let (_dir, store) = counting_store(11 * 5 + 3, 1000, 100);
        let loader = Loader::new(&store, 5, 4, 0).unwrap();
        assert_eq!((loader.windows(), loader.steps_per_epoch()), (11, 2));
        assert!(loader.batch(0, 2).unwrap_err().to_string().contains("below the 2 steps"));
    }

    #[test]
    fn ranks_partition_a_batch() {
        let (_dir, store) = counting_store(400, 1000, 100);
        let whole = Loader::new(&store, 6, 6, 5).unwrap();
        let ranks: Vec<_> = (0..3).map(|rank| whole.clone().for_rank(rank, 3).unwrap()).collect();
        for step in 0..whole.steps_per_epoch() {
            let parts: Vec<u32> = ranks.iter().flat_map(|rank| rank.batch(2, step).unwrap().inputs).collect();
            assert_eq!(parts, whole.batch(2, step).unwrap().inputs);
        }
        assert!(whole.clone().for_rank(3, 3).is_err());
        assert!(whole.for_rank(0, 4).unwrap_err().to_string().starts_with("train.batch_size = 6"));
    }

    #[test]
    fn what_cannot_be_trained_on_names_the_keys() {
        let (_dir, store) = counting_store(50, 1000, 100);
        assert!(matches!(Loader::new(&store, 50, 1, 0), Err(DataError::TooShort { .. })));
        let error = Loader::new(&store, 10, 5, 0).unwrap_err().to_string();
        assert!(error.contains("4 windows") && error.contains("train.batch_size = 5"), "{error}");
        assert!(Loader::new(&store, 10, 0, 0).is_err());
    }
}
