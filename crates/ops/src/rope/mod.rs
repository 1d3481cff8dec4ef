//! Rotary position embedding.

pub mod board;
pub mod cpu;
mod reference;
mod table;

pub use reference::rope;
pub use table::{Rotary, Scaling, frequencies};
