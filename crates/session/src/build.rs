//! The model of a run, and where its parameters live.

use std::sync::Arc;
use std::thread::JoinHandle;

use candle_core::Device;
use wattle_data::Dataset;
use wattle_model::hugging_face::Directory;
use wattle_model::{Adapted, LanguageModel};
use wattle_ops::board::Board;
use wattle_train::device::ChosenDevice;
use wattle_train::engine::{home_of_parameters, refuse_what_cannot_fit};
use wattle_train::evaluate::masks_of;
use wattle_train::{EngineChoice, Ranks, TrainerOptions};

use crate::checkpoint::tokenizer_of;
use crate::config::Config;
use crate::data::plan_of;
use crate::error::SessionError;
use crate::need;
use crate::snapshot;

/// What a model of your own is built from.
#[derive(Clone, Copy, Debug)]
pub struct Materials<'a> {
    /// Entries of the tokenizer: the least number of rows of a token table.
    pub vocab_size: usize,
    /// `model.context`
    pub context: usize,
    /// `run.seed`, of which initial values should be a function.
    pub seed: u64,
    /// Where parameters are to be made.
    pub device: &'a Device,
}

/// Builds a model of your own.
pub type BuildModel<'a> = dyn Fn(&Materials<'_>) -> candle_core::Result<Box<dyn LanguageModel>> + 'a;

/// A model, and the board that its steps are made on, if there is one.
pub(crate) struct Built {
    pub model: Box<dyn LanguageModel>,
    pub board: Option<Arc<dyn Board>>,
}

/// Where a model's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// From the seed, or from `model.init_from`.
    Initial,
    /// From a checkpoint that is read afterwards: until then they may be anything.
    Checkpoint,
}

/// Builds the model of `config`, or that of the program.
pub(crate) fn build(
    config: &Config,
    own: Option<&BuildModel<'_>>,
    dataset: &Dataset,
    device: &ChosenDevice,
    options: &TrainerOptions,
    values: Values,
) -> Result<Built, SessionError> {
    if own.is_some() && config.lora.is_on() {
        return Err(SessionError::config(format!(
            "lora.rank = {}: adapters are for wattle's own families; set it to 0 for a model of your own",
            config.lora.rank
        )));
    }
    if let Some(build) = own {
        return Ok(Built { model: own_model(config, build, dataset, device)?, board: None });
    }
    let drawn = draw_ahead(config, dataset, device, values)?;
    let board = open_board(config, dataset, device, options)?;
    let model = match drawn.filter(|_| board.is_some()) {
        Some(drawn) => drawn.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        None => {
            return Ok(Built {
                model: configured_model(config, dataset, device, board.as_ref(), values)?,
                board,
            });
        }
    };
    Ok(Built { model: model.map_err(SessionError::Build)?, board })
}

/// A model that is being drawn.
type Drawn = JoinHandle<candle_core::Result<Box<dyn LanguageModel + Send + Sync>>>;

/// Begins to draw the model of a board, on a thread of its own: meanwhile the board and its libraries are opened. Where
/// that fails the thread ends by itself.
fn draw_ahead(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    values: Values,
) -> Result<Option<Drawn>, SessionError> {
    let has_board = !device.device.is_cpu() && config.train.engine != EngineChoice::Autograd;
    if !has_board || values == Values::Checkpoint || config.model.init_from.is_some() {
        return Ok(None);
    }
    let vocab_size = vocab_size(config, dataset)?;
    need::loading("training", &config.model, vocab_size, 1).check()?;
    let (model, seed) = (config.model.clone(), config.run.seed);
    let draw = move || model.build(vocab_size, seed, &Device::Cpu);
    // Without another thread it is drawn later.
    Ok(std::thread::Builder::new().name("initial values".to_owned()).spawn(draw).ok())
}

fn own_model(
    config: &Config,
    build: &BuildModel<'_>,
    dataset: &Dataset,
    device: &ChosenDevice,
) -> Result<Box<dyn LanguageModel>, SessionError> {
    let context = config.model.context;
    let materials = Materials {
        vocab_size: dataset.vocab_size(),
        context,
        seed: config.run.seed,
        device: &device.device,
    };
    let model = build(&materials).map_err(SessionError::Build)?;
    if model.context() != context {
        return Err(SessionError::config(format!(
            "model.context = {context}: the model's own context is {}; set the key to that",
            model.context()
        )));
    }
    Ok(model)
}

/// The board that steps are made on, if there is one. What does not fit there is refused before the model is made,
/// which takes long.
fn open_board(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    options: &TrainerOptions,
) -> Result<Option<Arc<dyn Board>>, SessionError> {
    if config.train.engine == EngineChoice::Autograd {
        return Ok(None);
    }
    let deterministic = config.train.deterministic;
    let Some(board) = device.training_board(&options.ranks, deterministic)? else { return Ok(None) };
    let vocab_size = vocab_size(config, dataset)?;
    let blank = config.model.build_blank(vocab_size, &Device::Cpu).map_err(SessionError::Build)?;
    let blank = adapted(config, blank)?;
    refuse_what_cannot_fit(blank.as_ref(), board.as_ref(), options)?;
    Ok(Some(board))
}

/// The model at its start: with initial values, with those of `model.init_from`, or blank for those of a checkpoint.
fn configured_model(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    board: Option<&Arc<dyn Board>>,
    values: Values,
) -> Result<Box<dyn LanguageModel>, SessionError> {
    let vocab_size = vocab_size(config, dataset)?;
    let home = home_of_parameters(&device.device, board);
    if device.device.is_cpu() {
        need::training(config, vocab_size).check()?;
    } else if home.is_cpu() {
        need::loading("training", &config.model, vocab_size, 1).check()?;
    }
    if let Some(dir) = &config.model.init_from {
        let directory = Directory::open(dir)?;
        if !tokenizer_of(&directory)?.encodes_as(&dataset.tokenizer) {
            return Err(SessionError::config(format!(
                "data.dir = {}: was prepared with another tokenizer than that of model.init_from; \
                 prepare it with wattle prepare --tokenizer {}",
                dataset.dir.display(),
                dir.join("tokenizer.json").display()
            )));
        }
        return adapted(config, directory.load_as(&config.model, &home)?);
    }
    let built = match values {
        Values::Initial => config.model.build(vocab_size, config.run.seed, &home),
        Values::Checkpoint => config.model.build_blank(vocab_size, &home),
    };
    Ok(built.map_err(SessionError::Build)?)
}

/// The model with adapters, if there are to be any.
fn adapted(
    config: &Config,
    base: Box<dyn LanguageModel + Send + Sync>,
) -> Result<Box<dyn LanguageModel>, SessionError> {
    if !config.lora.is_on() {
        return Ok(base);
    }
    let path = config.model.init_from.as_deref();
    let adapted = Adapted::new(base, &config.model, &config.lora, config.run.seed, path);
    Ok(Box::new(adapted.map_err(SessionError::Build)?))
}

/// Rows of the token table.
pub(crate) fn vocab_size(config: &Config, dataset: &Dataset) -> Result<usize, SessionError> {
    config.model.vocab_size_for(dataset.vocab_size()).map_err(SessionError::config)
}

/// Whether checkpoints of one of wattle's families can be written while training goes on. To be asked before the model is
/// built, which takes memory.
pub(crate) fn has_room_for_snapshot(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
) -> Result<bool, SessionError> {
    let plan = plan_of(config, dataset)?;
    Ok(snapshot::is_affordable(config, vocab_size(config, dataset)?, &plan, device.device.is_cpu()))
}

/// What the trainer is told.
pub(crate) fn trainer_options(config: &Config, dataset: &Dataset, segment: u32) -> TrainerOptions {
    TrainerOptions {
        seed: config.run.seed,
        segment,
        dropout: config.model.dropout,
        dtype: config.precision.dtype.into(),
        fp8: config.precision.fp8(),
        moments: config.precision.moments(config.run.seed),
        masks: masks_of(&dataset.train),
        kernels: None,
        select: false,
        ranks: Ranks::default(),
        optimizer: config.optimizer.clone(),
        schedule: config.schedule.clone(),
        train: config.train.clone(),
        evaluate: config.evaluate.clone(),
        early_stop: config.early_stop.clone(),
        checkpoint_every_epochs: config.checkpoint.every_epochs,
        checkpoint_every_steps: config.checkpoint.every_steps,
        checkpoint_in_background: config.checkpoint.background,
    }
}
