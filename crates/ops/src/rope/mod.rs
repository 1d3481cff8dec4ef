//! Rotary position embedding.

pub mod cpu;
pub mod cuda;
mod reference;
mod table;

pub use reference::rope;
pub use table::{Rotary, Scaling, frequencies};
