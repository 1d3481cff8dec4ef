//! Every CPU kernel against its reference in f64: forward, and backward against candle's autograd.
//!
//! References themselves are held against finite differences in `tests/reference.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;

mod activation;
mod attention;
mod classifier;
mod dropout;
mod embedding;
mod linear;
mod norm;
mod optimizer;
mod rope;
