//! Numbers in another type.

pub mod cuda;
