//! What a run still uses once it is asked to end: the steps in flight, and its last checkpoint.

use std::collections::VecDeque;

use wattle_runlog::{Joules, Seconds, Watts};

use crate::pace::Pace;

/// Bytes a second at which a checkpoint is read from the device and written, until one has been seen: 1.5 GB in 2.1 s
/// and 18.7 GB in 32 s, measured on an H100 on 2026-11-27.
const CHECKPOINT_BYTES_PER_S: f64 = 0.6e9;
/// What a checkpoint takes at least: some files that are made durable.
const CHECKPOINT_MIN: Seconds = Seconds(0.02);
/// Bytes of a parameter in a checkpoint: its value and two moments in `f32`.
const BYTES_PER_PARAMETER: u64 = 12;
/// Cost of a token in an evaluation beside one in training: the forward pass without the backward pass, which is twice
/// the work.
const EVALUATION_SHARE: f64 = 1.0 / 3.0;

/// What is known of the end of a run.
#[derive(Clone, Debug)]
pub struct Ending {
    checkpoint_time: Seconds,
    /// Steps whose forward passes are as much work as an evaluation.
    evaluation_steps: f64,
    /// How old the meter's figures may be.
    staleness: Seconds,
    /// Power while the device waits for the host.
    waiting: Option<Watts>,
    checkpoint: Measured,
    /// The checkpoint under way.
    writing: Writing,
    evaluation: Measured,
}

/// A checkpoint that is not complete yet, as far as its spans have been told.
#[derive(Clone, Copy, Debug, Default)]
struct Writing {
    time: Seconds,
    /// Whether steps were made meanwhile, so that the meter does not show what writing took.
    overlaps: bool,
}

/// Sizes that tell in advance what a checkpoint and an evaluation take.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Trainable parameters.
    pub n_parameters: u64,
    /// Tokens of an evaluation.
    pub evaluation_tokens: u64,
    /// Tokens of a step.
    pub tokens_per_step: u64,
    /// The meter's interval.
    pub interval: Seconds,
}

/// Of something that happens now and then, so many are remembered.
const REMEMBERED: usize = 5;

/// The energy of something that happens now and then.
#[derive(Clone, Debug, Default)]
struct Measured {
    begun: Option<Joules>,
    recent: VecDeque<Joules>,
}

impl Measured {
    fn begin(&mut self, used: Joules) {
        self.begun = Some(used);
    }

    fn end(&mut self, used: Joules) {
        if let Some(begun) = self.begun.take() {
            self.remember(used - begun);
        }
    }

    fn remember(&mut self, energy: Joules) {
        self.recent.push_back(energy);
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// The median of the last few: one that a busy disk held up does not stand for the next.
    fn typical(&self) -> Option<Joules> {
        let mut recent: Vec<Joules> = self.recent.iter().copied().collect();
        recent.sort_by(|a, b| a.get().total_cmp(&b.get()));
        recent.get(recent.len().saturating_sub(1) / 2).copied()
    }
}

impl Ending {
    /// Before the first step.
    pub fn new(sizes: &Sizes) -> Self {
        let bytes = sizes.n_parameters * BYTES_PER_PARAMETER;
        Self {
            checkpoint_time: CHECKPOINT_MIN + Seconds(bytes as f64 / CHECKPOINT_BYTES_PER_S),
            evaluation_steps: sizes.evaluation_tokens as f64 / sizes.tokens_per_step as f64,
            staleness: sizes.interval,
            waiting: None,
            checkpoint: Measured::default(),
            writing: Writing::default(),
            evaluation: Measured::default(),
        }
    }

    /// Training begins: what was drawn until now is what is drawn while the device waits.
    pub fn start(&mut self, used: Joules, time: Seconds) {
        self.waiting = (time > Seconds::ZERO && used > Joules::ZERO).then(|| used / time);
    }

    /// The device has nothing to do, and a checkpoint may follow.
    pub fn before_checkpoint(&mut self, used: Joules) {
        self.checkpoint.begin(used);
    }

    /// A checkpoint took `time`: of training, or beside it.
    pub fn wrote(&mut self, time: Seconds, overlaps: bool) {
        self.writing.time += time;
        self.writing.overlaps |= overlaps;
    }

    /// A checkpoint is complete. Where steps were made meanwhile, the last one, for which the device waits, takes as long
    /// at the power of waiting.
    pub fn after_checkpoint(&mut self, used: Joules) {
        let Writing { time, overlaps } = std::mem::take(&mut self.writing);
        if !overlaps {
            self.checkpoint.end(used);
        } else if let Some(waiting) = self.waiting {
            self.checkpoint.remember(waiting * time);
        }
    }

    /// An evaluation begins.
    pub fn before_evaluation(&mut self, used: Joules) {
        self.evaluation.begin(used);
    }

    /// An evaluation has ended.
    pub fn after_evaluation(&mut self, used: Joules) {
        self.evaluation.end(used);
    }

    /// What the run will have used beyond the meter's present figure, if it makes one more step and then ends: the
    /// steps in flight, that step, the evaluation if one `follows` it, the checkpoint, and one that is being written.
    pub fn after_one_more(&self, pace: &Pace, in_flight: u64, evaluation_follows: bool) -> Joules {
        let rate = pace.recent().or_else(|| pace.since_start());
        let step = rate.and_then(|rate| rate.energy_per_step()).unwrap_or_default();
        let power = rate.and_then(|rate| rate.power());
        let unseen = power.unwrap_or_default() * self.staleness;
        let [evaluation, checkpoint] = self.last(pace, evaluation_follows);
        // The last checkpoint waits for one that is being written.
        let n_checkpoints = if self.writing.time > Seconds::ZERO { 2.0 } else { 1.0 };
        unseen + step * (in_flight + 1) as f64 + evaluation + checkpoint * n_checkpoints
    }

    /// What comes after the last step: an evaluation, if one `follows` it, and a checkpoint.
    pub fn after_last(&self, pace: &Pace, evaluation_follows: bool) -> Joules {
        self.last(pace, evaluation_follows).into_iter().sum()
    }

    fn last(&self, pace: &Pace, evaluation_follows: bool) -> [Joules; 2] {
        let rate = pace.recent().or_else(|| pace.since_start());
        let step = rate.and_then(|rate| rate.energy_per_step()).unwrap_or_default();
        let waiting = self.waiting.or(rate.and_then(|rate| rate.power())).unwrap_or_default();
        let checkpoint = self.checkpoint.typical().unwrap_or(waiting * self.checkpoint_time);
        let evaluation = match evaluation_follows {
            true => self.evaluation.typical().unwrap_or(step * (self.evaluation_steps * EVALUATION_SHARE)),
            false => Joules::ZERO,
        };
        [evaluation, checkpoint]
    }
}

#[cfg(test)]
mod tests {
    use wattle_runlog::MonotonicNs;

    use super::*;
    use crate::pace::Point;

    /// As on an H100 with 124 million parameters: steps of 65 ms at 700 W, 120 W while it waits.
    fn h100() -> (Ending, Pace) {
        let sizes = Sizes {
            n_parameters: 124_000_000,
            evaluation_tokens: 98_304,
            tokens_per_step: 32_768,
            interval: Seconds(0.05),
        };
        let mut ending = Ending::new(&sizes);
        ending.start(Joules(840.0), Seconds(7.0));
        let mut pace = Pace::default();
        for step in 0..=20u32 {
            let seconds = f64::from(step) * 0.065;
            let t = MonotonicNs::default().after(Seconds(7.0 + seconds));
            pace.note(Point { t, step: u64::from(step), energy: Some(Joules(840.0 + 700.0 * seconds)) });
        }
        (ending, pace)
    }

    fn close(a: Joules, b: f64, tolerance: f64) -> bool {
        (a.get() - b).abs() < tolerance
    }

    #[test]
    fn before_any_checkpoint_its_cost_follows_from_its_bytes() {
        let (ending, pace) = h100();
        // 1.5 GB take 2.5 s at 120 W; three steps of 45.5 J; 50 ms at 700 W that the meter has not seen.
        let expected = 2.5 * 120.0 + 3.0 * 45.5 + 35.0;
        assert!(close(ending.after_one_more(&pace, 2, false), expected, 3.0));
        let with_evaluation = ending.after_one_more(&pace, 2, true);
        assert!(close(with_evaluation, expected + 45.5, 3.0), "three steps' tokens, a third of the work");
    }

    #[test]
    fn what_has_been_seen_counts() {
        let (mut ending, pace) = h100();
        ending.before_evaluation(Joules(1000.0));
        ending.after_evaluation(Joules(1300.0));
        ending.before_checkpoint(Joules(1300.0));
        ending.after_checkpoint(Joules(1500.0));
        assert!(close(ending.after_one_more(&pace, 0, true), 45.5 + 35.0 + 300.0 + 200.0, 0.1));
        // An epoch that ends without a checkpoint measures none.
        ending.before_checkpoint(Joules(2000.0));
        ending.before_checkpoint(Joules(9000.0));
        ending.after_checkpoint(Joules(9100.0));
        assert!(close(ending.after_one_more(&pace, 0, false), 45.5 + 35.0 + 100.0, 0.1));
    }

    #[test]
    fn a_checkpoint_beside_training_is_reckoned_by_its_time_and_waited_for() {
        let (mut ending, pace) = h100();
        ending.before_checkpoint(Joules(1000.0));
        ending.wrote(Seconds(0.1), false);
        let one = 2.5 * 120.0;
        let steps = 45.5 + 35.0;
        let under_way = ending.after_one_more(&pace, 0, false);
        assert!(close(under_way, steps + 2.0 * one, 3.0), "{under_way:?}");
        ending.wrote(Seconds(1.9), true);
        // Two seconds in which steps took 1,400 J.
        ending.after_checkpoint(Joules(2400.0));
        assert!(close(ending.after_one_more(&pace, 0, false), steps + 2.0 * 120.0, 0.1));
    }

    #[test]
    fn without_a_meter_nothing_is_reckoned() {
        let (ending, _) = h100();
        let ending = Ending { waiting: None, ..ending };
        assert_eq!(ending.after_one_more(&Pace::default(), 2, true), Joules::ZERO);
    }
}
