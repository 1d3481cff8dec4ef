//! The output head and the loss in one: logits of the whole batch never exist at once.

pub mod board;
pub mod cpu;
pub mod fp8;
mod reference;

pub use reference::{classifier_loss, soft_cap, weighted_classifier_loss};
