//! Scores of a task.
//!
//! # References
//! EleutherAI's lm-evaluation-harness 0.4.13: `ConfigurableTask.process_results` for the metrics, `mean_stderr` for their
//! standard errors.

use wattle_data::task::Items;
use wattle_runlog::{Score, TaskScores};

use super::answer::Answer;
use super::exam::ExamTask;

/// What a model scored on a task by its answers, in the order of the items.
///
/// # Panics
/// If they are not answers to these items.
pub fn scores(task: &ExamTask, answers: &[Answer]) -> TaskScores {
    let scores = match &task.task.items {
        Items::Choice(items) => {
            let right = |weigh: &dyn Fn(&str, usize) -> f64| {
                let of_item = |(item, answer): (&wattle_data::task::Choice, &Answer)| {
                    let Answer::Likelihoods { log_likelihoods, tokens, .. } = answer else {
                        unreachable!("choices are answered by likelihoods")
                    };
                    let weighed = log_likelihoods.iter().zip(&item.choices).zip(tokens);
                    let best = first_greatest(weighed.map(|((ll, choice), &n)| ll / weigh(choice, n)));
                    f64::from(u8::from(best == item.answer))
                };
                items.iter().zip(answers).map(of_item).collect::<Vec<_>>()
            };
            vec![
                mean("acc", &right(&|_, _| 1.0)),
                mean("acc_norm", &right(&|choice, _| choice.chars().count() as f64)),
                mean("acc_bytes", &right(&|choice, _| choice.len() as f64)),
                mean("acc_tokens", &right(&|_, n_tokens| n_tokens as f64)),
            ]
        }
        Items::Cloze(_) => {
            let (mut likelihoods, mut greedy) = (Vec::new(), Vec::new());
            for answer in answers {
                let Answer::Likelihoods { log_likelihoods, is_greedy, .. } = answer else {
                    unreachable!("a cloze is answered by likelihoods")
                };
                likelihoods.push(log_likelihoods[0]);
                greedy.push(f64::from(u8::from(is_greedy[0])));
            }
            vec![mean("acc", &greedy), perplexity(&likelihoods)]
        }
        Items::Generate(_) => {
            let right = answers.iter().map(|answer| match answer {
                Answer::Said { is_right, .. } => f64::from(u8::from(*is_right)),
                Answer::Likelihoods { .. } => unreachable!("a text is answered by a text"),
            });
            vec![mean("exact_match", &right.collect::<Vec<_>>())]
        }
    };
    TaskScores {
        task: task.task.name.clone(),
        kind: task.task.items.kind().to_owned(),
        sha256: task.task.sha256.clone(),
        items: task.task.items.len() as u64,
        truncated: task.n_truncated,
        scores,
    }
}

/// The place of the greatest number, the first of several.
fn first_greatest(numbers: impl Iterator<Item = f64>) -> usize {
    let greater = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
    numbers.enumerate().reduce(greater).map_or(0, |(place, _)| place)
}

/// The mean, with its standard error: the sample's standard deviation over √n.
fn mean(metric: &str, values: &[f64]) -> Score {
    let (value, stderr) = mean_and_error(values);
    Score { metric: metric.to_owned(), value, stderr }
}

/// e to minus the mean log-likelihood, with its standard error to first order in that of the mean.
fn perplexity(log_likelihoods: &[f64]) -> Score {
    let (mean, error) = mean_and_error(log_likelihoods);
    let value = (-mean).exp();
    Score { metric: "perplexity".to_owned(), value, stderr: error.map(|error| value * error) }
}

fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::exam::Exam;
    use wattle_data::Tokenizer;

    #[test]
    fn each_way_of_normalizing_chooses_by_its_own_length() {
        // " ääää" has 5 characters, 9 bytes and here 9 tokens.
        let line = r#"{"kind":"choice","prompt":"x","choices":[" ab"," ääää"],"answer":1}"#;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task.jsonl");
        std::fs::write(&path, format!("{line}\n{line}\n{line}")).unwrap();
        let exam = Exam::read(&[path], &Tokenizer::bytes(), 64).unwrap();
        let answer = |lls: [f64; 2]| Answer::Likelihoods {
            log_likelihoods: lls.to_vec(),
            is_greedy: vec![false; 2],
            tokens: vec![3, 9],
        };
        // Per character -1 and -1.2; per byte and token -1 and -0.67; then an equal pair, of which the first counts.
        let answers = [answer([-3.0, -6.0]), answer([-2.0, -2.0]), answer([-2.0, -1.0])];
        let found = scores(&exam.tasks[0], &answers);
        let value = |metric: &str| found.score(Some(metric)).unwrap().value;
        assert_eq!((value("acc"), value("acc_norm")), (1.0 / 3.0, 2.0 / 3.0));
        assert_eq!((value("acc_bytes"), value("acc_tokens")), (1.0, 1.0));
        let error = found.score(None).unwrap().stderr.unwrap();
        // Variance of {0, 0, 1}: 1/3.
        assert!((error - (1.0f64 / 3.0 / 3.0).sqrt()).abs() < 1e-12, "{error}");
        assert_eq!((found.items, found.kind.as_str()), (3, "choice"));
    }

    #[test]
    fn perplexity_is_of_the_mean_log_likelihood() {
        let score = perplexity(&[-1.0, -3.0]);
        assert!((score.value - 2.0f64.exp()).abs() < 1e-12);
        assert!((score.stderr.unwrap() - 2.0f64.exp()).abs() < 1e-12);
        assert_eq!(mean("acc", &[1.0]).stderr, None);
    }
}
