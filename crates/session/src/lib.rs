//! A metered training run as a library.
//!
//! [`Session`] starts or resumes a run in its directory, trains, meters, keeps the budget and writes everything that the
//! command line's `wattle train` writes: events, records of energy, checkpoints with their emissions and a model card,
//! the report. Here the learning crates and the measuring crates meet.
//!
//! - [`config`]: the configuration of a run; `reference`: its keys, as `docs/configuration.md` lists them
//! - [`session`]: from a configuration to the last checkpoint
//! - [`listener`]: who follows it
//! - [`earlier`], `new_run`: what is in a run directory already, or nothing yet
//! - [`data`], [`data_notes`]: the data, and what a person should know of them
//! - `build`, [`checkpoint`]: the model, new or from a file; `kernels`: which kernels train it on a board
//! - [`forecast`], [`need`], [`memory`], `snapshot`: what a run would be, and whether it fits
//! - `metering`, `budget`, [`pace`], `ending`: what it uses, and when it has to end
//! - [`grid`]: what the grid emits meanwhile, and when training waits
//! - `observer`: the trainer's observer
//! - [`together`], `seats`, `following`: several processes that train one model; `nodes`: the meters of their machines
//! - `manifest`, `model_card`: what the run and its checkpoints say of themselves
//! - [`metered`]: the energy of other work in this process
//! - [`trial`]: some seconds of a configuration's training, metered and thrown away
//! - [`threads`]: how many threads compute

mod budget;
mod build;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod data_notes;
pub mod earlier;
mod ending;
pub mod error;
mod following;
pub mod forecast;
pub mod grid;
mod kernels;
pub mod listener;
mod manifest;
pub mod memory;
pub mod metered;
mod metering;
mod model_card;
pub mod need;
mod new_run;
mod nodes;
mod observer;
pub mod pace;
mod peak;
mod reference;
mod seats;
pub mod session;
mod snapshot;
pub mod threads;
pub mod together;
pub mod trial;
mod warmup;

pub use build::Materials;
pub use config::{BudgetConfig, Config, RunConfig};
pub use error::SessionError;
pub use forecast::Forecast;
pub use listener::Listener;
pub use reference::reference;
pub use session::{Outcome, Resume, Session, Trained};
pub use threads::set_threads;
pub use together::Together;
pub use warmup::warmup_warning;
