//! A score on a task in place of the validation loss: `compare --metric TASK`.
//!
//! The share of items that are wrong, one minus the score, takes the loss's place: as a loss does, it falls as a model
//! learns.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use wattle_runlog::{Score, TaskScores};

use crate::compare::conditions::Condition;
use crate::compare::contender::Contender;
use crate::error::ReportError;
use crate::join::learning::{Evaluation, TaskEvaluation};
use crate::join::report::Report;

/// A task and one of its metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// The task.
    pub task: String,
    /// The metric; without one, that which stands for the task.
    pub metric: Option<String>,
}

impl FromStr for Metric {
    type Err = String;

    /// `TASK` or `TASK:METRIC`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (task, metric) = match text.rsplit_once(':') {
            Some((task, metric)) => (task, Some(metric.to_owned())),
            None => (text, None),
        };
        if task.is_empty() || metric.as_deref() == Some("") {
            return Err("expected TASK or TASK:METRIC, such as pets:acc_norm".to_owned());
        }
        match metric.as_deref() {
            Some("perplexity") => Err("expected a score of which more is better, such as acc".to_owned()),
            _ => Ok(Self { task: task.to_owned(), metric }),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.metric {
            Some(metric) => write!(f, "{metric} on {}", self.task),
            None => f.write_str(&self.task),
        }
    }
}

impl Metric {
    fn of<'e>(&self, evaluation: &'e TaskEvaluation) -> Option<(&'e TaskScores, &'e Score)> {
        let task = evaluation.tasks.iter().find(|task| task.task == self.task)?;
        Some((task, task.score(self.metric.as_deref())?))
    }

    /// The report with shares of wrong items for losses.
    ///
    /// # Errors
    /// If the run was never scored so.
    pub(super) fn for_losses(&self, report: &Report) -> Result<Report, ReportError> {
        let mut evaluations: Vec<Evaluation> = Vec::new();
        for evaluation in &report.learning.tasks {
            let Some((_, score)) = self.of(evaluation) else { continue };
            // A checkpoint may have been scored in training and again by itself.
            if evaluations.last().is_some_and(|last| last.at.step == evaluation.at.step) {
                continue;
            }
            evaluations.push(Evaluation {
                at: evaluation.at,
                loss: 1.0 - score.value,
                perplexity: f64::NAN,
                bits_per_byte: f64::NAN,
                accuracy: score.value,
                sources: Vec::new(),
            });
        }
        if evaluations.is_empty() {
            return Err(ReportError::NoScore {
                run: report.name.clone(),
                metric: self.to_string(),
                known: self.known(report),
            });
        }
        let mut report = report.clone();
        let finite = evaluations.iter().filter(|evaluation| evaluation.loss.is_finite());
        report.learning.best = finite.min_by(|a, b| a.loss.total_cmp(&b.loss)).cloned();
        report.learning.last = evaluations.last().cloned();
        report.learning.evaluations = evaluations;
        Ok(report)
    }

    /// The scores that a run has.
    fn known(&self, report: &Report) -> String {
        let mut known: Vec<String> = Vec::new();
        for task in report.learning.tasks.iter().flat_map(|evaluation| &evaluation.tasks) {
            let names = task.scores.iter().filter(|score| score.metric != "perplexity");
            known.extend(names.map(|score| format!("{}:{}", task.task, score.metric)));
        }
        known.sort();
        known.dedup();
        known.join(", ")
    }

    /// That the runs were not scored on the same items, if so.
    pub(super) fn other_items(&self, reports: &[Report], contenders: &[Contender]) -> Option<Condition> {
        let items = |report: &Report| {
            let mut of_run: Vec<String> =
                report.learning.tasks.iter().filter_map(|e| Some(self.of(e)?.0.sha256.clone())).collect();
            of_run.dedup();
            of_run
        };
        let all: Vec<Vec<String>> = reports.iter().map(items).collect();
        let is_same = all.iter().all(|of_run| of_run.len() <= 1 && *of_run == all[0]);
        (!is_same).then(|| {
            let case = |(run, of_run): (&Contender, &Vec<String>)| {
                let files: Vec<_> = of_run.iter().map(|sha256| sha256.get(..8).unwrap_or(sha256)).collect();
                format!("{} {}", run.label, files.join(", "))
            };
            let cases: Vec<String> = contenders.iter().zip(&all).map(case).collect();
            Condition {
                what: format!("the files of {} differ (sha256): {}", self.task, cases.join("; ")),
                is_blocking: true,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Comparison;
    use crate::join::run::Run;
    use crate::synthetic::SyntheticRun;
    use wattle_runlog::{EventBody, LineFile};

    /// Scores rise with the steps; those of `sha256` are from another file.
    fn scored(run: &SyntheticRun, path: &std::path::Path, sha256: &str) -> Run {
        let run = run.write(path);
        let (mut file, read) =
            LineFile::open(&path.join("events.jsonl"), wattle_runlog::Event::from_json).unwrap();
        let last = read.entries.last().unwrap().clone();
        for event in &read.entries {
            let EventBody::Evaluate(evaluate) = &event.body else { continue };
            let score =
                Score { metric: "acc".to_owned(), value: evaluate.step as f64 / 100.0, stderr: Some(0.01) };
            let tasks = vec![TaskScores {
                task: "pets".to_owned(),
                kind: "choice".to_owned(),
                sha256: sha256.to_owned(),
                items: 100,
                truncated: 0,
                scores: vec![score],
            }];
            let body = EventBody::Tasks { step: evaluate.step, tasks };
            file.append(&wattle_runlog::Event { body, ..event.clone() }.to_json()).unwrap();
        }
        file.append(&last.to_json()).unwrap();
        drop(run);
        Run::open(path).unwrap()
    }

    fn compare(shas: [&str; 2], metric: &str, target: Option<f64>) -> Result<Comparison, String> {
        let dir = tempfile::tempdir().unwrap();
        let thrifty = SyntheticRun { watts: 80.0, learning_rate: 0.001, ..SyntheticRun::small() };
        let runs = [
            scored(&SyntheticRun::small(), &dir.path().join("a"), shas[0]),
            scored(&thrifty, &dir.path().join("b"), shas[1]),
        ];
        let reports: Vec<_> = runs.iter().map(|run| Report::of(run, None).unwrap()).collect();
        let metric = metric.parse::<Metric>()?;
        Comparison::by_metric(&runs, &reports, metric, target).map(|(all, _)| all).map_err(|e| e.to_string())
    }

    #[test]
    fn joules_to_a_score_lie_on_the_line_between_two_of_them() {
        // Evaluated at steps 20 and 40.
        let comparison = compare(["x", "x"], "pets", Some(0.3)).unwrap();
        let steps: Vec<_> = comparison.runs.iter().map(|run| run.to_target.unwrap().at.step).collect();
        assert_eq!(steps, [30, 30]);
        assert_eq!(comparison.verdict.winner, Some(1), "{:?}", comparison.verdict);
        let text = crate::compare::text(&comparison);
        assert!(text.contains("to a score of 30.0 % on pets"), "{text}");
        assert!(!text.contains("validation"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let json: serde_json::Value = serde_json::from_str(&comparison.to_json()).unwrap();
        assert_eq!((&json["measure"], &json["metric"]["task"]), (&"error_rate".into(), &"pets".into()));
        // Without a target: the lowest of their best scores.
        let comparison = compare(["x", "x"], "pets:acc", None).unwrap();
        assert!((comparison.target.unwrap().loss - 0.6).abs() < 1e-12);
    }

    #[test]
    fn other_items_forbid_a_verdict_and_unknown_metrics_are_refused() {
        let comparison = compare(["x", "y"], "pets", None).unwrap();
        assert_eq!(comparison.verdict.winner, None);
        assert!(comparison.verdict.reasons[0].contains("files of pets differ"), "{:?}", comparison.verdict);
        let error = compare(["x", "x"], "pets:acc_norm", None).unwrap_err();
        assert!(error.contains("acc_norm on pets") && error.contains("pets:acc"), "{error}");
        assert!("pets:perplexity".parse::<Metric>().is_err() && ":acc".parse::<Metric>().is_err());
    }
}
