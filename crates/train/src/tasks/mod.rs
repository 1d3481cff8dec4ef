//! Tasks and samples: what a model scores on items with a right answer, and what it writes after prompts.
//!
//! - [`exam`]: items as tokens, held against the model's context before anything is computed
//! - [`answer`]: what a model makes of each item
//! - [`score`]: scores of a task, and their standard errors
//! - [`sample`]: texts after prompts

pub mod answer;
pub mod exam;
pub mod sample;
pub mod score;

use std::sync::Arc;

use candle_core::DType;
use wattle_model::generate::{Alone, ByModel, Decoder};
use wattle_model::{DecoderOptions, LanguageModel};
use wattle_ops::board::{Board, Elem};

pub use answer::{Answer, answers};
pub use exam::Exam;
pub use sample::{SampleOptions, samples};
pub use score::scores;

use crate::error::TrainError;

/// Most tokens of prompts that go through a board's engine in one pass. The bits of what it says depend on it.
const ROWS_AT_ONCE: usize = 128;
/// Most texts at once: beyond it, a board's products for them depend on how many there are.
pub const MAX_BATCH: usize = 32;

/// What predicts in an evaluation: the board's explicit engine where there is a board, else the model's own operations, one
/// text after the other. It has room for `n_slots` texts of `room` tokens, and what it says of one does not depend on the
/// others.
///
/// # Errors
/// If there is too little memory, or the board fails.
pub fn decoder<'a>(
    model: &'a dyn LanguageModel,
    board: Option<&Arc<dyn Board>>,
    dtype: DType,
    n_slots: usize,
    room: usize,
) -> Result<Box<dyn Decoder + 'a>, TrainError> {
    let n_slots = n_slots.clamp(1, MAX_BATCH);
    if let (Some(board), Some(elem)) = (board, Elem::of(dtype)) {
        let options = DecoderOptions { n_slots, room, most_rows: ROWS_AT_ONCE, elem };
        if let Some(decoder) = model.decoder(Arc::clone(board), options)? {
            return Ok(Box::new(Alone::new(Box::new(decoder))));
        }
    }
    Ok(Box::new(Alone::new(Box::new(ByModel::new(model, n_slots, dtype)))))
}
