//! What a model scored on tasks: in `events.jsonl` while it trains, in `tasks.jsonl` where a checkpoint was evaluated by
//! itself.

use serde::{Deserialize, Serialize};

use crate::clock::MonotonicNs;
use crate::units::Joules;

/// Name and version of the format of a line of `tasks.jsonl`.
pub const TASK_RESULT_SCHEMA: &str = "wattle.task_result/1";

/// What a model scored on one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskScores {
    /// The task's name.
    pub task: String,
    /// Its kind: "choice", "cloze" or "generate".
    pub kind: String,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: String,
    /// Its items.
    pub items: u64,
    /// Items of which the model's context does not hold all that stands before the answer.
    pub truncated: u64,
    /// The scores, the one that stands for the task first.
    pub scores: Vec<Score>,
}

/// One score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What it is: "acc", "acc_norm", "acc_bytes", "acc_tokens", "perplexity" or "exact_match".
    pub metric: String,
    /// Its value; null where it is not finite.
    #[serde(deserialize_with = "crate::event::null_is_nan")]
    pub value: f64,
    /// Its standard error; null of a single item.
    pub stderr: Option<f64>,
}

/// A text that a model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What it goes on from.
    pub prompt: String,
    /// What the model wrote after it.
    pub text: String,
}

/// What a checkpoint of a run scored, evaluated by itself: a line of `tasks.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// [`TASK_RESULT_SCHEMA`].
    pub schema: String,
    /// The checkpoint's directory, relative to the run directory.
    pub checkpoint: String,
    /// Updates made at the checkpoint.
    pub step: u64,
    /// The segment that wrote the checkpoint.
    pub segment: u32,
    /// When, on that segment's monotonic clock.
    pub t_ns: MonotonicNs,
    /// When it was evaluated (RFC 3339, UTC).
    pub evaluated_at: String,
    /// What computed, for a person.
    pub engine: String,
    /// Energy of the evaluation; null where it is not known.
    pub energy_j: Option<Joules>,
    /// The scores of each task.
    pub tasks: Vec<TaskScores>,
}

impl TaskScores {
    /// The score of this name; without a name, the one that stands for the task.
    pub fn score(&self, metric: Option<&str>) -> Option<&Score> {
        match metric {
            Some(metric) => self.scores.iter().find(|score| score.metric == metric),
            None => self.scores.first(),
        }
    }
}

impl TaskResult {
    /// It as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a result is plain data")
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn from_json(line: &str) -> Result<Self, String> {
        let result: Self = serde_json::from_str(line).map_err(|e| e.to_string())?;
        match result.schema == TASK_RESULT_SCHEMA {
            true => Ok(result),
            false => Err(format!("expected schema {TASK_RESULT_SCHEMA:?}, got {:?}", result.schema)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_reads_back_and_another_schema_is_refused() {
        let score = |metric: &str| Score { metric: metric.to_owned(), value: 0.25, stderr: Some(0.01) };
        let tasks = vec![TaskScores {
            task: "pets".to_owned(),
            kind: "choice".to_owned(),
            sha256: "ab".to_owned(),
            items: 4,
            truncated: 0,
            scores: vec![score("acc"), score("acc_norm")],
        }];
        let result = TaskResult {
            schema: TASK_RESULT_SCHEMA.to_owned(),
            checkpoint: "checkpoints/step-00000010".to_owned(),
            step: 10,
            segment: 0,
            t_ns: MonotonicNs(7),
            evaluated_at: "2026-11-28T12:00:00Z".to_owned(),
            engine: "the CPU".to_owned(),
            energy_j: None,
            tasks,
        };
        assert_eq!(TaskResult::from_json(&result.to_json()).unwrap(), result);
        assert_eq!(result.tasks[0].score(None).unwrap().metric, "acc");
        assert_eq!(result.tasks[0].score(Some("acc_norm")).unwrap().metric, "acc_norm");
        assert_eq!(result.tasks[0].score(Some("perplexity")), None);
        let other = result.to_json().replace("task_result/1", "task_result/9");
        assert!(TaskResult::from_json(&other).unwrap_err().contains("task_result/9"));
    }
}
