//! Runs that are trained and remembered.

use std::path::Path;
use std::sync::Arc;

use wattle_data::Dataset;
use wattle_model::LanguageModel;
use wattle_ops::board::Board;
use wattle_runlog::event::{EvaluateEvent, StepEvent};
use wattle_runlog::{EventBody, MonotonicNs, Span, StopReason};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, Trainer, TrainerOptions,
};

use super::common::{bits, values};

/// Keeps what it is told.
#[derive(Default)]
pub struct Recorder {
    pub steps: Vec<StepEvent>,
    pub evaluations: Vec<EvaluateEvent>,
    pub stop_after: Option<u64>,
}

impl Observer for Recorder {
    fn event(&mut self, _: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        match body {
            EventBody::Step(step) => self.steps.push(step),
            EventBody::Evaluate(evaluation) => self.evaluations.push(evaluation),
            _ => {}
        }
        Ok(())
    }

    fn span(&mut self, _: Span) {}

    fn edge(&mut self, _: Edge) {}

    fn progress(&mut self, _: Progress) {}

    fn directive(&mut self) -> Directive {
        match (self.stop_after, self.steps.last()) {
            (Some(stop), Some(last)) if last.step >= stop => Directive::Stop(StopReason::Signal),
            _ => Directive::Continue,
        }
    }

    fn before_commit(&mut self, _: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

/// What a run of `model` told, and the bits of its weights. It goes on from the latest checkpoint in `dir`.
pub fn train_model(
    dir: &Path,
    model: &dyn LanguageModel,
    dataset: &Dataset,
    board: Option<Arc<dyn Board>>,
    options: TrainerOptions,
    mut recorder: Recorder,
) -> (Recorder, Vec<u32>) {
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 3).unwrap();
    let latest = checkpoints.latest().unwrap();
    let mut trainer = Trainer::on_board(model, dataset, board, options, checkpoints).unwrap();
    if let Some(latest) = latest {
        trainer.resume(&latest).unwrap();
    }
    trainer.run(&mut recorder).unwrap();
    drop(trainer);
    let weights = model.parameters().iter().flat_map(|parameter| bits(&values(&parameter.var))).collect();
    (recorder, weights)
}

/// Losses, accuracies and what evaluations found.
pub fn told(recorder: &Recorder) -> Vec<f64> {
    let steps = recorder.steps.iter().flat_map(|step| [f64::from(step.loss), f64::from(step.accuracy)]);
    steps.chain(recorder.evaluations.iter().flat_map(|found| [found.loss, found.accuracy])).collect()
}

/// That two runs told the same, but for rounding.
pub fn assert_close(recorder: &Recorder, expected: &Recorder, tolerance: f64, what: &str) {
    let (got, expected) = (told(recorder), told(expected));
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(&expected) {
        assert!(
            (got - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{what}: {got} and {expected}"
        );
    }
}
