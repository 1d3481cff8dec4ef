//! Ranks as threads, and what each of them is told.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use wattle_data::Dataset;
use wattle_dist::{Fabric, Threads};
use wattle_model::LanguageModel;
use wattle_ops::board::Board;
use wattle_runlog::{EventBody, MonotonicNs, Sample, Span, StopReason, TaskScores};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, Ranks, TrainError, Trainer,
    TrainerOptions,
};

use crate::common::{bits, values};

/// Keeps what it is told, and ends training in one way or another.
#[derive(Default)]
pub struct Recorder {
    pub losses: Vec<(u64, u32, u32)>,
    pub evaluations: Vec<(u64, u64, u64)>,
    pub tasks: Vec<(u64, Vec<TaskScores>)>,
    pub samples: Vec<(u64, Vec<Sample>)>,
    pub spans: Vec<Span>,
    pub stop_after: Option<u64>,
    pub fail_after: Option<u64>,
}

impl Observer for Recorder {
    fn event(&mut self, _: MonotonicNs, body: EventBody) -> Result<(), ObserverError> {
        match body {
            EventBody::Step(step) if Some(step.step) == self.fail_after => {
                return Err("the disk is full".into());
            }
            EventBody::Step(step) => {
                self.losses.push((step.step, step.loss.to_bits(), step.grad_norm.to_bits()));
            }
            EventBody::Evaluate(event) => {
                self.evaluations.push((event.step, event.loss.to_bits(), event.accuracy.to_bits()));
            }
            EventBody::Tasks { step, tasks } => self.tasks.push((step, tasks)),
            EventBody::Samples { step, samples } => self.samples.push((step, samples)),
            _ => {}
        }
        Ok(())
    }

    fn span(&mut self, span: Span) {
        self.spans.push(span);
    }

    fn edge(&mut self, _: Edge) {}

    fn progress(&mut self, _: Progress) {}

    fn directive(&mut self) -> Directive {
        let step = self.losses.last().map_or(0, |(step, ..)| *step);
        match self.stop_after {
            Some(stop) if step >= stop => Directive::Stop(StopReason::Signal),
            _ => Directive::Continue,
        }
    }

    fn before_commit(&mut self, _: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

/// How a rank ended, and what it has then.
pub struct Ended {
    pub outcome: Result<StopReason, TrainError>,
    pub recorder: Recorder,
    pub weights: Vec<u32>,
    pub engine: String,
}

/// Trains on `world` ranks in `dir/checkpoints`, from its newest checkpoint if there is one. `recorder` makes the observer
/// of each, `board` the board.
pub fn train_on(
    dir: &Path,
    dataset: &Dataset,
    options: &TrainerOptions,
    world: usize,
    recorder: impl Fn(usize) -> Recorder + Sync,
    model: impl Fn(&Dataset) -> Box<dyn LanguageModel + Send + Sync> + Sync,
    board: impl Fn(Arc<dyn Fabric>) -> Option<Arc<dyn Board>> + Sync,
) -> Vec<Ended> {
    let checkpoints = Checkpoints::open(&dir.join("checkpoints"), 3).unwrap();
    let rank = |fabric: Threads| {
        let idx = fabric.place().rank;
        let fabric: Arc<dyn Fabric> = Arc::new(fabric);
        let board = board(Arc::clone(&fabric));
        let ranks = Ranks::new(fabric, Duration::from_secs(20));
        let options = TrainerOptions { ranks, ..options.clone() };
        let model = model(dataset);
        let latest = checkpoints.latest().unwrap();
        let mut trainer =
            Trainer::on_board(model.as_ref(), dataset, board, options, checkpoints.clone()).unwrap();
        if let Some(latest) = latest {
            trainer.resume(&latest).unwrap();
        }
        let mut recorder = recorder(idx);
        let outcome = trainer.run(&mut recorder);
        let engine = trainer.engine();
        drop(trainer);
        Ended { outcome, recorder, weights: weights(model.as_ref()), engine }
    };
    std::thread::scope(|scope| {
        let running: Vec<_> =
            Threads::ranks(world).into_iter().map(|fabric| scope.spawn(|| rank(fabric))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

pub fn weights(model: &dyn LanguageModel) -> Vec<u32> {
    model.parameters().iter().flat_map(|parameter| bits(&values(&parameter.var))).collect()
}

pub fn file(dir: &Path, step: u64, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(format!("checkpoints/step-{step:08}/{name}"))).unwrap()
}

pub fn plain(_: usize) -> Recorder {
    Recorder::default()
}
