//! A comparison as one page.

use maud::{Markup, html};

use crate::compare::group::{Group, Spread};
use crate::compare::text::{energy, loss_spread, spread_words, target_words};
use crate::compare::{Comparison, Contender, Measure, Saving};
use crate::learning::Evaluation;
use crate::page::against::{Against, JOULES, TIME, TOKENS, switcher};
use crate::page::axis::{Axis, Unit};
use crate::page::curves::SERIES;
use crate::page::document;
use crate::page::plot::Plot;
use crate::quantity::{count, duration, joules, loss, si, whole_percent};
use crate::report::Report;

/// So many evaluations of a run are drawn as dots too.
const FEW: usize = 60;

/// The page of a comparison.
pub fn page(comparison: &Comparison, reports: &[Report]) -> String {
    let body = html! {
        header {
            h1 { "Runs side by side" }
            p.lead { (comparison.runs.len()) " runs, " (n_ways(comparison)) " · " (target_words(comparison)) }
        }
        (verdict(comparison))
        (ways(comparison))
        (pareto(comparison))
        (curves(comparison, reports))
        (figures(comparison))
        (differences(comparison))
    };
    document("Runs side by side · wattle", &body)
}

fn n_ways(comparison: &Comparison) -> String {
    match comparison.groups.len() {
        1 => "one way of training".to_owned(),
        n => format!("{n} ways of training"),
    }
}

/// A way's colour.
fn colour(group: usize) -> &'static str {
    SERIES[group % SERIES.len()]
}

/// A way's line: broken, where colours come round again.
fn line_of(group: usize) -> String {
    if group < SERIES.len() { colour(group).to_owned() } else { format!("{} dashed", colour(group)) }
}

fn group_of(comparison: &Comparison, run: usize) -> usize {
    comparison.groups.iter().position(|group| group.runs.contains(&run)).unwrap_or(0)
}

/// A run's colour is its way's.
fn class_of(comparison: &Comparison, run: usize) -> &'static str {
    colour(group_of(comparison, run))
}

/// What a way is called in a picture: by its number, where names would run into each other.
fn mark(comparison: &Comparison, group: usize) -> String {
    const NAMES: usize = 3;
    match comparison.groups.len() {
        ..=NAMES => comparison.groups[group].label.clone(),
        _ => (group + 1).to_string(),
    }
}

/// A way in a legend: its number where it has one, and its name.
fn legend(comparison: &Comparison, group: usize) -> String {
    let (mark, label) = (mark(comparison, group), &comparison.groups[group].label);
    if mark == *label { mark } else { format!("{mark} {label}") }
}

fn verdict(comparison: &Comparison) -> Markup {
    let verdict = &comparison.verdict;
    let notes = comparison.conditions.iter().filter(|condition| !condition.is_blocking);
    html! {
        div class=(if verdict.winner.is_some() { "verdict good" } else { "verdict warn" }) {
            @match verdict.winner {
                Some(winner) => {
                    b { (comparison.groups[winner].label) } " reached the target with the least energy."
                }
                None => { b { "No winner is named." } }
            }
            ul { @for reason in &verdict.reasons { li { (reason) } } }
        }
        ul.flags { @for note in notes { li { span.soft { (note.what) } } } }
    }
}

/// Energy against loss, and the front that nobody beats.
fn pareto(comparison: &Comparison) -> Markup {
    let points: Vec<_> =
        comparison.runs.iter().map(|run| Some((run.energy_j.get(), run.best_loss?))).collect();
    let known = || points.iter().copied().flatten();
    if known().count() < 2 {
        return html! {};
    }
    let (low, high) = range(known().map(|(energy, _)| energy));
    let (best, worst) = range(known().map(|(_, loss)| loss));
    let margin = ((worst - best) * 0.15).max(0.01);
    let x = Axis::logarithmic("energy of the whole run", "J", low, high);
    let y = Axis::around("best validation loss", Unit::Plain, best - margin, worst + margin);
    let mut plot = Plot::new(x, y, "best validation loss against energy");
    let front = comparison.pareto_front.iter().map(|i| &comparison.groups[*i]);
    let front: Vec<_> = front.filter_map(|g| Some((g.energy_j.mean, g.best_loss?.mean))).collect();
    plot.stairs("front", &front);
    for (i, point) in points.iter().enumerate() {
        plot.dots(&format!("small {}", class_of(comparison, i)), point.iter().copied());
    }
    for (i, group) in comparison.groups.iter().enumerate() {
        if let Some(loss) = group.best_loss {
            plot.dots(&format!("big {}", colour(i)), std::iter::once((group.energy_j.mean, loss.mean)));
            plot.word(group.energy_j.mean, loss.mean, &mark(comparison, i));
            plot.legend(&format!("dot {}", colour(i)), legend(comparison, i));
        }
    }
    html! {
        h2 { "Loss against energy" }
        p.lead {
            "To the left costs less, further down learnt more. The line joins what nobody beats in both. A large dot "
            "is the mean of a way's seeds, a small one a run."
        }
        (plot.figure())
    }
}

fn curves(comparison: &Comparison, reports: &[Report]) -> Markup {
    html! {
        h2 { "Curves over each other" }
        p.lead { "Validation loss, in " (comparison.measure.words()) ". One colour for each way of training." }
        (switcher(&[JOULES, TOKENS, TIME], |against| curve(comparison, reports, against)))
    }
}

fn curve(comparison: &Comparison, reports: &[Report], against: &Against) -> Markup {
    let points = |evaluations: &[Evaluation]| -> Vec<(f64, f64)> {
        evaluations
            .iter()
            .map(|e| ((against.place)(&e.at), comparison.measure.loss(e)))
            .filter(|(_, y)| y.is_finite())
            .collect()
    };
    let runs: Vec<_> = reports.iter().map(|report| points(&report.learning.evaluations)).collect();
    let (_, end) = range(runs.iter().flatten().map(|(x, _)| *x));
    let (low, high) = range(runs.iter().flatten().map(|(_, y)| *y));
    // A floor far below would press the curves together.
    let floor = shared_floor(comparison, reports).filter(|floor| low - floor <= high - low);
    let low = floor.map_or(low, |floor| low.min(floor));
    let x = Axis::exactly(against.name, against.unit, end);
    let mut plot = Plot::new(x, Axis::around("loss", Unit::Plain, low, high), "validation loss of each run");
    if let Some(target) = comparison.target {
        plot.horizontal("target", target.loss, &format!("target {}", loss(target.loss)));
    }
    if let Some(floor) = floor {
        plot.horizontal("floor", floor, &format!("entropy floor {}", loss(floor)));
    }
    for (i, points) in runs.iter().enumerate() {
        plot.line(&line_of(group_of(comparison, i)), points.iter().copied());
        if points.len() <= FEW && runs.len() <= 4 {
            plot.dots(class_of(comparison, i), points.iter().copied());
        }
    }
    for i in 0..comparison.groups.len() {
        plot.legend(&line_of(i), legend(comparison, i));
    }
    plot.figure()
}

/// The entropy of the text, where all runs know the same.
fn shared_floor(comparison: &Comparison, reports: &[Report]) -> Option<f64> {
    let floor = |report: &Report| {
        let floor = report.floor()?;
        Some(match comparison.measure {
            Measure::NatsPerToken => floor.nats_per_token,
            Measure::BitsPerByte => floor.bits_per_byte,
        })
    };
    let floors: Vec<_> = reports.iter().map(floor).collect::<Option<_>>()?;
    let is_shared = floors.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 1e-9);
    floors.first().copied().filter(|_| is_shared)
}

fn figures(comparison: &Comparison) -> Markup {
    html! {
        h2 { "Run by run" }
        div.wide {
            table {
                tr {
                    th { "run" } th { "seed" } th { "final loss" } th { "best" } th { "tokens" } th { "time" } th { "energy" }
                    th { "measured" } th { "J/ktoken" } th { "emissions" } th { "to target" } th { "emissions" }
                }
                @for (i, run) in comparison.runs.iter().enumerate() { (figure_row(run, class_of(comparison, i))) }
            }
        }
    }
}

fn figure_row(run: &Contender, class: &str) -> Markup {
    html! {
        tr {
            td { span class=(class) { "■ " } (run.label) }
            td { (run.seed) }
            td { (run.final_loss.map(loss).unwrap_or_default()) }
            td { (run.best_loss.map(loss).unwrap_or_default()) }
            td { (count(run.tokens)) }
            td { (duration(run.duration_s)) }
            td { (energy(run)) }
            td { (whole_percent(run.measured_fraction)) }
            td { (run.joules_per_token.map(|j| si(j * 1e3, "")).unwrap_or_default()) }
            td { (si(run.emissions_g.get(), "g")) }
            @match &run.to_target {
                Some(reached) => {
                    td { @if reached.is_upper_bound { "≤ " } (joules(reached.at.energy_j)) }
                    td { @if reached.is_upper_bound { "≤ " } (si(reached.at.emissions_g.get(), "g")) }
                }
                None => { td colspan="2" { "not reached" } }
            }
        }
    }
}

/// Each way's energy to the target, held against the first.
fn ways(comparison: &Comparison) -> Markup {
    if !comparison.has_ways() {
        return html! {};
    }
    let reached = comparison.groups.iter().filter_map(|group| group.energy_to_target_j);
    let most = reached.map(|spread| spread.high).fold(f64::MIN_POSITIVE, f64::max);
    html! {
        h2 { "Way by way" }
        p.lead {
            "Mean over seeds, and from lowest to highest; bars are the energy to the target, the line in them the "
            "spread."
        }
        div.wide {
            table {
                tr {
                    th { "way" } th { "n" } th { "best loss" } th { "whole run" } th { "to target" } th {}
                    @if !comparison.savings.is_empty() { th { (comparison.against_first()) } }
                }
                @for (i, group) in comparison.groups.iter().enumerate() { (way_row(comparison, i, group, most)) }
            }
        }
    }
}

fn way_row(comparison: &Comparison, i: usize, group: &Group, most: f64) -> Markup {
    let saving = comparison.savings.iter().find(|saving| saving.group == i);
    html! {
        tr {
            td { span class=(colour(i)) { "■ " } (legend(comparison, i)) }
            td { (group.runs.len()) }
            td { (group.best_loss.map(loss_spread).unwrap_or_default()) }
            td { (spread_words(group.energy_j, "J")) }
            @match group.energy_to_target_j {
                Some(spread) => {
                    td { (spread_words(spread, "J")) }
                    td.barcell { (spread_bar(spread, most, colour(i))) }
                }
                None => { td.soft { "not reached" } td.barcell {} }
            }
            @if !comparison.savings.is_empty() {
                td class=[saving.and_then(|saving| saving.doubt).map(|_| "soft")] {
                    (saving.map(Saving::words).unwrap_or_default())
                }
            }
        }
    }
}

/// A bar as long as the mean, with a line from lowest to highest.
fn spread_bar(spread: Spread, most: f64, class: &str) -> Markup {
    let percent = |value: f64| value / most * 100.0;
    let whisker = format!("left:{:.2}%;width:{:.2}%", percent(spread.low), percent(spread.high - spread.low));
    html! {
        div class=(format!("bar {class}")) {
            i style=(format!("width:{:.2}%", percent(spread.mean))) {}
            @if spread.high > spread.low { u style=(whisker) {} }
        }
    }
}

/// What each way changes against the first, as a diff.
fn differences(comparison: &Comparison) -> Markup {
    let changes = comparison.changes();
    html! {
        h2 { "What was configured differently" }
        @if comparison.groups.len() < 2 {
            p.lead { "Nothing but seeds and names." }
        } @else {
            p.lead { "What each way changes " (comparison.against_first()) "; seeds and names are left out." }
            div.diffs {
                @for (i, changes) in changes.iter().enumerate().skip(1) {
                    section {
                        h3 { span class=(colour(i)) { "■ " } (comparison.groups[i].label) }
                        @if changes.is_empty() { p.soft { "The same; data or device differ." } }
                        @for (key, old, new) in changes {
                            div.key { code { (key) } }
                            @if let Some(old) = old { div.del { code { "− " (old) } } }
                            @if let Some(new) = new { div.ins { code { "+ " (new) } } }
                        }
                    }
                }
            }
        }
    }
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Run;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn it_is_well_formed_and_asks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let other = SyntheticRun { floor: 2.5, watts: 60.0, data_sha256: "<data>", ..SyntheticRun::small() };
        let runs: Vec<Run> =
            vec![SyntheticRun::small().write(&dir.path().join("a")), other.write(&dir.path().join("<b>"))];
        let reports: Vec<_> = runs.iter().map(|run| Report::of(run, None).unwrap()).collect();
        let page = page(&Comparison::of(&runs, &reports, None), &reports);
        assert_eq!(scraper::Html::parse_document(&page).errors, Vec::<std::borrow::Cow<'_, str>>::new());
        assert!(page.contains("&lt;b&gt;") && !page.contains("<b>&") && !page.contains(" <b>;"));
        for reference in ["http:", "https:", "url(", "<script", "<link", "src="] {
            assert!(!page.contains(reference), "{reference}");
        }
    }
}
