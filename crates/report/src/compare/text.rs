//! A comparison on a terminal.

use crate::compare::difference::Change;
use crate::compare::group::Group;
use crate::compare::spread::Spread;
use crate::compare::{Comparison, Contender, Reached, Saving};
use crate::words::bounds::energy_in;
use crate::words::quantity::{duration, joules, joules_per_ktoken, loss, mass, percent, si, whole_percent};
use crate::words::table::{Table, WIDTH, hang, wrap};

/// Shown in place of the energy of an unmetered run.
pub(crate) const UNMETERED: &str = "unmetered";

/// A comparison as text, at most eighty columns wide.
pub fn text(comparison: &Comparison) -> String {
    let sections = [
        comparison.unmetered().iter().flat_map(|words| hang("! ", words)).collect(),
        runs(comparison),
        to_target(comparison),
        groups(comparison),
        differences(comparison),
        conditions(comparison),
        verdict(comparison),
    ];
    let sections = sections.into_iter().filter(|lines| !lines.is_empty());
    sections.map(|lines| lines.join("\n") + "\n").collect::<Vec<_>>().join("\n")
}

fn runs(comparison: &Comparison) -> Vec<String> {
    let headings =
        ["run", "best", "final", "energy", "J/ktoken", "CO2e", "time", "tokens", "measured", "CPU", "seed"];
    let mut table = Table::new(headings, &[0]);
    let is_last_best = comparison.runs.iter().all(|run| run.final_loss == run.best_loss);
    for run in &comparison.runs {
        table.row([
            run.label.clone(),
            run.best_loss.map(loss).unwrap_or_default(),
            run.final_loss.filter(|_| !is_last_best).map(loss).unwrap_or_default(),
            energy(run),
            run.joules_per_token.map(|j| run.at_least(joules_per_ktoken(j))).unwrap_or_default(),
            run.at_least(mass(run.emissions_g)),
            duration(run.duration_s),
            si(run.tokens as f64, ""),
            whole_percent(run.measured_fraction),
            run.cpu_s.map(duration).unwrap_or_default(),
            run.seed.to_string(),
        ]);
    }
    let head = match &comparison.metric {
        Some(metric) => format!("runs (1 minus the score: {metric})"),
        None => format!("runs (losses on validation data, in {})", comparison.measure.words()),
    };
    [hang("", &head), table.lines()].concat()
}

/// A run's energy with its half-width, or as a lower bound for an unmetered run.
pub(crate) fn energy(run: &Contender) -> String {
    energy_in(run.is_metered(), run.energy_j, run.energy_uncertainty_j)
}

/// The target in words.
pub(crate) fn target_words(comparison: &Comparison) -> String {
    if let (Some(metric), Some(target)) = (&comparison.metric, comparison.target) {
        let which = if target.is_default { ", the lowest of the runs' best scores" } else { "" };
        return format!("to a score of {} on {metric}{which}", percent(1.0 - target.loss));
    }
    match comparison.target {
        Some(target) if target.is_default => {
            format!("to a validation loss of {}, the highest of the runs' best losses", loss(target.loss))
        }
        Some(target) => format!("to a validation loss of {}", loss(target.loss)),
        None => "no run has an evaluation: there is no loss to compare the way to".to_owned(),
    }
}

fn to_target(comparison: &Comparison) -> Vec<String> {
    let mut lines = hang("", &target_words(comparison));
    if comparison.target.is_none() {
        return lines;
    }
    let mut table = Table::new(["run", "energy", "CO2e", "time", "steps", "tokens"], &[0]);
    for run in &comparison.runs {
        table.row(match &run.to_target {
            Some(reached) => reached_cells(run, reached),
            None => vec![run.label.clone(), "not reached".to_owned()],
        });
    }
    lines.extend(table.lines());
    if comparison.runs.iter().any(|run| run.to_target.is_some_and(|reached| reached.is_upper_bound)) {
        lines.push("    ≤: below the target already at the first evaluation".to_owned());
    }
    lines
}

fn reached_cells(run: &Contender, reached: &Reached) -> Vec<String> {
    let at = &reached.at;
    let bound = |figure: String| if reached.is_upper_bound { format!("≤ {figure}") } else { figure };
    let metered = |figure: String| if run.is_metered() { bound(figure) } else { UNMETERED.to_owned() };
    vec![
        run.label.clone(),
        metered(joules(at.energy_j)),
        metered(mass(at.emissions_g)),
        bound(duration(at.time_s)),
        bound(si(at.step as f64, "")),
        bound(si(at.tokens as f64, "")),
    ]
}

/// Groups, where there is more to say of them than of the runs.
fn groups(comparison: &Comparison) -> Vec<String> {
    if !comparison.has_ways() {
        return Vec::new();
    }
    let best = if comparison.metric.is_some() { "best" } else { "best loss" };
    let headings = ["way", "n", best, "energy", "to target", "saving"];
    let mut table = Table::new(headings, &[0]);
    for (i, group) in comparison.groups.iter().enumerate() {
        let saving = comparison.savings.iter().find(|saving| saving.group == i);
        table.row([
            group.label.clone(),
            group.runs.len().to_string(),
            group.best_loss.map(Spread::loss_words).unwrap_or_default(),
            group.energy_j.map_or(UNMETERED.to_owned(), |spread| spread.words("J")),
            to_target_words(group),
            saving.map(Saving::words).unwrap_or_default(),
        ]);
    }
    let against = comparison.savings.first().map_or(String::new(), |_| comparison.against_first());
    let saving = if against.is_empty() { against } else { format!("; saving {against}") };
    let heading = format!("ways of training (mean, lowest to highest of their seeds{saving})");
    [hang("", &heading), table.lines()].concat()
}

/// A group's energy to the target, or why there is none.
pub(crate) fn to_target_words(group: &Group) -> String {
    match (group.energy_to_target_j, group.energy_j) {
        (Some(spread), _) => spread.words("J"),
        (None, None) => UNMETERED.to_owned(),
        (None, Some(_)) => "not reached".to_owned(),
    }
}

/// The configurations as differences from the first way's.
fn differences(comparison: &Comparison) -> Vec<String> {
    let ways = comparison.groups.iter().zip(comparison.changes()).skip(1);
    let mut lines = Vec::new();
    for (group, changes) in ways {
        let change = |(key, old, new): &Change<'_>| {
            format!("{key} {} → {}", old.unwrap_or("unset"), new.unwrap_or("unset"))
        };
        let changes = changes.iter().map(change).collect::<Vec<_>>().join(", ");
        let changes = if changes.is_empty() { "the same; data or device differ".to_owned() } else { changes };
        lines.extend(labelled(&group.label, &changes));
    }
    if lines.is_empty() {
        return vec!["configuration: the same, but for seeds and names".to_owned()];
    }
    [hang("", &format!("configuration, {}", comparison.against_first())), lines].concat()
}

/// A label followed by a text, on its own line if the label is long.
fn labelled(label: &str, text: &str) -> Vec<String> {
    const BESIDE: usize = 24;
    match label.chars().count() {
        ..=BESIDE => hang(&format!("  {label}  "), text),
        _ => {
            let label = wrap(label, WIDTH - 2).into_iter().map(|part| format!("  {part}"));
            label.chain(hang("    ", text)).collect()
        }
    }
}

fn conditions(comparison: &Comparison) -> Vec<String> {
    // These are already shown at the top.
    let unmetered = comparison.unmetered();
    let conditions = comparison.conditions.iter().filter(|condition| !unmetered.contains(&condition.what));
    let lines = conditions.flat_map(|condition| {
        let mark = if condition.is_blocking { "!" } else { " " };
        hang(&format!("  {mark} "), &condition.what)
    });
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() { lines } else { [vec!["conditions".to_owned()], lines].concat() }
}

fn verdict(comparison: &Comparison) -> Vec<String> {
    let verdict = &comparison.verdict;
    let front: Vec<_> =
        comparison.pareto_front.iter().map(|i| comparison.groups[*i].label.as_str()).collect();
    let mut lines = vec!["verdict".to_owned()];
    if !front.is_empty() {
        let loss = if comparison.metric.is_some() { "score" } else { "loss" };
        let front = format!("best trade-offs of {loss} and energy (Pareto): {}", front.join("; "));
        lines.extend(hang("  ", &front));
    }
    let heading = match verdict.winner {
        Some(winner) => format!("least energy to the target: {}", comparison.groups[winner].label),
        None => "no winner is named:".to_owned(),
    };
    lines.extend(hang("  ", &heading));
    lines.extend(verdict.reasons.iter().flat_map(|reason| hang("  - ", reason)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::join::report::Report;
    use crate::join::run::Run;
    use crate::synthetic::SyntheticRun;

    fn lines(synthetic: &[SyntheticRun]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let write = |(i, run): (usize, &SyntheticRun)| run.write(&dir.path().join(format!("run-{i}")));
        let runs: Vec<Run> = synthetic.iter().enumerate().map(write).collect();
        let reports: Vec<_> = runs.iter().map(|run| Report::of(run, None).unwrap()).collect();
        text(&Comparison::of(&runs, &reports, None))
    }

    #[test]
    fn two_ways_and_two_seeds() {
        let thrifty = SyntheticRun { watts: 80.0, learning_rate: 0.001, ..SyntheticRun::small() };
        let again = SyntheticRun { seed: 2, name: "again", ..SyntheticRun::small() };
        insta::assert_snapshot!(lines(&[SyntheticRun::small(), again, thrifty]));
    }

    #[test]
    fn runs_that_do_not_compare() {
        let other = SyntheticRun {
            method: "estimated",
            systematic: ("estimate:gpu", 0.5),
            data_sha256: "data-2",
            floor: 2.5,
            ..SyntheticRun::small()
        };
        insta::assert_snapshot!(lines(&[SyntheticRun::small(), other]));
    }

    #[test]
    fn a_run_that_was_not_metered_is_told_first_and_ranked_nowhere() {
        let thrifty = SyntheticRun { watts: 80.0, learning_rate: 0.001, ..SyntheticRun::small() };
        insta::assert_snapshot!(lines(&[SyntheticRun::unmetered(), SyntheticRun::small(), thrifty]));
    }

    #[test]
    fn no_line_is_wider_than_eighty_columns() {
        let long = SyntheticRun::wide();
        let again = SyntheticRun { seed: 2, ..long.clone() };
        let other =
            SyntheticRun { floor: 3.0, learning_rate: 0.001_234_567, data_sha256: "b", ..long.clone() };
        let dir = tempfile::tempdir().unwrap();
        let name = "a-directory-with-a-name-as-long-as-anybody-would-make-it-and-then-twice-as-long-again";
        let path = |i: usize| dir.path().join(format!("{name}-{i}"));
        let runs: Vec<Run> =
            [long, again, other].iter().enumerate().map(|(i, run)| run.write(&path(i))).collect();
        let reports: Vec<_> = runs.iter().map(|run| Report::of(run, None).unwrap()).collect();
        let text = text(&Comparison::of(&runs, &reports, None));
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}\n{text}");
        }
    }
}
