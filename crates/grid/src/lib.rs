//! What the grid emits for a kilowatt-hour, now and in the hours ahead, and when it is worth waiting for.
//!
//! Off unless it is asked for. A thread asks one provider, once in each interval that its figures stand for, and keeps
//! what it learns on the process's monotonic clock; training never waits for it. What a provider does not tell is
//! unknown here, and priced by a table elsewhere.
//!
//! - [`config`]: the section `grid` of a configuration
//! - [`provider`]: what a provider is; [`electricity_maps`], [`uk`]
//! - `client`: one question over HTTP, and the provider's clock
//! - `cache`: answers that processes of one machine share
//! - `schedule`: when to ask next
//! - [`watch`]: the thread that asks
//! - [`cleanest`]: the best time to start
//! - [`policy`]: whether to train or to wait

pub mod config;
pub mod error;
pub mod provider;

pub mod electricity_maps;
pub mod uk;

mod cache;
mod client;
mod schedule;
pub mod watch;

pub mod cleanest;
pub mod policy;

pub use config::{Deadline, GridConfig, ProviderKind, StartKind};
pub use error::GridError;
pub use policy::{Decision, Outlook, Policy, Wait};
pub use provider::{Interval, Provider, Query};
pub use watch::{Grid, Learnt};
