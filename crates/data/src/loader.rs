//! Training batches as a pure function of seed, epoch, step and rank.
//!
//! The loader has no state: a resumed run asks for the step it is at and gets what it would have got.

use std::ops::Range;

use wattle_random::Permutation;

use crate::batch::{Batch, check_batch_size};
use crate::dataset::{Dataset, MixedSource};
use crate::error::DataError;
use crate::mixture::{shares, windows_in_epoch};
use crate::schedule::{Schedule, Turn};
use crate::store::TokenStore;
use crate::windows::Windows;

/// Cuts the training split into batches.
#[derive(Clone, Debug)]
pub struct Loader {
    cut: Cut,
    context: usize,
    batch_size: usize,
    seed: u64,
    /// Of an epoch.
    n_windows: u64,
    rank: usize,
    world_size: usize,
}

/// What windows are cut from.
#[derive(Clone, Debug)]
enum Cut {
    /// One store, all windows once an epoch.
    One(Windows),
    /// The sources of a mixture, by a schedule that goes on over epochs.
    Mixed { sources: Vec<Cutting>, schedule: Schedule },
}

/// A source of a mixture, each window once before any comes again.
#[derive(Clone, Debug)]
struct Cutting {
    name: String,
    windows: Windows,
    /// How often it may be passed through.
    max_passes: Option<f64>,
}

impl Loader {
    /// A loader of the training split of `dataset`, mixed where that is a mixture.
    ///
    /// # Errors
    /// If the split, or a source, has not one window, or an epoch not one batch.
    pub fn of(dataset: &Dataset, context: usize, batch_size: usize, seed: u64) -> Result<Self, DataError> {
        match &dataset.mixture[..] {
            [] => Self::new(&dataset.train, context, batch_size, seed),
            sources => Self::mixed(sources, context, batch_size, seed),
        }
    }

    /// A loader that mixes `sources`. An epoch has as many windows as all of them together, or, without weights, as
    /// many as the epochs of each ask for.
    fn mixed(
        sources: &[MixedSource],
        context: usize,
        batch_size: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        check_batch_size(batch_size)?;
        let cutting = |source: &MixedSource| -> Result<Cutting, DataError> {
            let windows = Windows::new(&source.train, context)?;
            let max_passes = source.weight.and(source.epochs);
            Ok(Cutting { name: source.name.clone(), windows, max_passes })
        };
        let cuttings = sources.iter().map(cutting).collect::<Result<Vec<_>, _>>()?;
        let of_sources: Vec<u64> = cuttings.iter().map(|source| source.windows.len()).collect();
        let [weights, epochs] = [
            sources.iter().map(|source| source.weight).collect::<Vec<_>>(),
            sources.iter().map(|source| source.epochs).collect(),
        ];
        let n_windows = match weights.iter().all(Option::is_some) {
            true => of_sources.iter().sum(),
            false => windows_in_epoch(&epochs, &of_sources).iter().sum(),
        };
        if n_windows < batch_size as u64 {
            let source_name = "data.mixture".to_owned();
            return Err(DataError::NoSteps { source_name, windows: n_windows, batch_size });
        }
        let schedule = Schedule::new(shares(&weights, &epochs, &of_sources));
        let cut = Cut::Mixed { sources: cuttings, schedule };
        Ok(Self { cut, context, batch_size, seed, n_windows, rank: 0, world_size: 1 })
    }

    /// That no source of a mixture is passed through more often in `steps` than its `epochs` allow beside a weight.
    ///
    /// # Errors
    /// If one is.
    pub fn check_passes(&self, steps: u64) -> Result<(), DataError> {
        let Cut::Mixed { sources, schedule } = &self.cut else { return Ok(()) };
        let n_windows = steps.saturating_mul(self.batch_size as u64);
        for (source, share) in sources.iter().zip(schedule.parts()) {
            let passes = share * n_windows as f64 / source.windows.len() as f64;
            if let Some(most) = source.max_passes.filter(|most| passes > *most) {
                return Err(DataError::TooManyPasses { name: source.name.clone(), passes, most });
            }
        }
        Ok(())
    }

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
        let n_windows = windows.len();
        let cut = Cut::One(windows);
        Ok(Self { cut, context, batch_size, seed, n_windows, rank: 0, world_size: 1 })
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

    /// Batches of an epoch; the last short one is dropped, of a mixture it begins the next epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.n_windows / self.batch_size as u64
    }

    /// Tokens that go through the model in one step, over all ranks; of conversations not all of them are learnt.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch_size * self.context) as u64
    }

    /// Windows of an epoch, of those in which something is learnt.
    pub fn windows(&self) -> u64 {
        self.n_windows
    }

    /// Targets that count in the batch at `step_in_epoch`, over all ranks.
    ///
    /// # Errors
    /// If the epoch has no such step.
    pub fn counted(&self, epoch: u64, step_in_epoch: u64) -> Result<u64, DataError> {
        let chosen = self.chosen(epoch, step_in_epoch, 0..self.batch_size)?;
        Ok(chosen.into_iter().map(|(windows, i)| windows.counted(i)).sum())
    }

    /// Rows of padding in the batch at `step_in_epoch`, over all ranks.
    ///
    /// # Errors
    /// If the epoch has no such step.
    pub fn padding(&self, epoch: u64, step_in_epoch: u64) -> Result<u64, DataError> {
        let chosen = self.chosen(epoch, step_in_epoch, 0..self.batch_size)?;
        Ok(chosen.into_iter().map(|(windows, i)| windows.padding(i)).sum())
    }

    /// This rank's part of the batch at `step_in_epoch`, counted from 0.
    ///
    /// # Errors
    /// If the epoch has no such step, or a shard is damaged.
    pub fn batch(&self, epoch: u64, step_in_epoch: u64) -> Result<Batch, DataError> {
        let local = self.batch_size / self.world_size;
        let rows = self.rank * local..(self.rank + 1) * local;
        let mut batch = Batch::with_room(local, self.context);
        for (windows, i) in self.chosen(epoch, step_in_epoch, rows)? {
            windows.append(i, &mut batch)?;
        }
        Ok(batch)
    }

    /// The windows of some rows of a batch, each by its place among those of its source.
    fn chosen(
        &self,
        epoch: u64,
        step_in_epoch: u64,
        rows: Range<usize>,
    ) -> Result<Vec<(&Windows, u64)>, DataError> {
        self.check_step(step_in_epoch)?;
        let n = rows.len();
        match &self.cut {
            Cut::One(windows) => {
                let first = step_in_epoch * self.batch_size as u64;
                let order = Permutation::new(self.seed, epoch, self.n_windows);
                Ok(rows.map(|row| (windows, order.at(first + row as u64))).collect())
            }
            Cut::Mixed { sources, schedule } => {
                let step = epoch * self.steps_per_epoch() + step_in_epoch;
                let turns = schedule.turns(step * self.batch_size as u64 + rows.start as u64, n);
                let window = |turn: &Turn| {
                    let windows = &sources[turn.source].windows;
                    let order = Permutation::new(self.seed, turn.ordinal / windows.len(), windows.len());
                    (windows, order.at(turn.ordinal % windows.len()))
                };
                Ok(turns.iter().map(window).collect())
            }
        }
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

    /// Sources of so many windows of 5 tokens: those of the first begin with 0 and 5, of the second with 1000, and so on.
    fn sources(
        windows: &[u32],
        weights: &[Option<f64>],
        epochs: &[Option<f64>],
    ) -> (tempfile::TempDir, Vec<MixedSource>) {
        let (dir, store) = counting_store(1000 * windows.len() as u32, 65_536, 700);
        let source = |(i, n): (usize, &u32)| {
            let start = 1000 * i as u64;
            MixedSource {
                name: format!("source {i}"),
                weight: weights[i],
                epochs: epochs[i],
                train: store.part(start..start + 5 * u64::from(*n) + 1),
                val: None,
                val_manifest: None,
            }
        };
        let sources = windows.iter().enumerate().map(source).collect();
        (dir, sources)
    }

    /// The first tokens of the rows of step `step`, counted over epochs.
    fn starts(loader: &Loader, step: u64) -> Vec<u32> {
        let steps = loader.steps_per_epoch();
        let batch = loader.batch(step / steps, step % steps).unwrap();
        batch.inputs.chunks(5).map(|row| row[0]).collect()
    }

    #[test]
    fn a_mixture_gives_each_source_its_weight_to_within_less_than_a_window_at_every_step() {
        let weights = [0.5, 0.3, 0.2];
        let (_dir, sources) = sources(&[7, 30, 4], &weights.map(Some), &[None; 3]);
        let loader = Loader::mixed(&sources, 5, 4, 3).unwrap();
        assert_eq!((loader.windows(), loader.steps_per_epoch()), (41, 10));
        let mut seen: Vec<Vec<u32>> = vec![Vec::new(); 3];
        for step in 0..100 {
            starts(&loader, step).iter().for_each(|start| seen[*start as usize / 1000].push(*start));
            let n = 4.0 * (step + 1) as f64;
            for (source, weight) in seen.iter().zip(weights) {
                assert!((source.len() as f64 - weight * n).abs() < 1.0, "{step}");
            }
        }
        // Each source is passed through before any of its windows comes again, in another order.
        for (source, windows) in seen.iter().zip([7, 30, 4]) {
            let passes: Vec<&[u32]> = source.chunks_exact(windows).collect();
            assert!(passes.iter().all(|pass| pass.iter().collect::<HashSet<_>>().len() == windows));
            assert!(passes.windows(2).any(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn a_mixture_is_a_function_of_seed_and_step_and_divides_among_ranks() {
        let (_dir, sources) = sources(&[7, 30], &[Some(1.0), Some(2.0)], &[None; 2]);
        let loader = || Loader::mixed(&sources, 5, 6, 3).unwrap();
        let whole = loader();
        let run: Vec<_> = (0..40).map(|step| starts(&whole, step)).collect();
        for step in [39, 0, 17, 18] {
            assert_eq!(starts(&loader(), step), run[step as usize]);
            assert_eq!(starts(&whole, step), run[step as usize]);
            let ranks = (0..3).flat_map(|rank| starts(&loader().for_rank(rank, 3).unwrap(), step));
            assert_eq!(ranks.collect::<Vec<_>>(), run[step as usize]);
        }
        assert_ne!(starts(&Loader::mixed(&sources, 5, 6, 4).unwrap(), 5), run[5]);
    }

    #[test]
    fn without_weights_an_epoch_passes_through_each_source_as_often_as_it_says() {
        let (_dir, sources) = sources(&[10, 6, 4], &[None; 3], &[Some(2.0), None, Some(0.5)]);
        let loader = Loader::mixed(&sources, 5, 4, 3).unwrap();
        assert_eq!((loader.windows(), loader.steps_per_epoch()), (28, 7));
        let all: Vec<u32> = (0..7).flat_map(|step| starts(&loader, step)).collect();
        let of = |source| all.iter().filter(|start| **start / 1000 == source).count();
        assert_eq!([of(0), of(1), of(2)], [20, 6, 2]);
    }

    #[test]
    fn more_passes_than_a_source_may_have_are_refused() {
        let (_dir, sources) = sources(&[10, 10], &[Some(3.0), Some(1.0)], &[Some(2.0), None]);
        let loader = Loader::mixed(&sources, 5, 4, 3).unwrap();
        loader.check_passes(6).unwrap();
        let said = loader.check_passes(7).unwrap_err().to_string();
        assert!(
            said.contains("source 0") && said.contains("2.1") && said.contains("train.max_steps"),
            "{said}"
        );
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
