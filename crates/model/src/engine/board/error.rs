//! What can go wrong with an engine on a board.

use std::fmt;

use wattle_ops::board::BoardError;

use super::MAX_PENDING_STEPS;
use crate::differences::abridged;
use crate::engine::{Fp8SizeError, Recompute};

/// A fault of an engine on a board.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The board failed.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// There is less memory than training takes.
    #[error(
        "training takes {} on {device}, of which {} are free: {}{attention}",
        gib(*needed),
        gib(*free),
        remedy(*micro_batch, *largest, *recompute)
    )]
    DoesNotFit {
        /// The device.
        device: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Sequences of a micro-batch, as asked for.
        micro_batch: usize,
        /// The most that would fit; `None` if not even one does.
        largest: Option<usize>,
        /// What is computed again, as asked for.
        recompute: Recompute,
        /// What there is to say about attention's memory, where it would fit without: see [`AttentionMemory`].
        attention: AttentionMemory,
    },
    /// There is less memory than evaluating takes.
    #[error(
        "evaluating takes {} on {device}, of which {} are free: --dtype bf16 takes half, or lower the context of {context} \
         in the checkpoint's config.json (n_positions, max_position_embeddings){attention}",
        gib(*needed),
        gib(*free)
    )]
    EvaluationDoesNotFit {
        /// The device.
        device: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Tokens of a window.
        context: usize,
        /// As for training.
        attention: AttentionMemory,
    },
    /// More rows than a kernel counts.
    #[error(
        "micro-batches of {rows} rows, with {most_of_row} heads or columns each, are more than the {} that kernels count: \
         lower train.micro_batch_size or model.context",
        i32::MAX
    )]
    TooManyRows {
        /// Sequences of a micro-batch times tokens of one.
        rows: usize,
        /// What is counted of a row.
        most_of_row: usize,
    },
    /// There is less memory than generating takes.
    #[error(
        "generating {n_slots} texts of up to {room} tokens at once takes {} on {device}, of which {} are free: {}",
        gib(*needed),
        gib(*free),
        fewer_texts(*largest)
    )]
    GenerationDoesNotFit {
        /// The device.
        device: String,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Texts at once, as asked for.
        n_slots: usize,
        /// Positions that each has room for.
        room: usize,
        /// The most texts that would fit; `None` if not even one does.
        largest: Option<usize>,
    },
    /// A text that is longer than a decoder has room for.
    #[error("a text of {got} tokens came to a decoder with room for {room}")]
    TextTooLong {
        /// Tokens.
        got: usize,
        /// Tokens.
        room: usize,
    },
    /// A model whose tokens see those after them, which are not there yet.
    #[error(
        "the model's attention sees the whole context, also tokens that are still to come: it cannot generate"
    )]
    SeesAhead,
    /// The board does not multiply numbers of eight bits.
    #[error("precision.dtype = \"fp8\": {why}; set precision.dtype = \"bf16\"")]
    NoFp8 {
        /// What the board said.
        why: String,
    },
    /// A size that products in eight bits do not have.
    #[error(transparent)]
    Fp8Size(#[from] Fp8SizeError),
    /// A batch of another size than the engine was made for.
    #[error("a batch of {got} tokens came to an engine made for {expected}")]
    Batch {
        /// Tokens.
        expected: usize,
        /// Tokens.
        got: usize,
    },
    /// A batch with weights or documents for an engine that was made without.
    #[error("a batch with {what} came to an engine made without")]
    Masks {
        /// Weights of targets, or documents.
        what: &'static str,
    },
    /// A token that the model does not have.
    #[error("token {token} of a vocabulary of {n_vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Tokens that there are.
        n_vocab: usize,
    },
    /// Parameters that would never learn.
    #[error("no gradient reaches {}", abridged(names))]
    Unreached {
        /// Their names.
        names: Vec<String>,
    },
    /// More steps were queued than their results have room for.
    #[error("{MAX_PENDING_STEPS} steps were queued and nobody asked for their results")]
    Pending,
}

/// The part of attention in memory that is lacking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttentionMemory {
    /// Little: without it, there would not be enough either.
    Little,
    /// The scores of one sequence, since attention is made of products.
    Scores {
        /// Bytes.
        bytes: u64,
        /// Heads.
        n_heads: usize,
        /// Length of a sequence, t: each head has t² scores.
        t: usize,
        /// Why attention is not fused, and what to do about it.
        why: String,
    },
    /// What fused attention needs to sum gradients in one order.
    Workspace {
        /// Bytes.
        bytes: u64,
        /// Length of a sequence.
        t: usize,
    },
}

impl fmt::Display for AttentionMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Little => Ok(()),
            Self::Scores { bytes, n_heads, t, why } => write!(
                f,
                ". {} of it are the scores of one sequence, {n_heads} heads of {t} by {t}, with or without a window, since \
                 attention is made of products: {why}. Fused attention keeps no scores; a smaller model.context has \
                 fewer",
                gib(*bytes)
            ),
            Self::Workspace { bytes, t } => write!(
                f,
                ". {} of it are the workspace of fused attention, 2 bytes for each of {t} by {t} scores of every head and \
                 sequence, with which gradients are summed in one order: train.deterministic = false takes next to none, a \
                 smaller train.micro_batch_size or model.context less",
                gib(*bytes)
            ),
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}

fn fewer_texts(largest: Option<usize>) -> String {
    match largest {
        Some(n) => {
            format!("--batch {n} is the most that fits; --dtype bf16 or a smaller --max-tokens takes less")
        }
        None => "not even --batch 1 fits; --dtype bf16 or a smaller --max-tokens takes less".to_owned(),
    }
}

fn remedy(micro_batch: usize, largest: Option<usize>, recompute: Recompute) -> String {
    let smaller = match largest {
        Some(n) => format!("set train.micro_batch_size = {n}, the largest that fits (it is {micro_batch})"),
        None => "not even train.micro_batch_size = 1 fits".to_owned(),
    };
    match recompute {
        Recompute::None => format!("{smaller}, or train.recompute = \"mlp\" or \"block\""),
        Recompute::Mlp => format!("{smaller}, or train.recompute = \"block\""),
        Recompute::Block => format!("{smaller}; a smaller model or model.context takes less"),
    }
}
