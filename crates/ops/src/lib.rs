//! The operations that a transformer is made of.
//!
//! One operation is one folder. `reference.rs` is the operation in plain, differentiable candle tensor
//! operations: it is the specification that every faster form is held against, and what engine tier 0 trains
//! with. candle's own fused softmax, norms and rotary embedding have no backward and silently return no
//! gradient; none of them is used here.
//!
//! Shapes are written with b batch, t time, c channels, h heads, d head width, v vocabulary, n rows (b·t).
//!
//! Errors are candle's: a shape or dtype that does not fit.
//!
//! - [`embedding`]: token and position vectors
//! - [`layer_norm`]: normalization of each row
//! - [`linear`]: x·W + b
//! - [`attention`]: causal self-attention
//! - [`activation`]: GELU (exact and tanh) and ReLU
//! - [`dropout`]: masks that are a pure function of seed, step, site and element
//! - [`cross_entropy`]: loss over a vocabulary, and next-token accuracy

pub mod embedding;
pub mod layer_norm;
pub mod linear;

pub mod activation;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;

mod rows;

pub use activation::Activation;
pub use attention::AttentionDropout;
pub use dropout::Dropout;
