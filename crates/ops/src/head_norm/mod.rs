//! Normalization by the root of the mean square of heads within rows, in place.
//!
//! As [`rms_norm`](crate::rms_norm::rms_norm()) over the last dimension of (n, n_heads, width), which is its
//! reference: of heads of the width of a whole projection there is one a row.
//!
//! # References
//! Dehghani et al., *Scaling Vision Transformers to 22 Billion Parameters*, 2023, section 2 (queries and keys).

pub mod board;
pub mod cpu;
