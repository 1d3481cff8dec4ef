//! A comparison as one page.

use maud::{Markup, html};

use crate::compare::group::Group;
use crate::compare::text::{energy, loss_spread, spread_words, target_words};
use crate::compare::{Comparison, Contender};
use crate::learning::Evaluation;
use crate::page::against::{Against, JOULES, TIME, TOKENS, switcher};
use crate::page::axis::{Axis, Unit};
use crate::page::curves::SERIES;
use crate::page::document;
use crate::page::plot::Plot;
use crate::quantity::{count, duration, joules, loss, si, whole_percent};
use crate::report::Report;

/// The page of a comparison.
pub fn page(comparison: &Comparison, reports: &[Report]) -> String {
    let body = html! {
        header {
            h1 { "Runs side by side" }
            p.lead { (comparison.runs.len()) " runs, " (ways(comparison)) " · " (target_words(comparison)) }
        }
        (verdict(comparison))
        (pareto(comparison))
        (curves(comparison, reports))
        (figures(comparison))
        (seeds(comparison))
        (differences(comparison))
    };
    document("Runs side by side · wattle", &body)
}

fn ways(comparison: &Comparison) -> String {
    match comparison.groups.len() {
        1 => "one way of training".to_owned(),
        n => format!("{n} ways of training"),
    }
}

/// A run's colour is its group's.
fn class_of(comparison: &Comparison, run: usize) -> &'static str {
    let group = comparison.groups.iter().position(|group| group.runs.contains(&run)).unwrap_or(0);
    SERIES[group % SERIES.len()]
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
        plot.dots(class_of(comparison, i), point.iter().copied());
    }
    for (group, class) in comparison.groups.iter().zip(SERIES.iter().cycle()) {
        if let Some(loss) = group.best_loss {
            plot.dots(&format!("big {class}"), std::iter::once((group.energy_j.mean, loss.mean)));
            plot.word(group.energy_j.mean, loss.mean, &group.label);
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
    let x = Axis::exactly(against.name, against.unit, end);
    let mut plot = Plot::new(x, Axis::around("loss", Unit::Plain, low, high), "validation loss of each run");
    if let Some(target) = comparison.target {
        plot.horizontal("target", target.loss, &format!("target {}", loss(target.loss)));
    }
    for (i, points) in runs.iter().enumerate() {
        let class = class_of(comparison, i);
        plot.line(class, points.iter().copied());
        if points.len() <= 60 {
            plot.dots(class, points.iter().copied());
        }
    }
    for (group, class) in comparison.groups.iter().zip(SERIES.iter().cycle()) {
        plot.legend(class, group.label.clone());
    }
    plot.figure()
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

/// Groups, where one has more than one run.
fn seeds(comparison: &Comparison) -> Markup {
    if comparison.groups.iter().all(|group| group.runs.len() == 1) {
        return html! {};
    }
    html! {
        h2 { "The same but for the seed" }
        p.lead { "Mean, and from lowest to highest." }
        div.wide {
            table {
                tr { th { "runs" } th { "n" } th { "best loss" } th { "energy" } th { "energy to target" } th { "emissions to target" } }
                @for (group, class) in comparison.groups.iter().zip(SERIES.iter().cycle()) { (seed_row(group, class)) }
            }
        }
    }
}

fn seed_row(group: &Group, class: &str) -> Markup {
    let spread = |spread: Option<_>, unit| spread.map_or("not reached".to_owned(), |s| spread_words(s, unit));
    html! {
        tr {
            td { span class=(class) { "■ " } (group.label) }
            td { (group.runs.len()) }
            td { (group.best_loss.map(loss_spread).unwrap_or_default()) }
            td { (spread_words(group.energy_j, "J")) }
            td { (spread(group.energy_to_target_j, "J")) }
            td { (spread(group.emissions_to_target_g, "g")) }
        }
    }
}

fn differences(comparison: &Comparison) -> Markup {
    html! {
        h2 { "What was configured differently" }
        @if comparison.differences.is_empty() {
            p.lead { "Nothing." }
        } @else {
            div.wide {
                table {
                    tr {
                        th { "key" }
                        @for (i, run) in comparison.runs.iter().enumerate() {
                            th { span class=(class_of(comparison, i)) { "■ " } (run.label) }
                        }
                    }
                    @for difference in &comparison.differences {
                        tr {
                            td { code { (difference.key) } }
                            @for value in &difference.values { td { code { (value.as_deref().unwrap_or("–")) } } }
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
