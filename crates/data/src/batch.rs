//! Sequences that a model reads and what it is to predict of each.

use crate::error::DataError;

/// Token ids of `batch_size` sequences of `context` tokens, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the model reads, `[batch_size, context]`.
    pub inputs: Vec<u32>,
    /// What it is to predict, `[batch_size, context]`: the inputs shifted by one.
    pub targets: Vec<u32>,
    /// How much each target counts, `[batch_size, context]`: finite and at least 0, where 0 leaves it out. Absent, each
    /// counts once.
    pub weights: Option<Vec<f32>>,
    /// For each token the position in its sequence at which its document starts, `[batch_size, context]`. No token sees
    /// one of another document. Absent, each sequence is one document.
    pub documents: Option<Vec<u32>>,
    /// Number of sequences.
    pub batch_size: usize,
    /// Tokens of a sequence.
    pub context: usize,
}

impl Batch {
    /// A batch in which each target counts once and each sequence is one document.
    pub fn plain(inputs: Vec<u32>, targets: Vec<u32>, batch_size: usize, context: usize) -> Self {
        Self { inputs, targets, weights: None, documents: None, batch_size, context }
    }

    /// A batch whose `batch_size` sequences are yet to be added.
    pub(crate) fn with_room(batch_size: usize, context: usize) -> Self {
        let room = || Vec::with_capacity(batch_size * context);
        Self::plain(room(), room(), batch_size, context)
    }

    /// The first `n` sequences.
    #[must_use]
    pub fn first(mut self, n: usize) -> Self {
        self.batch_size = self.batch_size.min(n);
        let len = self.batch_size * self.context;
        self.inputs.truncate(len);
        self.targets.truncate(len);
        self.weights.iter_mut().for_each(|weights| weights.truncate(len));
        self.documents.iter_mut().for_each(|documents| documents.truncate(len));
        self
    }

    /// Tokens of a sequence before its padding.
    pub fn filled(&self, sequence: usize) -> usize {
        let rows = sequence * self.context..(sequence + 1) * self.context;
        let (Some(weights), Some(documents)) = (&self.weights, &self.documents) else { return self.context };
        let (weights, documents) = (&weights[rows.clone()], &documents[rows]);
        // Padding is documents of one token each that do not count; other documents have something that counts.
        let is_padding = |row: &usize| weights[*row] == 0.0 && documents[*row] as usize == *row;
        self.context - (0..self.context).rev().take_while(is_padding).count()
    }

    /// Number of tokens to predict, those that do not count too.
    pub fn tokens(&self) -> u64 {
        self.targets.len() as u64
    }

    /// Number of targets that count.
    pub fn counted(&self) -> u64 {
        match &self.weights {
            Some(weights) => weights.iter().filter(|&&weight| weight > 0.0).count() as u64,
            None => self.tokens(),
        }
    }
}

/// That a batch has at least one sequence.
pub(crate) fn check_batch_size(batch_size: usize) -> Result<(), DataError> {
    if batch_size > 0 {
        return Ok(());
    }
    let expected = "at least 1".to_owned();
    Err(DataError::Argument { name: "train.batch_size", expected, got: batch_size.to_string() })
}
