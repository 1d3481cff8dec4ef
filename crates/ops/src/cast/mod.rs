//! Numbers in another type.

pub mod board;
