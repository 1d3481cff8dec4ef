//! What a run would be, before its first step.

use wattle_data::{Dataset, Verify};
use wattle_model::Fp8Balance;
use wattle_model::flops::{FlopsPerToken, flops_per_token};
use wattle_train::device::{ChosenDevice, DeviceChoice};
use wattle_train::{Checkpoints, Plan, Trainer, TrainerOptions};

use crate::build::{Values, build, has_room_for_snapshot, trainer_options, vocab_size};
use crate::config::Config;
use crate::data::{plan_of, prepare};
use crate::error::SessionError;
use crate::listener::Listener;
use crate::need::{self, TrainingMemory};
use crate::peak::peak_of_training;
use crate::snapshot;

/// What is known of a run before its first step.
pub struct Forecast {
    /// Trainable parameters.
    pub n_parameters: u64,
    /// Parameters of the model that stay as they are, where adapters are trained.
    pub n_frozen: u64,
    /// Floating-point operations of a token.
    pub flops: FlopsPerToken,
    /// Steps and tokens.
    pub plan: Plan,
    /// What trains, for a person.
    pub engine: String,
    /// What it takes of memory.
    pub memory: TrainingMemory,
    /// Bytes of the host's memory for the copy that checkpoints are written from while training goes on.
    pub snapshot: u64,
    /// What the process will have of memory at most, if that is known.
    pub peak: Option<u64>,
    /// What products in eight bits bring, where they are asked for.
    pub fp8: Option<Fp8Balance>,
    /// Why it does not fit, if it does not.
    pub shortage: Option<String>,
}

/// Floating-point operations of a micro-batch that a rehearsal goes through: some seconds of one core.
const QUICK_FLOPS: f64 = 2e11;

impl Forecast {
    /// What a run would be on a CPU. Everything is built as training would build it, and nothing of it is left.
    ///
    /// # Errors
    /// If training could not begin.
    pub fn on_cpu(config: &Config, listener: &mut dyn Listener) -> Result<Self, SessionError> {
        let dataset = prepare(config, Verify::FirstUse, listener)?;
        let device = DeviceChoice::Cpu.open()?;
        on_trial(config, &dataset, &device, |_| (), |_| Self::of(config, &dataset, &device))
    }

    /// What a run would be, by its configuration and its data alone: nothing is built.
    ///
    /// # Errors
    /// If the configuration does not fit the data.
    pub fn of(config: &Config, dataset: &Dataset, device: &ChosenDevice) -> Result<Self, SessionError> {
        let vocab_size = vocab_size(config, dataset)?;
        let memory = TrainingMemory::of(config, vocab_size);
        let is_cpu = device.device.is_cpu();
        let plan = plan_of(config, dataset)?;
        let (n_parameters, n_frozen) =
            (need::n_trained(config, vocab_size), need::n_frozen(config, vocab_size));
        Ok(Self {
            n_parameters,
            n_frozen,
            flops: flops_per_token(&config.model, n_parameters, n_frozen),
            plan,
            engine: memory.engine().to_owned(),
            memory,
            snapshot: snapshot::bytes(config, vocab_size, &plan, is_cpu),
            peak: None,
            fp8: config
                .precision
                .fp8()
                .map(|fp8| config.model.fp8_balance(vocab_size, fp8, plan.tokens_per_step)),
            shortage: if is_cpu { need::training(config, vocab_size).shortage() } else { None },
        })
    }

    /// Builds everything, goes through one micro-batch where that is quick, and notes which engine trains and what
    /// memory it takes. `is_built` is called in between, when nothing is needed any more that building needed.
    ///
    /// # Errors
    /// If training could not begin.
    pub fn rehearse(
        &mut self,
        config: &Config,
        dataset: &Dataset,
        device: &ChosenDevice,
        is_built: impl FnOnce(),
    ) -> Result<(), SessionError> {
        on_trial(
            config,
            dataset,
            device,
            |_| (),
            |trainer| {
                is_built();
                let is_here = trainer.rehearse(self.is_quick(config))?;
                self.engine = trainer.engine();
                self.snapshot = trainer.snapshot_bytes();
                self.peak = if is_here { peak_of_training() } else { None };
                if let Some(memory) = trainer.memory() {
                    self.memory = TrainingMemory::Explicit(memory);
                }
                Ok(())
            },
        )
    }

    /// Whether one micro-batch is soon computed. Of a long context it is not, and what a step takes beside the plan
    /// is little.
    fn is_quick(&self, config: &Config) -> bool {
        let tokens = config.train.micro_batch() as f64 * config.model.context as f64;
        self.flops.nanogpt as f64 * tokens <= QUICK_FLOPS
    }
}

/// Everything up to the first step, by options that may differ from the configuration's, and nothing left of it.
pub(crate) fn on_trial<T>(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    differ: impl FnOnce(&mut TrainerOptions),
    with: impl FnOnce(&mut Trainer<'_>) -> Result<T, SessionError>,
) -> Result<T, SessionError> {
    let mut options = trainer_options(config, dataset, 0);
    options.checkpoint_in_background = has_room_for_snapshot(config, dataset, device)?;
    differ(&mut options);
    let built = build(config, None, dataset, device, &options, Values::Initial)?;
    let scratch = tempfile::tempdir().map_err(|source| SessionError::Io {
        what: "a temporary folder cannot be made; set TMPDIR to another place".to_owned(),
        source,
    })?;
    let checkpoints = Checkpoints::open(scratch.path(), 0)?;
    let mut trainer = Trainer::on_board(built.model.as_ref(), dataset, built.board, options, checkpoints)?;
    with(&mut trainer)
}
