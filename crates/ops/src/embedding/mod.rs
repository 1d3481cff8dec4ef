//! Token and position vectors, added.

mod reference;

pub use reference::embedding;
