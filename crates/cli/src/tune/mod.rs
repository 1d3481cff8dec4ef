//! What `wattle tune` is made of.
//!
//! - [`kernels`]: what a GPU can choose between
//! - [`space`]: what is tried
//! - [`trials`]: trials as processes of their own, so that one that does not fit into memory ends alone
//! - [`board`]: a board's power limit and clock, put back whatever happens
//! - [`text`]: what a person sees, and the configuration that is left

pub mod board;
pub mod kernels;
pub mod space;
pub mod text;
pub mod trials;
