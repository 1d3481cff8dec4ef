//! The curves of a page: loss and accuracy by step, token and joule; energy, emissions and cost over time.

use maud::{Markup, html};
use wattle_runlog::MonotonicNs;

use crate::join::energy_curve::Spent;
use crate::join::report::Totals;
use crate::page::Source;
use crate::page::against::{Against, JOULES, STEPS, TIME, TOKENS, switcher};
use crate::page::axis::{Axis, Unit};
use crate::page::decimate::{Decimated, decimate};
use crate::page::plot::Plot;
use crate::text::beside_words::{embodied_words, idle_words};
use crate::words::quantity::{factor, joules, loss, mass, money, percent, si, tariff};

/// Points of a line at most: one every two or three pixels.
pub(crate) const POINTS: usize = 360;

/// Points of a loss at most. Few enough for a mean to say more than its noise, whose range stands behind it.
const SMOOTH: usize = 150;

/// Colours of series, in the order in which they are given out.
pub(crate) const SERIES: [&str; 6] = ["s1", "s2", "s3", "s4", "s5", "s6"];

/// Loss and accuracy, against whatever is chosen.
pub fn learning(source: &Source<'_>) -> Markup {
    if source.learning.steps.is_empty() && source.learning.evaluations.is_empty() {
        return html! {};
    }
    html! {
        h2 { "What it learnt" }
        p.lead {
            "Cross-entropy in nats a token, and the share of next tokens that were the model's first choice."
            @if source.report.floor().is_some() {
                " The text is drawn from a grammar, so its entropy is known: no model gets below the floor."
            }
        }
        (switcher(choices(source), |against| html! {
            (loss_plot(source, against).figure())
            div.short { (accuracy_plot(source, against).figure()) }
        }))
    }
}

/// Energy is an axis only if the run was fully metered.
fn choices(source: &Source<'_>) -> &'static [Against] {
    match source.report.is_metered() {
        true => &[STEPS, TOKENS, JOULES, TIME],
        false => &[STEPS, TOKENS, TIME],
    }
}

fn loss_plot(source: &Source<'_>, against: &Against) -> Plot {
    let learning = &source.learning;
    let steps = learning.steps.iter().map(|(at, step)| ((against.place)(at), f64::from(step.loss)));
    let train = decimate(steps, SMOOTH);
    let val: Vec<_> = learning.evaluations.iter().map(|e| ((against.place)(&e.at), e.loss)).collect();
    let floor = source.report.floor().map(|floor| floor.nats_per_token);
    let values = train.iter().flat_map(|p| [p.low, p.high]).chain(val.iter().map(|(_, y)| *y)).chain(floor);
    let (low, high) = range(values.filter(|y| y.is_finite()));
    let mut plot = Plot::new(x_axis(source, against), Axis::around("loss", Unit::Plain, low, high), "loss");
    if let Some(floor) = floor {
        plot.horizontal("floor", floor, &format!("entropy floor {}", loss(floor)));
    }
    draw_band(&mut plot, "s1", &train);
    plot.legend("s1", "training, mean and range");
    if !val.is_empty() {
        draw_evaluations(&mut plot, &val);
        plot.legend("s5 dot", "validation");
    }
    if let Some(best) = learning.best() {
        plot.word((against.place)(&best.at), best.loss, &loss(best.loss));
    }
    plot
}

fn accuracy_plot(source: &Source<'_>, against: &Against) -> Plot {
    let learning = &source.learning;
    let steps = learning.steps.iter().map(|(at, step)| ((against.place)(at), f64::from(step.accuracy)));
    let train = decimate(steps, SMOOTH);
    let val: Vec<_> = learning.evaluations.iter().map(|e| ((against.place)(&e.at), e.accuracy)).collect();
    let (_, high) = range(train.iter().map(|p| p.high).chain(val.iter().map(|(_, y)| *y)));
    let y = Axis::from_zero("next token right", Unit::Percent, high.max(0.01));
    let mut plot = Plot::new(x_axis(source, against), y, "next-token accuracy");
    draw_band(&mut plot, "s1", &train);
    draw_evaluations(&mut plot, &val);
    if let Some((x, y)) = val.last() {
        plot.word(*x, *y, &percent(*y));
    }
    plot
}

fn x_axis(source: &Source<'_>, against: &Against) -> Axis {
    let steps = source.learning.steps.iter().map(|(at, _)| (against.place)(at));
    let evaluations = source.learning.evaluations.iter().map(|e| (against.place)(&e.at));
    Axis::exactly(against.name, against.unit, range(steps.chain(evaluations)).1)
}

pub(crate) fn draw_band(plot: &mut Plot, class: &str, points: &[Decimated]) {
    if points.iter().any(|point| point.high > point.low) {
        let band: Vec<_> = points.iter().map(|p| (p.x, p.low, p.high)).collect();
        plot.band(class, &band);
    }
    plot.line(&format!("{class} thin"), points.iter().map(|p| (p.x, p.mean)));
}

/// Evaluations as dots, or as a line alone where dots would touch.
fn draw_evaluations(plot: &mut Plot, points: &[(f64, f64)]) {
    const DOTS: usize = 60;
    plot.line("s5", decimate(points.iter().copied(), POINTS).iter().map(|p| (p.x, p.mean)));
    if points.len() <= DOTS {
        plot.dots("s5", points.iter().copied());
    }
}

/// Energy, emissions and cost as they came together.
pub fn cumulative(source: &Source<'_>) -> Markup {
    let Some(totals) = &source.report.totals else { return html! {} };
    let course = course(source);
    let end = source.curve.total();
    let curve = |name: &str, unit, class: &str, value: &dyn Fn(&Spent) -> f64, total: &str| {
        let points: Vec<_> = course.iter().map(|(t, spent)| (*t, value(spent))).collect();
        growth(source, (name, unit), class, &points, total)
    };
    let least = |figure| source.report.at_least(figure);
    let emissions = least(format!("{} CO₂e", mass(end.emissions)));
    html! {
        h2 { "Cumulative energy and emissions" }
        p.lead { (pricing(totals)) }
        @if let Some(embodied) = &totals.embodied {
            p.soft { "Embodied: " (embodied_words(embodied, totals.sci.as_ref())) "." }
        }
        @if let Some(idle) = &totals.machine_idle {
            p.soft { "Idle: " (idle_words(idle)) "." }
        }
        div.multiples.short {
            (curve("energy", Unit::Si("J"), "s2", &|s| s.energy.get(), &least(joules(end.energy))))
            (curve("emissions", Unit::Si("g CO₂e"), "s4", &|s| s.emissions.get(), &emissions))
            @if let Some(cost) = &totals.cost {
                (curve("cost", Unit::Si(&cost.currency), "s3", &|s| s.cost, &least(money(end.cost, &cost.currency))))
            }
        }
    }
}

/// One amount over running time.
fn growth(
    source: &Source<'_>,
    (name, unit): (&str, Unit<'_>),
    class: &str,
    points: &[(f64, f64)],
    total: &str,
) -> Markup {
    let x = Axis::exactly("running time", Unit::Time, source.timeline.total().get());
    let (end, high) = points.last().copied().unwrap_or_default();
    let mut plot = Plot::new(x, Axis::from_zero(name, unit, high), name);
    source.timeline.resumes().into_iter().for_each(|t| plot.vertical("resume", t.get()));
    plot.line(class, points.iter().copied());
    plot.dots(class, points.last().copied().into_iter());
    plot.word(end, high, total);
    plot.figure()
}

/// What had been spent at so many moments of each segment.
fn course(source: &Source<'_>) -> Vec<(f64, Spent)> {
    const MOMENTS: u64 = 160;
    let moments = source.timeline.segments().filter_map(|segment| {
        let (start, end) = source.timeline.segment(segment)?;
        let length = end.0 - start.0;
        Some((0..=MOMENTS).map(move |i| (segment, MonotonicNs(start.0 + length / MOMENTS * i))))
    });
    let spent = |(segment, t)| (source.timeline.at(segment, t).get(), source.curve.at(segment, t));
    moments.flatten().map(spent).collect()
}

/// By what energy was turned into grams and money.
fn pricing(totals: &Totals) -> String {
    let carbon = &totals.carbon;
    let year = carbon.year.map_or(String::new(), |year| format!(" {year}"));
    let intensity = si(carbon.intensity_g_per_kwh.get(), "");
    let mut text = format!(
        "Emissions at {intensity} g/kWh: {}{year}, {}, {}.",
        carbon.region, carbon.basis, carbon.source
    );
    if totals.pue > 1.0 {
        text += &format!(" The building draws {} times what the machine draws.", factor(totals.pue));
    }
    if let Some(cost) = &totals.cost {
        text += &format!(" Cost at {}.", tariff(cost).replace("a kWh", "a kilowatt-hour"));
    }
    text
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}
