//! A metered training run as a library.

pub mod config;
pub mod sections;

pub use config::{BudgetConfig, Config, RunConfig};
pub use sections::Section;
