//! Multi-head self-attention, causal unless [`Kind`] or documents say otherwise.
//!
//! # By hand
//! The article that this project grew from multiplies matrices whose shapes do not conform, so its numbers cannot be
//! computed. What conforms for one head: queries, keys and values (t, d), scores `q·kᵀ` (t, t), and the output
//! (t, d) again. Here are three positions of width 4, with numbers of our own, chosen so that they can be followed
//! without a machine. Keys are unit vectors, so a query holds its own scores; each query is `√d = 2` times the
//! logarithms of whole numbers, so its softmax divides these by their sum.
//!
//! | position | weights before the mask | after the mask | output |
//! |---|---|---|---|
//! | 1 | 1 : 1 : 1 | 1 | (12, 0) |
//! | 2 | 1 : 3 : 4 | 1/4, 3/4 | ¼·(12, 0) + ¾·(0, 12) = (3, 9) |
//! | 3 | 1 : 2 : 3 | 1/6, 2/6, 3/6 | ⅙·(12, 0) + ⅓·(0, 12) + ½·(6, 6) = (5, 7) |
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use wattle_ops::attention::{scaled_dot_product_attention, causal_mask};
//!
//! let ln = |n: f32| 2.0 * n.ln();
//! let q = [[ln(1.0), ln(1.0), ln(1.0), 0.0], [ln(1.0), ln(3.0), ln(4.0), 0.0], [ln(1.0), ln(2.0), ln(3.0), 0.0]];
//! let k = [[1f32, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
//! let v = [[12f32, 0.0, 0.0, 0.0], [0.0, 12.0, 0.0, 0.0], [6.0, 6.0, 0.0, 0.0]];
//! let one_head = |rows: &[[f32; 4]; 3]| Tensor::new(rows, &Device::Cpu)?.reshape((1, 1, 3, 4));
//! let (q, k, v) = (one_head(&q)?, one_head(&k)?, one_head(&v)?);
//!
//! // (3, 4) times (3, 4) does not conform; (3, 4) times (4, 3) does.
//! assert!(q.matmul(&k).is_err());
//!
//! let out = scaled_dot_product_attention(&q, &k, &v, &causal_mask(3, &Device::Cpu)?, None)?;
//! let rows = out.reshape((3, 4))?.to_vec2::<f32>()?;
//! for (row, by_hand) in rows.iter().zip([[12.0, 0.0], [3.0, 9.0], [5.0, 7.0]]) {
//!     assert!((row[0] - by_hand[0]).abs() < 1e-5 && (row[1] - by_hand[1]).abs() < 1e-5, "{row:?}");
//! }
//!
//! // Without a mask, as the article prints it, the first position sees the two that it is to predict.
//! let no_mask = Tensor::zeros((3, 3), candle_core::DType::F32, &Device::Cpu)?;
//! let out = scaled_dot_product_attention(&q, &k, &v, &no_mask, None)?.reshape((3, 4))?.to_vec2::<f32>()?;
//! assert!((out[0][0] - 6.0).abs() < 1e-5 && (out[0][1] - 6.0).abs() < 1e-5, "{:?}", out[0]);
//! # Ok::<(), candle_core::Error>(())
//! ```

pub mod board;
pub mod cpu;
mod kind;
mod reference;

pub use kind::Kind;
pub use reference::{causal_mask, causal_mask_after, mask, mask_after, scaled_dot_product_attention};

/// Dropout of attention probabilities; see [`crate::Dropout`].
pub type AttentionDropout = crate::Dropout;
