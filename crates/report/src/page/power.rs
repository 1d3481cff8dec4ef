//! Power of each sensor over running time, what the run was doing meanwhile, and how hot its boards were.

use std::collections::BTreeMap;

use maud::{Markup, html};
use wattle_runlog::MonotonicNs;

use crate::decimate::{Decimated, decimate};
use crate::page::Source;
use crate::page::axis::{Axis, Unit};
use crate::page::course::{Course, SHADED};
use crate::page::curves::{POINTS, SERIES, draw_band};
use crate::page::plot::Plot;
use crate::power::{Bucket, SensorPower};
use crate::quantity::watts;
use crate::report::Report;
use crate::sensor_name::short;

/// Power and temperature.
pub fn power(source: &Source<'_>) -> Markup {
    let sensors = by_sensor(source);
    if sensors.is_empty() {
        return html! {};
    }
    let course = Course::of(source);
    html! {
        h2 { "Power" }
        p.lead {
            "Mean power as the trace has it, with its lowest and highest readings, over what the run was doing."
            @if course.has_epochs() { " A stroke at the foot is the end of an epoch." }
            @if course.has_resumes() { " A broken line is where the run was stopped and went on." }
        }
        (power_plot(source, &course, &sensors).figure())
        @if let Some(plot) = temperature_plot(source, &course, &sensors) {
            div.short { (plot.figure()) }
        }
    }
}

fn power_plot(source: &Source<'_>, course: &Course, sensors: &[(String, Vec<Decimated>)]) -> Plot {
    let high = sensors.iter().flat_map(|(_, points)| points.iter().map(|p| p.high)).fold(0.0, f64::max);
    let y = Axis::from_zero("power", Unit::Si("W"), high);
    let mut plot = Plot::new(time_axis(source), y, "power over time");
    course.draw(&mut plot);
    for ((id, points), class) in sensors.iter().zip(SERIES.iter().cycle()) {
        draw_band(&mut plot, class, points);
        plot.legend(class, legend_of(source.report, id));
    }
    for (_, class, word) in SHADED.iter().filter(|(phase, ..)| course.has(*phase)) {
        plot.legend(&format!("area {class}"), *word);
    }
    plot
}

/// Temperatures, each in the colour that the same board's power has.
fn temperature_plot(
    source: &Source<'_>,
    course: &Course,
    sensors: &[(String, Vec<Decimated>)],
) -> Option<Plot> {
    let mut boards: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for sensor in &source.run.power.temperatures {
        let place = |t| source.timeline.at(sensor.segment, t).get();
        let points = sensor.readings.iter().map(|(t, degrees)| (place(*t), degrees.get()));
        boards.entry(&sensor.id).or_default().extend(points);
    }
    let degrees = || boards.values().flatten().map(|(_, degrees)| *degrees);
    let low = degrees().reduce(f64::min)?;
    let high = degrees().fold(low, f64::max);
    let y = Axis::around("temperature, °C", Unit::Plain, low - 2.0, high + 2.0);
    let mut plot = Plot::new(time_axis(source), y, "temperature of boards over time");
    course.draw(&mut plot);
    for (id, points) in &boards {
        let place = sensors.iter().position(|(known, _)| known == id).unwrap_or_default();
        let class = SERIES[place % SERIES.len()];
        plot.line(class, decimate(points.iter().copied(), POINTS).iter().map(|p| (p.x, p.mean)));
        let highest = points.iter().map(|(_, degrees)| *degrees).fold(f64::NEG_INFINITY, f64::max);
        plot.legend(class, format!("{} · highest {highest:.0} °C", short(id)));
    }
    Some(plot)
}

fn time_axis(source: &Source<'_>) -> Axis {
    Axis::exactly("running time", Unit::Time, source.timeline.total().get())
}

/// `gpu:0 · 151 W mean, 200 W highest`
fn legend_of(report: &Report, id: &str) -> String {
    let Some(sensor) = report.sensors.iter().find(|sensor| sensor.id == id) else { return short(id) };
    let mut parts = vec![short(id)];
    parts.extend(sensor.mean_w.map(|mean| format!("mean {}", watts(mean))));
    parts.extend(sensor.max_w.map(|max| format!("highest {}", watts(max))));
    parts.join(" · ")
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
