//! A comparison as one page.

use maud::{Markup, html};

use crate::compare::group::Group;
use crate::compare::spread::Spread;
use crate::compare::text::{UNMETERED, energy, target_words, to_target_words};
use crate::compare::{Comparison, Contender, Measure, Saving};
use crate::join::learning::Evaluation;
use crate::join::report::Report;
use crate::page::against::{Against, JOULES, TIME, TOKENS, switcher};
use crate::page::axis::{Axis, Unit};
use crate::page::curves::SERIES;
use crate::page::document;
use crate::page::plot::Plot;
use crate::words::quantity::{duration, joules, joules_per_ktoken, loss, si, whole_percent};

/// So many evaluations of a run are drawn as dots too.
const FEW: usize = 60;

/// The page of a comparison.
pub fn page(comparison: &Comparison, reports: &[Report]) -> String {
    let body = html! {
        header {
            h1 { "Runs side by side" }
            p.lead { (comparison.runs.len()) " runs, " (n_ways(comparison)) " · " (target_words(comparison)) }
        }
        @for words in comparison.unmetered() { div.notes.first { b { "Not metered: " } (words) } }
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
    let unmetered = comparison.unmetered();
    let notes = comparison.conditions.iter().filter(|c| !c.is_blocking && !unmetered.contains(&c.what));
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
    let points: Vec<_> = comparison
        .runs
        .iter()
        .map(|run| Some((run.energy_j.get(), run.best_loss?)).filter(|_| run.is_metered()))
        .collect();
    let known = || points.iter().copied().flatten();
    if known().count() < 2 {
        return html! {};
    }
    let (low, high) = range(known().map(|(energy, _)| energy));
    let (best, worst) = range(known().map(|(_, loss)| loss));
    let margin = ((worst - best) * 0.15).max(0.01);
    let x = Axis::logarithmic("energy of the whole run", "J", low, high);
    let y = Axis::around(
        &format!("best {}", comparison.measure.name()),
        Unit::Plain,
        best - margin,
        worst + margin,
    );
    let mut plot = Plot::new(x, y, "best validation loss against energy");
    let front = comparison.pareto_front.iter().map(|i| &comparison.groups[*i]);
    let front: Vec<_> = front.filter_map(|g| Some((g.energy_j?.mean, g.best_loss?.mean))).collect();
    plot.stairs("front", &front);
    for (i, point) in points.iter().enumerate() {
        plot.dots(&format!("small {}", class_of(comparison, i)), point.iter().copied());
    }
    for (i, group) in comparison.groups.iter().enumerate() {
        if let Some((energy, loss)) = group.energy_j.zip(group.best_loss) {
            plot.dots(&format!("big {}", colour(i)), std::iter::once((energy.mean, loss.mean)));
            plot.word(energy.mean, loss.mean, &mark(comparison, i));
            plot.legend(&format!("dot {}", colour(i)), legend(comparison, i));
        }
    }
    html! {
        h2 { "Loss against energy" }
        p.lead {
            "Lower left is better. The line joins the best trade-offs (the Pareto front). A large dot is the mean over "
            "a way's seeds, a small one a run."
        }
        (plot.figure())
    }
}

fn curves(comparison: &Comparison, reports: &[Report]) -> Markup {
    html! {
        h2 { (comparison.metric.as_ref().map_or("Validation loss".to_owned(), |metric| format!("Wrong: {metric}"))) }
        p.lead { "In " (comparison.measure.words()) ". One colour for each way of training." }
        (switcher(choices(comparison), |against| curve(comparison, reports, against)))
    }
}

/// Energy is an axis only if some run was metered.
fn choices(comparison: &Comparison) -> &'static [Against] {
    match comparison.runs.iter().any(Contender::is_metered) {
        true => &[JOULES, TOKENS, TIME],
        false => &[TOKENS, TIME],
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
    // The energy of an unmetered run is unknown.
    let is_drawn = |run: &Contender| !against.is_energy || run.is_metered();
    let of_run = |(report, run): (&Report, &Contender)| match is_drawn(run) {
        true => points(&report.learning.evaluations),
        false => Vec::new(),
    };
    let runs: Vec<_> = reports.iter().zip(&comparison.runs).map(of_run).collect();
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
    let groups = comparison.groups.iter().enumerate();
    for (i, _) in groups.filter(|(_, group)| !against.is_energy || group.energy_j.is_some()) {
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
            Measure::ErrorRate => return None,
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
                    th { "measured" } th { "J/ktoken" } th { "CO₂e" } th { "energy to target" } th { "CO₂e to target" }
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
            td { (si(run.tokens as f64, "")) }
            td { (duration(run.duration_s)) }
            td { (energy(run)) }
            td { (whole_percent(run.measured_fraction)) }
            td { (run.joules_per_token.map(|j| run.at_least(joules_per_ktoken(j))).unwrap_or_default()) }
            td { (run.at_least(si(run.emissions_g.get(), "g"))) }
            @match &run.to_target {
                Some(_) if !run.is_metered() => { td colspan="2" { (UNMETERED) } }
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
                    th { "way" } th { "n" } th { "best loss" } th { "energy" } th { "energy to target" } th {}
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
            td { (group.best_loss.map(Spread::loss_words).unwrap_or_default()) }
            td { (group.energy_j.map_or(UNMETERED.to_owned(), |spread| spread.words("J"))) }
            @match group.energy_to_target_j {
                Some(spread) => {
                    td { (spread.words("J")) }
                    td.barcell { (spread_bar(spread, most, colour(i))) }
                }
                None => { td.soft { (to_target_words(group)) } td.barcell {} }
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
    use crate::join::run::Run;
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

    #[test]
    fn a_run_that_was_not_metered_is_told_first_and_drawn_against_no_joules() {
        let dir = tempfile::tempdir().unwrap();
        let runs = [
            SyntheticRun::unmetered().write(&dir.path().join("dark")),
            SyntheticRun::small().write(&dir.path().join("metered")),
        ];
        let reports = [0, 1].map(|i: usize| Report::of(&runs[i], None).unwrap());
        let page = page(&Comparison::of(&runs, &reports, None), &reports);
        let banner = page.find("dark trained on cuda:0, which no sensor measured").unwrap();
        assert!(banner < page.find("No winner is named").unwrap());
        let lines = |class: &str| {
            let view = page.split(&format!("class=\"{class}\"")).nth(1).unwrap();
            view.split("</figure>").next().unwrap().matches("class=\"line s").count()
        };
        assert_eq!((lines("view joules"), lines("view tokens")), (1, 2));
        assert!(page.contains("≥ 6.06 J") && page.contains(">unmetered<"));
    }

    #[test]
    fn no_two_columns_of_a_table_have_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let runs: Vec<Run> =
            (0..3).map(|i| SyntheticRun::small().write(&dir.path().join(i.to_string()))).collect();
        let reports: Vec<_> = runs.iter().map(|run| Report::of(run, None).unwrap()).collect();
        let page = page(&Comparison::of(&runs, &reports, None), &reports);
        for table in page.split("<table>").skip(1) {
            let table = table.split("</table>").next().unwrap();
            let mut names: Vec<_> =
                table.split("<th>").skip(1).map(|th| th.split('<').next().unwrap()).collect();
            let n = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), n, "{names:?}");
        }
    }
}
