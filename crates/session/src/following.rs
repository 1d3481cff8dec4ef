//! A rank that does not lead: it trains, and leaves the run directory to the one that does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wattle_data::{Dataset, Verify};
use wattle_model::LanguageModel;
use wattle_ops::board::Board;
use wattle_runlog::{EventBody, Manifest, MonotonicNs, Span, StopReason};
use wattle_train::config::KernelSelection;
use wattle_train::device::{ChosenDevice, DeviceChoice};
use wattle_train::error::ObserverError;
use wattle_train::ranks::crc_of_weights;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, Ranks, Trainer, TrainerOptions,
};

use crate::build::{BuildModel, Values, build, trainer_options};
use crate::config::{Config, flatten};
use crate::data::prepare;
use crate::error::SessionError;
use crate::nodes::{NodeTrace, NodeVoice};
use crate::seats::Seats;
use crate::together::{PREPARATION, Together};

/// What the leading rank tells the others when the run directory is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The run directory.
    pub(crate) path: PathBuf,
    /// The run's id.
    pub(crate) run_id: String,
    /// The segment that begins.
    pub(crate) segment: u32,
    /// The checkpoint to go on from.
    pub(crate) checkpoint: Option<PathBuf>,
}

/// Whether there is anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Go {
    Train,
    WasFinished,
}

impl Start {
    /// Checks that this rank sees the same run directory as the leading one.
    ///
    /// # Errors
    /// If it does not.
    pub(crate) fn check_shared(&self) -> Result<(), SessionError> {
        let manifest = self.path.join("manifest.json");
        let seen = Manifest::read(&manifest).ok().filter(|seen| {
            seen.run_id == self.run_id && seen.segments.last().map(|segment| segment.id) == Some(self.segment)
        });
        seen.map(|_| ()).ok_or_else(|| {
            SessionError::config(format!(
                "{}: is not the run directory of rank 0; ranks on several machines need one that all of them share: name \
                 it with --out",
                self.path.display()
            ))
        })
    }
}

/// Refuses to train if the weights of the ranks are not the same.
///
/// # Errors
/// If they are not.
pub(crate) fn refuse_unlike_weights(
    together: &Together<'_>,
    model: &dyn LanguageModel,
) -> Result<(), SessionError> {
    let hash = crc_of_weights(model)?;
    together.alike(&hash, |first, other| {
        (first != other).then(|| {
            format!(
                "its weights are others than those of rank 0 at the start ({other:08x}, not {first:08x}): start the same \
                 binary on all machines, and name one checkpoint that all of them see"
            )
        })
    })
}

/// Refuses data that are not the same on all ranks.
///
/// # Errors
/// If they are not.
pub(crate) fn refuse_unlike_data(together: &Together<'_>, dataset: &Dataset) -> Result<(), SessionError> {
    together.alike(&dataset.content_hash(), |first, other| {
        (first != other).then(|| {
            format!("its data are others than those of rank 0 (sha256 {other}, not {first}): name the same files, or one \
                     data.dir that all ranks see")
        })
    })
}

/// By what ranks know that they were started alike.
#[derive(Serialize, Deserialize)]
pub(crate) struct Hello {
    version: String,
    /// Every key that has an effect, and its value as TOML.
    config: BTreeMap<String, String>,
}

impl Hello {
    pub(crate) fn of(config: &Config) -> Self {
        let mut config = flatten(&config.to_table());
        // Each rank may have as many as it wants.
        config.remove("train.threads");
        let config = config.into_iter().map(|(key, value)| (key, value.to_string())).collect();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), config }
    }

    /// How another rank differs from the leading one.
    pub(crate) fn difference(first: &Self, other: &Self) -> Option<String> {
        if first.version != other.version {
            return Some(format!("runs wattle {}, and rank 0 runs {}", other.version, first.version));
        }
        let value =
            |config: &BTreeMap<String, String>, key| config.get(key).map_or("unset", |v| v).to_owned();
        let keys: BTreeSet<&String> = first.config.keys().chain(other.config.keys()).collect();
        let differences: Vec<String> = keys
            .into_iter()
            .filter(|key| first.config.get(*key) != other.config.get(*key))
            .map(|key| format!("{key}: {}, not {}", value(&other.config, key), value(&first.config, key)))
            .collect();
        (!differences.is_empty())
            .then(|| format!("has another configuration than rank 0:\n  {}", differences.join("\n  ")))
    }
}

/// What a trainer trains, on what.
pub(crate) struct Training<'a> {
    pub(crate) model: &'a dyn LanguageModel,
    pub(crate) is_own_model: bool,
    pub(crate) board: Option<Arc<dyn Board>>,
    pub(crate) dataset: &'a Dataset,
    pub(crate) device: &'a ChosenDevice,
}

impl<'a> Training<'a> {
    /// The trainer, which goes on from `checkpoint` if there is one.
    pub(crate) fn trainer(
        self,
        options: TrainerOptions,
        checkpoints: Checkpoints,
        checkpoint: Option<&Path>,
    ) -> Result<Trainer<'a>, SessionError> {
        let Self { model, is_own_model, board, dataset, device } = self;
        let mut trainer = match is_own_model {
            true => Trainer::new(model, dataset, &device.device, options, checkpoints)?,
            false => Trainer::on_board(model, dataset, board, options, checkpoints)?,
        };
        if let Some(checkpoint) = checkpoint {
            trainer.resume(checkpoint)?;
        }
        Ok(trainer)
    }
}

/// A rank that leaves the run directory to the leading one.
pub(crate) struct Rank<'a> {
    pub(crate) config: &'a Config,
    pub(crate) own_model: Option<&'a BuildModel<'a>>,
    pub(crate) ranks: &'a Ranks,
    pub(crate) verify: Verify,
    pub(crate) is_asked_to_stop: &'a dyn Fn() -> bool,
}

impl Rank<'_> {
    /// Trains in step with the leading rank, and says why training ended; `None` if nothing was left to do.
    pub(crate) fn follow(self, device: DeviceChoice) -> Result<Option<StopReason>, SessionError> {
        let Self { config, own_model, ranks, verify, is_asked_to_stop } = self;
        let (together, within) = (Together::new(ranks), ranks.between_steps());
        let device = device.open().map_err(SessionError::from);
        let (device, go) = together.meet_for(PREPARATION, device, Go::Train)?;
        if go == Go::WasFinished {
            return Ok(None);
        }
        // The leading rank has prepared them; where its cache is not shared, this rank does so too.
        let dataset = prepare(config, verify, &mut ());
        let (dataset, ()) = together.meet_for(PREPARATION, dataset, ())?;
        refuse_unlike_data(&together, &dataset)?;
        let seats = Seats::learn(ranks, &device.compute)?;
        let (_, start) = together.meet_for(within, Ok(()), Start::default())?;
        together.meet(start.check_shared())?;
        let trace = NodeTrace { run: &start.path, run_id: &start.run_id, segment: start.segment };
        let voice = |seats| NodeVoice::start(ranks, seats, &config.energy, &trace);
        let voice = seats.as_ref().map(voice).transpose()?.flatten();
        // What the leading rank chooses is taken where the boards are alike.
        let select = config.train.select == KernelSelection::Measure;
        let options =
            TrainerOptions { ranks: ranks.clone(), select, ..trainer_options(config, start.segment) };
        let checkpoint = start.checkpoint.as_deref();
        let values = if checkpoint.is_some() { Values::Checkpoint } else { Values::Initial };
        let built = together.meet(build(config, own_model, &dataset, &device, &options, values))?;
        let model = built.model.as_ref();
        let checkpoints = Checkpoints::of_another(&start.path.join("checkpoints"));
        let (is_own_model, board) = (own_model.is_some(), built.board);
        let training = Training { model, is_own_model, board, dataset: &dataset, device: &device };
        let mut trainer = together.meet(training.trainer(options, checkpoints, checkpoint))?;
        refuse_unlike_weights(&together, model)?;
        let (_, go) = together.meet_for(within, Ok(()), Go::Train)?;
        if go == Go::WasFinished {
            return Ok(None);
        }
        let reason = trainer.run(&mut Follower { is_asked_to_stop, voice })?;
        together.meet(Ok(()))?;
        Ok(Some(reason))
    }
}

/// Passes a wish to stop on to the others, and leaves all else to the leading rank.
struct Follower<'a> {
    is_asked_to_stop: &'a dyn Fn() -> bool,
    /// Where there are several machines.
    voice: Option<NodeVoice>,
}

impl Observer for Follower<'_> {
    fn event(&mut self, _: MonotonicNs, _: EventBody) -> Result<(), ObserverError> {
        Ok(())
    }

    fn span(&mut self, _: Span) {}

    fn edge(&mut self, edge: Edge) {
        let Some(voice) = &mut self.voice else { return };
        match edge {
            Edge::Epoch { .. } => voice.say(true),
            Edge::Checkpoint { .. } | Edge::Stop { .. } => voice.say(false),
            Edge::Start | Edge::EvaluateStart | Edge::EvaluateEnd => {}
        }
    }

    fn progress(&mut self, _: Progress) {}

    fn directive(&mut self) -> Directive {
        if (self.is_asked_to_stop)() { Directive::Stop(StopReason::Signal) } else { Directive::Continue }
    }

    fn before_commit(&mut self, _: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}
