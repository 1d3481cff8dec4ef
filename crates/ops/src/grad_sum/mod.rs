//! Gradients in bfloat16, to which the products of micro-batches are added.
//!
//! A sum is made in `f32` and rounded at random between its two neighbours, so that what a micro-batch adds is not lost where
//! it is less than half their distance: the mean of what is kept is the sum itself.
//!
//! # References
//! Gupta et al., *Deep Learning with Limited Numerical Precision*, 2015, section 3.1.

pub mod board;
pub mod cpu;
