//! A comparison on a terminal.

use crate::compare::difference::Change;
use crate::compare::group::Spread;
use crate::compare::{Comparison, Contender, Reached, Saving};
use crate::quantity::{Scale, duration, grams, joules, loss, si, three_digits, whole_percent};
use crate::table::{Table, wrap};
use crate::text::energy_of;

/// Columns of a terminal that is not wide.
const WIDTH: usize = 100;

/// A comparison as text.
pub fn text(comparison: &Comparison) -> String {
    let sections = [
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
    let headings = [
        "run",
        "seed",
        "loss",
        "best",
        "tokens",
        "time",
        "CPU",
        "energy",
        "measured",
        "J/ktoken",
        "emissions",
    ];
    let mut table = Table::new(headings, &[0]);
    for run in &comparison.runs {
        table.row([
            run.label.clone(),
            run.seed.to_string(),
            run.final_loss.map(loss).unwrap_or_default(),
            run.best_loss.map(loss).unwrap_or_default(),
            si(run.tokens as f64, ""),
            duration(run.duration_s),
            run.cpu_s.map(duration).unwrap_or_default(),
            energy(run),
            whole_percent(run.measured_fraction),
            run.joules_per_token.map(|j| si(j * 1e3, "")).unwrap_or_default(),
            grams(run.emissions_g),
        ]);
    }
    let head = format!("runs (losses on validation data, in {})", comparison.measure.words());
    [vec![head], table.lines()].concat()
}

/// A run's energy with its half-width, without it where nothing was measured.
pub(crate) fn energy(run: &Contender) -> String {
    energy_of(run.energy_j, run.energy_uncertainty_j, run.measured_fraction)
}

/// The target in words.
pub(crate) fn target_words(comparison: &Comparison) -> String {
    match comparison.target {
        Some(target) if target.is_default => {
            format!("to a validation loss of {}, the worst of their best", loss(target.loss))
        }
        Some(target) => format!("to a validation loss of {}", loss(target.loss)),
        None => "no run has an evaluation: there is no loss to compare the way to".to_owned(),
    }
}

fn to_target(comparison: &Comparison) -> Vec<String> {
    let mut lines = vec![target_words(comparison)];
    if comparison.target.is_none() {
        return lines;
    }
    let mut table = Table::new(["run", "steps", "tokens", "time", "energy", "emissions", ""], &[0, 6]);
    for run in &comparison.runs {
        table.row(match &run.to_target {
            Some(reached) => reached_cells(run, reached),
            None => vec![run.label.clone(), "not reached".to_owned()],
        });
    }
    lines.extend(table.lines());
    lines
}

fn reached_cells(run: &Contender, reached: &Reached) -> Vec<String> {
    let at = &reached.at;
    let bound = if reached.is_upper_bound { "at most: below it at the first evaluation" } else { "" };
    vec![
        run.label.clone(),
        si(at.step as f64, ""),
        si(at.tokens as f64, ""),
        duration(at.time_s),
        joules(at.energy_j),
        grams(at.emissions_g),
        bound.to_owned(),
    ]
}

/// Groups, where there is more to say of them than of the runs.
fn groups(comparison: &Comparison) -> Vec<String> {
    if !comparison.has_ways() {
        return Vec::new();
    }
    let against = comparison.savings.first().map_or(String::new(), |_| comparison.against_first());
    let headings = ["way", "n", "best loss", "energy", "to target", against.as_str()];
    let mut table = Table::new(headings, &[0]);
    for (i, group) in comparison.groups.iter().enumerate() {
        let saving = comparison.savings.iter().find(|saving| saving.group == i);
        table.row([
            group.label.clone(),
            group.runs.len().to_string(),
            group.best_loss.map(loss_spread).unwrap_or_default(),
            spread_words(group.energy_j, "J"),
            group.energy_to_target_j.map_or("not reached".to_owned(), |s| spread_words(s, "J")),
            saving.map(Saving::words).unwrap_or_default(),
        ]);
    }
    [vec!["ways of training (mean, lowest to highest of their seeds)".to_owned()], table.lines()].concat()
}

/// `606 (600–612) J`, or the one figure there is.
pub(crate) fn spread_words(spread: Spread, unit: &str) -> String {
    let scale = Scale::of(spread.mean);
    let number = |value: f64| three_digits(value / scale.factor);
    match spread.low < spread.high {
        true => format!(
            "{} ({}–{}) {}{unit}",
            number(spread.mean),
            number(spread.low),
            number(spread.high),
            scale.prefix
        ),
        false => si(spread.mean, unit),
    }
}

/// `2.543 (2.542–2.544)`, or the one loss there is.
pub(crate) fn loss_spread(spread: Spread) -> String {
    match spread.low < spread.high {
        true => format!("{} ({}–{})", loss(spread.mean), loss(spread.low), loss(spread.high)),
        false => loss(spread.mean),
    }
}

/// The configurations as differences from the first way's.
fn differences(comparison: &Comparison) -> Vec<String> {
    let ways = comparison.groups.iter().zip(comparison.changes()).skip(1);
    let width = comparison.groups.iter().map(|group| group.label.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (group, changes) in ways {
        let change = |(key, old, new): &Change<'_>| {
            format!("{key} {} → {}", old.unwrap_or("unset"), new.unwrap_or("unset"))
        };
        let changes = changes.iter().map(change).collect::<Vec<_>>().join(", ");
        let changes = if changes.is_empty() { "the same; data or device differ".to_owned() } else { changes };
        for (i, text) in wrap(&changes, WIDTH - width - 4).into_iter().enumerate() {
            let label = if i == 0 { group.label.as_str() } else { "" };
            lines.push(format!("  {label:<width$}  {text}"));
        }
    }
    if lines.is_empty() {
        return vec!["configuration: the same, but for seeds and names".to_owned()];
    }
    [vec![format!("configuration, {}", comparison.against_first())], lines].concat()
}

fn conditions(comparison: &Comparison) -> Vec<String> {
    let lines = comparison.conditions.iter().flat_map(|condition| {
        let mark = if condition.is_blocking { "!" } else { " " };
        hanging(&format!("{mark} {}", condition.what))
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
        lines.extend(hanging(&format!("  nobody beats in both loss and energy: {}", front.join("; "))));
    }
    let heading = match verdict.winner {
        Some(winner) => format!("  least energy to the target: {}", comparison.groups[winner].label),
        None => "  no winner is named:".to_owned(),
    };
    lines.extend(hanging(&heading));
    lines.extend(verdict.reasons.iter().flat_map(|reason| hanging(&format!("  - {reason}"))));
    lines
}

/// A line indented by two, what follows it by four.
fn hanging(line: &str) -> Vec<String> {
    let lines = wrap(line, WIDTH - 4);
    let indented = lines.iter().enumerate().map(|(i, text)| match i {
        0 => format!("  {text}"),
        _ => format!("    {text}"),
    });
    indented.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;
    use crate::run::Run;
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
}
