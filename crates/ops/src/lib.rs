//! The operations that a transformer is made of.
//!
//! One operation is one folder. `reference.rs` is the operation in plain, differentiable candle tensor
//! operations: it is the specification that every faster form is held against, and what the autograd engine trains
//! with. candle's own fused softmax, norms and rotary embedding have no backward and silently return no
//! gradient; none of them is used here.
//!
//! Shapes are written with b batch, t time, c channels, h heads, d head width, v vocabulary, n rows (b·t).
//!
//! Errors are candle's: a shape or dtype that does not fit.
//!
//! `cpu.rs` is the operation on slices of `f32`, forward and backward, for an engine that plans its own memory:
//! row-major, on the caller's thread, without allocation, with scratch handed in. Gradients of parameters are
//! accumulated (`+=`), those of activations overwritten, unless a function says otherwise. `*_par` functions
//! use rayon's threads, and give the same bits for any number of them. See [`simd`] for what results depend on.
//!
//! - [`embedding`]: token and position vectors
//! - [`layer_norm`], [`rms_norm`]: normalization of each row
//! - [`head_norm`]: that of each head within rows, in place
//! - [`linear`]: x·W + b
//! - [`lora`]: what a low-rank adapter adds to that
//! - [`rope`]: rotary position embedding
//! - [`attention`]: causal self-attention
//! - [`decode`]: rows of several texts against a cache of keys and values, on a board
//! - [`activation`]: GELU (exact and tanh) and ReLU
//! - [`swiglu`]: the gated activation
//! - [`dropout`]: masks that are a pure function of seed, step, site and element
//! - [`cross_entropy`]: loss over a vocabulary, and next-token accuracy
//! - [`classifier`]: output head and loss in one
//! - [`grad_norm`]: the gradient's length, and clipping
//! - [`adamw`]: the update
//! - [`muon`]: that of matrices by orthogonalized momentum
//! - [`results`]: what a step says, kept on a board
//! - [`bf16`]: numbers of 16 bits on a CPU, rounded to the nearest or at random
//! - [`cast`]: numbers in another type, on a board
//! - [`fp8`]: numbers of eight bits, and their scales
//! - [`board`]: what an engine asks of a GPU
//! - [`verify`]: every operation against its reference on the machine at hand

pub mod embedding;
pub mod layer_norm;
pub mod linear;
pub mod lora;
pub mod rms_norm;

pub mod attention;
pub mod decode;
pub mod rope;

pub mod activation;
pub mod dropout;
pub mod swiglu;

pub mod classifier;
pub mod cross_entropy;

pub mod adamw;
pub mod grad_norm;
pub mod muon;
pub mod results;

pub mod bf16;
pub mod cast;
pub mod fp8;

pub mod board;
pub mod simd;
pub mod verify;

mod gemm;
pub mod head_norm;
mod heads;
mod lanes;
mod math;
mod positions;
mod rows;
mod store;
mod tile;

pub use activation::Activation;
pub use attention::AttentionDropout;
pub use dropout::Dropout;
pub use heads::HeadRows;
pub use store::Store;
