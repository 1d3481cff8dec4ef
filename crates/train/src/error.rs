//! What can go wrong in training.

use std::io;
use std::path::{Path, PathBuf};

use wattle_data::DataError;
use wattle_dist::DistError;
use wattle_model::{EngineError, ModelError, abridged};
use wattle_ops::board::BoardError;
use wattle_runlog::RunlogError;
use wattle_runlog::error::remedy;

/// An error of whoever observes.
pub type ObserverError = Box<dyn std::error::Error + Send + Sync>;

/// A fault that ends training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be built, read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine on a board cannot be built, or the board failed.
    #[error(transparent)]
    Engine(EngineError),
    /// The run directory cannot be written.
    #[error(transparent)]
    Runlog(#[from] RunlogError),
    /// An observer failed.
    #[error(transparent)]
    Observer(ObserverError),
    /// A file of a checkpoint cannot be written or read.
    #[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A checkpoint is not whole, or of something else.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was expected, what came, and what to do.
        reason: String,
    },
    /// A file of kernel choices cannot be used.
    #[error("{}: {reason}; leave out train.kernels to choose anew", path.display())]
    Kernels {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Tasks or prompts do not fit beside training.
    #[error("evaluate.tasks and evaluate.prompts: {fault}; lower train.micro_batch_size, or leave them out")]
    NoRoomForTasks {
        /// What is lacking.
        fault: Box<TrainError>,
    },
    /// A parameter would never learn.
    #[error(
        "{}: no gradient reaches {}: an operation on the way to the loss has no backward",
        if names.len() == 1 { "a parameter cannot learn" } else { "parameters cannot learn" },
        abridged(names)
    )]
    NoGradient {
        /// The parameters' names.
        names: Vec<String>,
    },
    /// A loss or gradient is not a finite number.
    #[error(
        "step {step}: {what} is not finite; the first tensor that was not is {first}. Lower \
         optimizer.learning_rate or set train.clip_norm; {}",
        match last_good {
            Some(path) => format!("{} is good to go on from", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        }
    )]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// "the loss" or "the gradient".
        what: &'static str,
        /// Name of the tensor.
        first: String,
        /// The newest complete checkpoint.
        last_good: Option<PathBuf>,
    },
    /// Steps that are tried went to a loss or gradient that is not finite.
    #[error(
        "within {step} steps the loss or its gradient is not finite; wattle train says which tensor was first, and a lower \
         optimizer.learning_rate may mend it"
    )]
    Diverged {
        /// Steps that were tried.
        step: u64,
    },
    /// The explicit engine was asked for where there is none.
    #[error(
        "train.engine = \"explicit\": wattle's own families have one, in f32 or fp8 on a CPU and in f32, bf16 or fp8 on a GPU; \
         set train.engine to \"auto\", or precision.dtype to \"f32\""
    )]
    NoEngine,
    /// Products in eight bits were asked for where no engine has them.
    #[error(
        "precision.dtype = \"fp8\": the explicit engines of wattle's own families have such products; set train.engine to \
         \"auto\", or precision.dtype to \"bf16\""
    )]
    NoFp8,
    /// Moments in bfloat16 were asked for where no engine has them.
    #[error(
        "precision.moments = \"bf16\": the explicit engines of wattle's own families keep such moments; set train.engine to \
         \"auto\", or precision.moments to \"f32\""
    )]
    NoBf16Moments,
    /// What adapters read was to be dropped where no engine does it.
    #[error(
        "lora.dropout: the explicit engines of wattle's own families drop what adapters read; set train.engine to \"auto\" and \
         precision.dtype to \"f32\" on a CPU, or lora.dropout to 0"
    )]
    NoLoraDropout,
    /// Muon was asked for, and there is nothing for it to update.
    #[error(
        "optimizer.kind = \"muon\": no parameter is a matrix of a block: one of two dimensions with the block's number between \
         dots in its name, as blocks.0.mlp.weight; name them so, or set optimizer.kind to \"adamw\""
    )]
    NoMatrices,
    /// Several ranks, or sums by leaves, were asked for where no engine has them.
    #[error(
        "{what}: the explicit engines of wattle's own families do that; set train.engine to \"auto\", and on a CPU \
         precision.dtype to \"f32\""
    )]
    NotOverRanks {
        /// What was asked for.
        what: String,
    },
    /// Another rank cannot begin, and says why.
    #[error("another rank cannot begin")]
    OtherRank,
    /// The boards of several ranks were not connected.
    #[error("{world} ranks train together, but their boards are not connected: build them with their ranks")]
    BoardAlone {
        /// Ranks.
        world: usize,
    },
    /// Sums by leaves were asked for on a board.
    #[error(
        "train.reduce_leaves = {leaves}: on GPUs sums are made in the order of their library, with the same bits for the same \
         number of ranks alone; leave it out, or add --device cpu"
    )]
    NoLeavesOnBoard {
        /// How many.
        leaves: usize,
    },
    /// The ranks have parted.
    #[error(transparent)]
    Ranks(Box<DistError>),
    /// The ranks have parted in training.
    #[error(
        "{cause}. Rank {rank} leaves at step {step}; {}",
        match last_good {
            Some(path) => format!("start all ranks again with --resume to go on from {}", path.display()),
            None => "there is no checkpoint yet".to_owned(),
        }
    )]
    Parted {
        /// What happened.
        cause: Box<DistError>,
        /// The rank that says so.
        rank: usize,
        /// Finished updates.
        step: u64,
        /// The newest complete checkpoint.
        last_good: Option<PathBuf>,
    },
    /// The device that was asked for cannot be had.
    #[error("{0}")]
    Device(String),
}

impl TrainError {
    /// Adds a path and an action to what the operating system said.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl From<DistError> for TrainError {
    fn from(error: DistError) -> Self {
        Self::Ranks(Box::new(error))
    }
}

impl From<EngineError> for TrainError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unreached { names } => Self::NoGradient { names },
            EngineError::Board(BoardError::Ranks(error)) => error.into(),
            other => Self::Engine(other),
        }
    }
}
