//! Text from a model, one token after the other.
//!
//! # What a model predicts
//! The article that this project grew from ends with a plot of predictions. A prediction is a probability for every
//! token of the vocabulary, and which token is taken is a second matter. `wattle generate RUN --explain` shows both;
//! this was written by the embedded default after its three minutes of training, with `--temperature 0`:
//!
//! ```text
//! token                 p  likeliest, as the model predicts them
//! " time"          98.5 %  " time" 98.5 %  " season" 0.5 %  " wall" 0.2 %  " week" 0.1 %  " village" 0.1 %
//! ","              99.9 %  "," 99.9 %  "." 0.0 %  " it" 0.0 %  " and" 0.0 %  " with" 0.0 %
//! " in"            99.7 %  " in" 99.7 %  " lay" 0.1 %  " before" 0.1 %  " behind" 0.0 %  " and" 0.0 %
//! " the"           91.6 %  " the" 91.6 %  "d" 3.5 %  "g" 0.3 %  " every" 0.2 %  " Wild" 0.1 %
//! " time"          42.8 %  " time" 42.8 %  " tiny" 6.5 %  " qu" 5.2 %  " small" 4.7 %  " village" 3.9 %
//! ```
//!
//! The same from a program, with a model that has learnt nothing: every token is about as likely as any other.
//!
//! ```
//! use candle_core::Device;
//! use wattle_model::{GenerateOptions, Generator, Gpt2, ModelConfig, Sampling};
//!
//! let config = ModelConfig { n_layers: 1, n_heads: 2, d_model: 16, context: 8, ..ModelConfig::default() };
//! let model = Gpt2::new(&config, 5, 1, &Device::Cpu)?;
//! let options = GenerateOptions {
//!     sampling: Sampling { temperature: 0.0, ..Sampling::default() },
//!     max_tokens: 3,
//!     end_of_text: None,
//!     n_allowed: 5,
//!     n_likeliest: 5,
//! };
//! for step in Generator::new(&model, &[0, 3], options)? {
//!     let step = step?;
//!     let sum: f64 = step.likeliest.iter().map(|(_, probability)| probability).sum();
//!     assert!((sum - 1.0).abs() < 1e-6);
//!     assert!(step.likeliest.iter().all(|(_, probability)| (probability - 0.2).abs() < 0.1));
//!     // At temperature 0 the likeliest is taken.
//!     assert_eq!(step.likeliest[0], (step.token, step.probability.unwrap()));
//! }
//! # Ok::<(), wattle_model::ModelError>(())
//! ```

mod decoder;
mod dialogue;
mod generator;
mod likelihood;
mod sampling;

pub use decoder::{Alone, ByModel, Decoder, operations_on};
pub use dialogue::Dialogue;
pub use generator::{GenerateOptions, Generator, Step, Texts};
pub use likelihood::{Asked, Likelihood, likelihoods};
pub use sampling::Sampling;
