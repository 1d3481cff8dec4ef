//! One file a command.

pub mod devices;
#[cfg(feature = "train")]
pub mod train;
