//! In what losses are compared: nats a token where all runs speak the same tokens, else bits a byte of text.

use serde::Serialize;

use crate::join::learning::Evaluation;
use crate::join::report::Report;

/// What a validation loss is stated in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Mean cross-entropy of a token.
    NatsPerToken,
    /// The same for each byte of the text, whatever tokens it was cut into.
    BitsPerByte,
    /// The share of a task's items that are wrong.
    ErrorRate,
}

impl Measure {
    /// The measure by which these runs can be compared.
    pub fn of(reports: &[Report]) -> Self {
        let tokenizer =
            |report: &Report| report.provenance.data.as_ref().map(|data| data.tokenizer_sha256.clone());
        match reports.windows(2).all(|pair| tokenizer(&pair[0]) == tokenizer(&pair[1])) {
            true => Self::NatsPerToken,
            false => Self::BitsPerByte,
        }
    }

    /// An evaluation's loss in it.
    pub fn loss(self, evaluation: &Evaluation) -> f64 {
        match self {
            Self::NatsPerToken | Self::ErrorRate => evaluation.loss,
            Self::BitsPerByte => evaluation.bits_per_byte,
        }
    }

    /// Its unit in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NatsPerToken => "nats a token",
            Self::BitsPerByte => "bits a byte, since their tokenizers differ",
            Self::ErrorRate => "shares of items that are wrong",
        }
    }

    /// What is compared, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::NatsPerToken | Self::BitsPerByte => "validation loss",
            Self::ErrorRate => "error rate",
        }
    }
}
