//! One file a command.

pub mod calibrate;
#[cfg(feature = "train")]
pub mod chat;
pub mod compare;
pub mod devices;
pub mod estimate;
#[cfg(feature = "train")]
pub mod evaluate;
#[cfg(feature = "train")]
pub mod export;
#[cfg(feature = "train")]
pub mod generate;
#[cfg(feature = "train")]
pub mod init;
pub mod man;
pub mod meter;
pub mod page;
#[cfg(feature = "train")]
pub mod prepare;
pub mod report;
pub mod runs;
#[cfg(feature = "train")]
pub mod show;
#[cfg(feature = "train")]
pub mod sweep;
#[cfg(feature = "train")]
mod tasks;
#[cfg(feature = "train")]
pub mod train;
#[cfg(feature = "train")]
pub mod tune;
#[cfg(feature = "train")]
pub mod verify;
