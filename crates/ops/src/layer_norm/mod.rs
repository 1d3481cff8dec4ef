//! Layer normalization.

mod reference;

pub use reference::layer_norm;
