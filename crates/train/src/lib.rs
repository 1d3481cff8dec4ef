//! Training: optimizers, schedules, the loop, evaluation, checkpoints and exact resume.
//!
//! The trainer says what happens through an [`Observer`] and knows nothing of who listens: not of files of
//! events, not of progress bars, not of watts.
//!
//! - [`config`]: the sections of a configuration that say how to train
//! - [`options`]: what a run needs to know
//! - [`plan`]: how many steps and epochs that makes
//! - [`engine`]: what makes the steps: one interface, three engines
//! - [`kernels`]: which kernels a board's engine takes
//! - [`gradients`]: loss and gradients of a batch, in micro-batches
//! - [`certificate`]: proof that every parameter receives a gradient
//! - [`schedule`]: the learning rate of a step
//! - [`evaluate`]: loss on held-out data
//! - [`tasks`]: scores on items with a right answer, and texts after prompts
//! - [`early_stop`]: when to stop before the end
//! - [`diagnose`]: which tensor was the first that is not finite
//! - [`checkpoint`]: what a run can go on from, complete or absent
//! - [`observer`]: who is told
//! - [`ranks`]: several processes that train one model
//! - [`trainer`]: the loop
//! - [`device`]: what to compute on

pub mod certificate;
pub mod checkpoint;
pub mod config;
pub mod device;
pub mod diagnose;
pub mod early_stop;
pub mod engine;
pub mod error;
pub mod evaluate;
pub mod gradients;
pub mod kernels;
pub mod observer;
pub mod options;
pub mod plan;
mod prompts;
pub mod ranks;
pub mod schedule;
pub mod tasks;
pub mod trainer;

pub use checkpoint::{Checkpoints, TrainState};
pub use config::{
    CheckpointConfig, EarlyStopConfig, EngineChoice, EvaluateConfig, OptimizerConfig, PrecisionConfig,
    ScheduleConfig, TrainConfig,
};
pub use engine::StepEngine;
pub use error::TrainError;
pub use kernels::{KERNELS_FILE, Kernels};
pub use observer::{Directive, Draft, Edge, ExtraFile, Observer, Progress};
pub use options::TrainerOptions;
pub use plan::Plan;
pub use prompts::Prompts;
pub use ranks::Ranks;
pub use trainer::Trainer;
