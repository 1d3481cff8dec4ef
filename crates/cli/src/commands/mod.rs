//! One file a command.

pub mod devices;
#[cfg(feature = "train")]
pub mod evaluate;
#[cfg(feature = "train")]
pub mod generate;
pub mod meter;
#[cfg(feature = "train")]
pub mod prepare;
#[cfg(feature = "train")]
pub mod train;
