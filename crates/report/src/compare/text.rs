//! A comparison on a terminal.

use crate::compare::group::Spread;
use crate::compare::{Comparison, Contender, Group, Reached};
use crate::quantity::{duration, grams, joules, loss, plus_minus, si, whole_percent};
use crate::table::{Table, wrap};

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
    let headings =
        ["run", "seed", "loss", "best", "tokens", "time", "energy", "measured", "J/ktoken", "emissions"];
    let mut table = Table::new(headings, &[0]);
    for run in &comparison.runs {
        table.row([
            run.label.clone(),
            run.seed.to_string(),
            run.final_loss.map(loss).unwrap_or_default(),
            run.best_loss.map(loss).unwrap_or_default(),
            si(run.tokens as f64, ""),
            duration(run.duration_s),
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
    let half_width = if run.measured_fraction < 0.005 { 0.0 } else { run.energy_uncertainty_j.get() };
    plus_minus(run.energy_j.get(), half_width, "J")
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

/// Groups, where one has more than one run.
fn groups(comparison: &Comparison) -> Vec<String> {
    if comparison.groups.iter().all(|group| group.runs.len() == 1) {
        return Vec::new();
    }
    let headings = ["seeds", "n", "best loss", "energy", "energy to target", "emissions to target"];
    let mut table = Table::new(headings, &[0]);
    for group in &comparison.groups {
        table.row(group_cells(group));
    }
    [vec!["the same but for the seed (mean, lowest to highest)".to_owned()], table.lines()].concat()
}

fn group_cells(group: &Group) -> [String; 6] {
    let spread =
        |spread: Option<Spread>, unit| spread.map_or("not reached".to_owned(), |s| spread_words(s, unit));
    [
        group.label.clone(),
        group.runs.len().to_string(),
        group.best_loss.map(loss_spread).unwrap_or_default(),
        spread_words(group.energy_j, "J"),
        spread(group.energy_to_target_j, "J"),
        spread(group.emissions_to_target_g, "g"),
    ]
}

/// `606 J (600 J–612 J)`, or the one figure there is.
pub(crate) fn spread_words(spread: Spread, unit: &str) -> String {
    match spread.low < spread.high {
        true => format!("{} ({}–{})", si(spread.mean, unit), si(spread.low, unit), si(spread.high, unit)),
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

fn differences(comparison: &Comparison) -> Vec<String> {
    let heading = match comparison.differences.len() {
        0 => return vec!["configuration: the same".to_owned()],
        1 => "configuration: one key differs".to_owned(),
        n => format!("configuration: {n} keys differ"),
    };
    let labels = comparison.runs.iter().map(|run| run.label.as_str());
    let mut table = Table::new(std::iter::once("key").chain(labels), &[0]);
    for difference in &comparison.differences {
        let values = difference.values.iter().map(|value| value.clone().unwrap_or_else(|| "–".to_owned()));
        table.row(std::iter::once(difference.key.clone()).chain(values));
    }
    [vec![heading], table.lines()].concat()
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
