//! How far a run has come, and what it has used.
//!
//! All of it are gauges: a run that was killed goes on from its last checkpoint, and what it had counted since
//! falls back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::registry::Unit;
use wattle_meter::Used;
use wattle_runlog::event::{EvaluateEvent, StepEvent};

use super::gauges;

/// A run's progress, where the run writes it and a server reads it.
#[derive(Clone, Debug)]
pub struct SharedProgress {
    currency: String,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    total_steps: Option<u64>,
    step: Option<StepEvent>,
    evaluation: Option<EvaluateEvent>,
    /// Over all segments.
    used: Option<Used>,
    is_paused: bool,
}

impl SharedProgress {
    /// Of a run that has not begun, whose costs are in `currency`.
    pub fn new(currency: &str) -> Self {
        Self { currency: currency.to_owned(), progress: Arc::default() }
    }

    /// How many updates there will be in all.
    pub fn plan(&self, total_steps: u64) {
        self.lock().total_steps = Some(total_steps);
    }

    /// An update was made, by which the run has used so much.
    pub fn step(&self, step: &StepEvent, used: Used) {
        let mut progress = self.lock();
        (progress.step, progress.used) = (Some(step.clone()), Some(used));
    }

    /// The model was evaluated, by which the run has used so much.
    pub fn evaluate(&self, evaluation: &EvaluateEvent, used: Used) {
        let mut progress = self.lock();
        (progress.evaluation, progress.used) = (Some(evaluation.clone()), Some(used));
    }

    /// Training waits for cleaner electricity, or goes on.
    pub fn pause(&self, is_paused: bool) {
        self.lock().is_paused = is_paused;
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for SharedProgress {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Progress { total_steps, step, evaluation, used, is_paused } = self.lock().clone();
        let (step, used) = (step.as_ref(), used.as_ref());
        let encoder = &mut encoder;
        one(encoder, ("run_planned_steps", "Updates that the run will make in all", None), total_steps)?;
        let paused = ("run_paused", "Whether training waits for cleaner electricity", None);
        one(encoder, paused, is_paused.then_some(1u64))?;
        one(encoder, ("run_step", "Finished updates", None), step.map(|step| step.step))?;
        one(encoder, ("run_epoch", "The epoch under way, from 1", None), step.map(|step| step.epoch))?;
        one(encoder, ("run_tokens", "Tokens trained on, each once", None), step.map(|step| step.tokens))?;
        let rate = ("run_tokens_per_second", "Tokens of the latest update over its duration", None);
        one(encoder, rate, step.map(|step| step.tokens_per_s))?;
        let rate = ("run_learning_rate", "Learning rate of the latest update", None);
        one(encoder, rate, step.map(|step| step.learning_rate))?;
        let norm = ("run_gradient_norm", "Global norm of the gradient before clipping", None);
        one(encoder, norm, step.map(|step| f64::from(step.grad_norm)))?;

        let trained = step.map(|step| ("train", f64::from(step.loss), f64::from(step.accuracy)));
        let evaluated = evaluation.as_ref().map(|seen| (seen.split.as_str(), seen.loss, seen.accuracy));
        let splits = || trained.into_iter().chain(evaluated);
        let loss = ("run_loss", "Mean cross-entropy in nats a token", None);
        gauges(encoder, loss, splits().map(|(split, loss, _)| (vec![("split", split)], loss)))?;
        let accuracy = ("run_accuracy", "Share of next tokens that were the model's first choice", None);
        gauges(encoder, accuracy, splits().map(|(split, _, right)| (vec![("split", split)], right)))?;

        let energy = ("run_energy", "Energy of the run, over all its processes", Some(Unit::Joules));
        one(encoder, energy, used.map(|used| used.energy.get()))?;
        let emissions =
            ("run_emissions", "Emissions of the run in grams of CO2 equivalent", Some(Unit::Grams));
        one(encoder, emissions, used.map(|used| used.emissions.get()))?;
        let cost =
            used.and_then(|used| used.cost).map(|cost| (vec![("currency", self.currency.as_str())], cost));
        gauges(encoder, ("run_cost", "Cost of the run's electricity", None), cost.into_iter())?;
        let fraction = ("run_cost_energy_fraction", "Share of the run's energy that run_cost covers", None);
        let covered = used.filter(|used| used.cost.is_some() && used.priced < used.energy);
        one(encoder, fraction, covered.map(|used| used.priced / used.energy))
    }
}

/// A figure that there is at most one of.
fn one<V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    what: (&str, &str, Option<Unit>),
    value: Option<V>,
) -> fmt::Result {
    gauges(encoder, what, value.into_iter().map(|value| (Vec::new(), value)))
}
