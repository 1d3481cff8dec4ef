//! The curves of a page: loss and accuracy by step, token and joule; power and what it came to over time.

use std::collections::BTreeMap;

use maud::{Markup, html};
use wattle_runlog::{EventBody, MonotonicNs};

use crate::decimate::{Decimated, decimate};
use crate::energy_curve::Spent;
use crate::page::Source;
use crate::page::against::{Against, JOULES, STEPS, TIME, TOKENS, switcher};
use crate::page::axis::{Axis, Unit};
use crate::page::plot::Plot;
use crate::power::{Bucket, SensorPower};
use crate::quantity::{grams, joules, loss, money, percent, si, watts};
use crate::report::{Report, Totals};
use crate::sensor_name::short;

/// Points of a sensor's power at most: one every two or three pixels.
const POINTS: usize = 360;

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
        p.lead { "Cross-entropy in nats a token, and the share of next tokens that were the model's first choice." }
        (switcher(&[STEPS, TOKENS, JOULES, TIME], |against| html! {
            (loss_plot(source, against).figure())
            div.short { (accuracy_plot(source, against).figure()) }
        }))
    }
}

fn loss_plot(source: &Source<'_>, against: &Against) -> Plot {
    let learning = &source.learning;
    let steps = learning.steps.iter().map(|(at, step)| ((against.place)(at), f64::from(step.loss)));
    let train = decimate(steps, SMOOTH);
    let val: Vec<_> = learning.evaluations.iter().map(|e| ((against.place)(&e.at), e.loss)).collect();
    let values = train.iter().flat_map(|p| [p.low, p.high]).chain(val.iter().map(|(_, y)| *y));
    let (low, high) = range(values.filter(|y| y.is_finite()));
    let mut plot = Plot::new(x_axis(source, against), Axis::around("loss", Unit::Plain, low, high), "loss");
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

fn draw_band(plot: &mut Plot, class: &str, points: &[Decimated]) {
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

/// Power of each sensor over running time.
pub fn power(source: &Source<'_>) -> Markup {
    let sensors = by_sensor(source);
    if sensors.is_empty() {
        return html! {};
    }
    let high = sensors.iter().flat_map(|(_, points)| points.iter().map(|p| p.high)).fold(0.0, f64::max);
    let x = Axis::exactly("running time", Unit::Time, source.timeline.total().get());
    let mut plot = Plot::new(x, Axis::from_zero("power", Unit::Si("W"), high), "power over time");
    mark_course(&mut plot, source);
    for ((id, points), class) in sensors.iter().zip(SERIES.iter().cycle()) {
        draw_band(&mut plot, class, points);
        plot.legend(class, legend_of(source.report, id));
    }
    let resumes = source.timeline.resumes();
    html! {
        h2 { "Power" }
        p.lead {
            "Mean power as the trace has it, with its lowest and highest readings. Every other epoch is shaded; a "
            "stroke at the foot is an evaluation."
            @if !resumes.is_empty() { " A broken line is where the run was stopped and went on." }
        }
        (plot.figure())
    }
}

/// `gpu:0 · 151 W mean, 200 W highest`
fn legend_of(report: &Report, id: &str) -> String {
    let Some(sensor) = report.sensors.iter().find(|sensor| sensor.id == id) else { return short(id) };
    let mut parts = vec![short(id)];
    parts.extend(sensor.mean_w.map(|mean| format!("mean {}", watts(mean))));
    parts.extend(sensor.max_w.map(|max| format!("highest {}", watts(max))));
    parts.join(" · ")
}

/// Epochs, evaluations and resumes, behind whatever is drawn over time. So many of them that they would run
/// together are left out.
fn mark_course(plot: &mut Plot, source: &Source<'_>) {
    const SHADES: usize = 100;
    const STROKES: usize = 100;
    let mut ends = Vec::new();
    let mut evaluations = Vec::new();
    for event in &source.run.events {
        let t = source.timeline.at(event.segment, event.t_ns).get();
        match event.body {
            EventBody::Epoch { .. } => ends.push(t),
            EventBody::Evaluate(_) => evaluations.push(t),
            _ => {}
        }
    }
    if ends.len() <= SHADES {
        ends.chunks(2).filter_map(<[f64]>::first_chunk).for_each(|[from, to]| plot.shade(*from, *to));
    }
    if evaluations.len() <= STROKES {
        plot.rug("rug", evaluations.into_iter());
    }
    source.timeline.resumes().into_iter().for_each(|t| plot.vertical("resume", t.get()));
}

/// Every sensor's power over running time, its segments put end to end.
fn by_sensor(source: &Source<'_>) -> Vec<(String, Vec<Decimated>)> {
    let mut sensors: BTreeMap<&str, Vec<Decimated>> = BTreeMap::new();
    let segments = source.run.power.sensors.iter();
    let n_segments = source.timeline.segments().count().max(1);
    for sensor in segments {
        let points = thinned(sensor, (POINTS / n_segments).max(60));
        let place = |t| source.timeline.at(sensor.segment, t).get();
        let points = points.into_iter().map(|(t, bucket)| Decimated {
            x: place(t),
            low: bucket.low.get().min(bucket.mean().get()),
            mean: bucket.mean().get(),
            high: bucket.high.get().max(bucket.mean().get()),
        });
        sensors.entry(&sensor.info.id).or_default().extend(points);
    }
    let mut sensors: Vec<_> = sensors.into_iter().map(|(id, points)| (id.to_owned(), points)).collect();
    // The hungriest first: it gets the first colour and the first place in the legend.
    let mean = |points: &[Decimated]| points.iter().map(|p| p.mean).sum::<f64>() / points.len().max(1) as f64;
    sensors.sort_by(|a, b| mean(&b.1).total_cmp(&mean(&a.1)));
    sensors
}

/// A sensor's buckets, `n` at most.
fn thinned(sensor: &SensorPower, n: usize) -> Vec<(MonotonicNs, Bucket)> {
    let buckets: Vec<_> = sensor.buckets().collect();
    let together = buckets.len().div_ceil(n).max(1);
    let union = |chunk: &[(_, Bucket)]| {
        let (t, _) = chunk[chunk.len() / 2];
        let buckets: Vec<_> = chunk.iter().map(|(_, bucket)| *bucket).collect();
        (t, Bucket::union(&buckets))
    };
    buckets.chunks(together).map(union).collect()
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
    let emissions = grams(end.emissions).replace("CO2e", " CO₂e");
    html! {
        h2 { "As it came together" }
        p.lead { (pricing(totals)) }
        div.multiples.short {
            (curve("energy", Unit::Si("J"), "s2", &|s| s.energy.get(), &joules(end.energy)))
            (curve("emissions", Unit::Si("g CO₂e"), "s4", &|s| s.emissions.get(), &emissions))
            @if let Some(cost) = &totals.cost {
                (curve("cost", Unit::Si(&cost.currency), "s3", &|s| s.cost, &money(end.cost, &cost.currency)))
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
        text += &format!(" The building draws {} times what the machine does.", totals.pue);
    }
    if let Some(cost) = &totals.cost {
        text += &format!(" Cost at {} {} a kilowatt-hour.", cost.tariff_per_kwh, cost.currency);
    }
    text
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}
