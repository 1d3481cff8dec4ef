//! Scores on tasks, and what the model wrote after prompts.

use maud::{Markup, html};
use wattle_runlog::{Score, TaskScores};

use crate::join::learning::TaskEvaluation;
use crate::page::Source;
use crate::words::quantity::{count, joules};

/// Evaluations of samples that the page opens; the others are folded.
const N_OPEN: usize = 1;

/// The latest scores on each task, and the first ones.
pub(crate) fn scores(source: &Source<'_>) -> Markup {
    let evaluations = &source.learning.tasks;
    let latest = latest(evaluations);
    if latest.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Tasks" }
        p.lead { "Scores with their standard errors, where they were first and last known." }
        div.wide {
            table {
                tr {
                    th { "task" } th.words { "metric" } th { "items" } th { "first" } th { "last" } th { "step" }
                    th { "energy by then" }
                }
                @for (evaluation, task) in &latest {
                    @for score in &task.scores { (row(evaluations, evaluation, task, score)) }
                }
            }
        }
    }
}

fn row(all: &[TaskEvaluation], last: &TaskEvaluation, task: &TaskScores, score: &Score) -> Markup {
    let scored = |evaluation: &TaskEvaluation| {
        let task = evaluation.tasks.iter().find(|other| other.task == task.task)?;
        Some(shown(task.score(Some(&score.metric))?))
    };
    html! {
        tr {
            td { (task.task) }
            td.words { (score.metric) }
            td { (count(task.items)) }
            td { (all.iter().find_map(scored).unwrap_or_default()) }
            td { (shown(score)) }
            td { (count(last.at.step)) }
            td { (joules(last.at.energy_j)) }
        }
    }
}

/// The last evaluation of each task, in the order in which tasks were first evaluated.
fn latest(evaluations: &[TaskEvaluation]) -> Vec<(&TaskEvaluation, &TaskScores)> {
    let mut latest: Vec<(&TaskEvaluation, &TaskScores)> = Vec::new();
    for evaluation in evaluations {
        for task in &evaluation.tasks {
            match latest.iter_mut().find(|(_, other)| other.task == task.task) {
                Some(known) => *known = (evaluation, task),
                None => latest.push((evaluation, task)),
            }
        }
    }
    latest
}

/// `57.3 ± 1.2 %`, or a perplexity as it is.
pub(crate) fn shown(score: &Score) -> String {
    let is_share = score.metric != "perplexity";
    let (factor, unit) = if is_share { (100.0, " %") } else { (1.0, "") };
    let error = score.stderr.map_or(String::new(), |error| format!(" ± {:.1}", error * factor));
    format!("{:.1}{error}{unit}", score.value * factor)
}

/// What the model wrote at each evaluation, the last first.
pub(crate) fn samples(source: &Source<'_>) -> Markup {
    let samples = &source.learning.samples;
    if samples.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Samples" }
        p.lead { "What the model wrote after each prompt as it was trained, the last first." }
        @for (i, (at, samples)) in samples.iter().rev().enumerate() {
            details open[i < N_OPEN] {
                summary { "step " (count(at.step)) ", after " (joules(at.energy_j)) }
                @for sample in samples {
                    p.sample { b { (sample.prompt) } (sample.text) }
                }
            }
        }
    }
}
