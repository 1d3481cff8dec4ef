//! What happened in a run: `events.jsonl`, one event a line.
//!
//! ```
//! use wattle_runlog::{Event, EventBody, MonotonicNs};
//!
//! let event = Event::new(0, MonotonicNs(5), EventBody::Epoch { epoch: 1, step: 100, complete: true });
//! assert_eq!(
//!     event.to_json(),
//!     r#"{"schema":"wattle.event/1","segment":0,"t_ns":5,"event":"epoch","epoch":1,"step":100,"complete":true}"#
//! );
//! ```

use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::MonotonicNs;
use crate::score::{Sample, TaskScores};
use crate::units::GramsPerKwh;

/// Name and version of the format of an event.
pub const EVENT_SCHEMA: &str = "wattle.event/1";

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`EVENT_SCHEMA`].
    pub schema: String,
    /// The run's segment: 0 for the first process, one more for each resume.
    pub segment: u32,
    /// When, on the host's monotonic clock.
    pub t_ns: MonotonicNs,
    /// What.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened. Numbers that are not finite are written as null and read as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventBody {
    /// An optimizer update was made.
    Step(StepEvent),
    /// A split was evaluated.
    Evaluate(EvaluateEvent),
    /// The model was scored on tasks.
    Tasks {
        /// Updates made so far.
        step: u64,
        /// The scores of each task.
        tasks: Vec<TaskScores>,
    },
    /// The model went on from prompts.
    Samples {
        /// Updates made so far.
        step: u64,
        /// The texts, in the order of the prompts.
        samples: Vec<Sample>,
    },
    /// An epoch ended, or was cut short.
    Epoch {
        /// Which, counted from 1.
        epoch: u64,
        /// Updates made so far.
        step: u64,
        /// Whether all its batches were seen.
        complete: bool,
    },
    /// A checkpoint stands complete on disk.
    Checkpoint {
        /// Updates made so far.
        step: u64,
        /// Its directory, relative to the run directory.
        path: String,
        /// Whether it is the best by validation loss so far.
        best: bool,
    },
    /// Training waits for cleaner electricity.
    Pause {
        /// Updates made so far.
        step: u64,
        /// What it waits for.
        reason: PauseReason,
        /// The grid's intensity now, in grams of CO₂-equivalent a kilowatt-hour.
        g_per_kwh: GramsPerKwh,
    },
    /// Training goes on after a pause.
    Resume {
        /// Updates made so far.
        step: u64,
    },
    /// The run, or this segment of it, ended.
    Stop {
        /// Updates made so far.
        step: u64,
        /// Why.
        reason: StopReason,
    },
}

/// One optimizer update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Finished updates, counted from 1.
    pub step: u64,
    /// The epoch it belongs to, counted from 1.
    pub epoch: u64,
    /// Tokens trained on so far, counted once each however often a step was repeated.
    pub tokens: u64,
    /// Mean cross-entropy in nats a token, before the update.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f32,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Global norm of the gradient before clipping.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f32,
    /// Tokens of this step over its duration.
    pub tokens_per_s: f64,
    /// Share of next tokens that were the model's first choice.
    #[serde(deserialize_with = "null_is_nan")]
    pub accuracy: f32,
}

/// An evaluation of one split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluateEvent {
    /// Updates made so far.
    pub step: u64,
    /// Which part of the data ("val").
    pub split: String,
    /// Mean cross-entropy in nats a token.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// e to the loss.
    #[serde(deserialize_with = "null_is_nan")]
    pub perplexity: f64,
    /// Bits for each byte of the text that the tokens stand for; null where they do not stand for all of it.
    #[serde(deserialize_with = "null_is_nan")]
    pub bits_per_byte: f64,
    /// Share of next tokens that were the model's first choice.
    #[serde(deserialize_with = "null_is_nan")]
    pub accuracy: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Of a mixture: each source by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceEvaluation>,
}

/// An evaluation of one source of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceEvaluation {
    /// What it is called.
    pub name: String,
    /// Mean cross-entropy in nats a token.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Bits for each byte of its text; null where the tokens do not stand for all of it.
    pub bits_per_byte: Option<f64>,
    /// Share of next tokens that were the model's first choice.
    #[serde(deserialize_with = "null_is_nan")]
    pub accuracy: f64,
    /// Tokens predicted.
    pub tokens: u64,
}

/// What training waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// The cleanest hours before a deadline (`grid.start`).
    Cleanest,
    /// An intensity of at most a limit (`grid.pause_above_g`).
    Above,
}

/// Why a run or a segment of it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// All steps were made.
    Done,
    /// A budget of energy, emissions or money was reached.
    Budget,
    /// Validation loss stopped falling, or reached its target.
    EarlyStop,
    /// A signal asked for it.
    Signal,
    /// Something went wrong.
    Error,
}

impl Event {
    /// An event of `segment` at `t`.
    pub fn new(segment: u32, t: MonotonicNs, body: EventBody) -> Self {
        Self { schema: EVENT_SCHEMA.to_owned(), segment, t_ns: t, body }
    }

    /// The event as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an event is plain data")
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn from_json(line: &str) -> Result<Self, String> {
        let event: Self = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if event.schema != EVENT_SCHEMA {
            return Err(format!("expected schema {EVENT_SCHEMA:?}, got {:?}", event.schema));
        }
        Ok(event)
    }
}

pub(crate) fn null_is_nan<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + From<f32>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_else(|| f32::NAN.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_back_bit_for_bit() {
        let step = StepEvent {
            step: 3,
            epoch: 1,
            tokens: 2304,
            loss: 4.123_457,
            learning_rate: 1e-3,
            grad_norm: 0.1,
            tokens_per_s: 12345.678,
            accuracy: 0.25,
        };
        let event = Event::new(1, MonotonicNs(u64::MAX), EventBody::Step(step));
        let json = event.to_json();
        assert!(json.contains(r#""loss":4.123457,"#), "{json}");
        assert_eq!(Event::from_json(&json).unwrap(), event);
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let line = r#"{"schema":"wattle.event/1","segment":0,"t_ns":1,"event":"step","step":1,"epoch":1,"tokens":8,"loss":null,"learning_rate":0.1,"grad_norm":null,"tokens_per_s":1.0,"accuracy":0.0}"#;
        let event = Event::from_json(line).unwrap();
        let EventBody::Step(step) = &event.body else { panic!("{event:?}") };
        assert!(step.loss.is_nan() && step.grad_norm.is_nan());
        assert_eq!(event.to_json(), line);
        let line = r#"{"schema":"wattle.event/1","segment":0,"t_ns":1,"event":"evaluate","step":1,"split":"val","loss":2.5,"perplexity":null,"bits_per_byte":null,"accuracy":0.0,"tokens":8}"#;
        let event = Event::from_json(line).unwrap();
        let EventBody::Evaluate(evaluation) = &event.body else { panic!("{event:?}") };
        assert!(evaluation.perplexity.is_nan() && evaluation.bits_per_byte.is_nan());
        assert_eq!(event.to_json(), line);
    }

    #[test]
    fn another_schema_is_refused() {
        let line =
            r#"{"schema":"wattle.event/9","segment":0,"t_ns":1,"event":"stop","step":1,"reason":"done"}"#;
        assert!(Event::from_json(line).unwrap_err().contains("wattle.event/9"));
    }
}
