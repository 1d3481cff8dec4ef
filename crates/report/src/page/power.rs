//! Power of each sensor over running time, what the run was doing meanwhile, and how hot its boards were.

use std::collections::BTreeMap;

use maud::{Markup, html};
use wattle_runlog::MonotonicNs;

use crate::join::power::{Bucket, SensorPower};
use crate::join::report::Report;
use crate::page::Source;
use crate::page::axis::{Axis, Unit};
use crate::page::course::{Course, SHADED};
use crate::page::curves::{POINTS, SERIES, draw_band};
use crate::page::decimate::{Decimated, decimate};
use crate::page::plot::Plot;
use crate::words::quantity::watts;

/// A sensor whose power stays below this share of another's maximum gets its own plot.
const FLAT: f64 = 0.1;

/// Power and temperature.
pub fn power(source: &Source<'_>) -> Markup {
    let sensors = by_sensor(source);
    if sensors.is_empty() {
        return html! {};
    }
    let course = Course::of(source);
    let panels = panels(&sensors);
    html! {
        h2 { "Power" }
        p.lead {
            "Mean power by the trace, with its lowest and highest readings, over what the run was doing."
            @if course.has_epochs() { " A stroke at the foot is the end of an epoch." }
            @if course.has_resumes() { " A broken line is where the run was stopped and resumed." }
            @if panels.len() > 1 { " Low-power sensors have plots of their own." }
        }
        @for (i, panel) in panels.iter().enumerate() {
            div.short[i > 0] { (power_plot(source, &course, panel, i == 0).figure()) }
        }
        (temperature(source, &course, &sensors))
    }
}

/// A sensor's power over running time, and its colour.
struct Series {
    id: String,
    class: &'static str,
    points: Vec<Decimated>,
}

impl Series {
    fn high(&self) -> f64 {
        self.points.iter().map(|point| point.high).fold(0.0, f64::max)
    }
}

/// Groups sensors of similar power, largest first.
fn panels(sensors: &[Series]) -> Vec<Vec<&Series>> {
    let mut left: Vec<&Series> = sensors.iter().collect();
    let mut panels = Vec::new();
    while !left.is_empty() {
        let high = left.iter().map(|sensor| sensor.high()).fold(0.0, f64::max);
        let (panel, rest) = left.into_iter().partition(|sensor| sensor.high() >= FLAT * high);
        panels.push(panel);
        left = rest;
    }
    panels
}

fn power_plot(source: &Source<'_>, course: &Course, sensors: &[&Series], has_course: bool) -> Plot {
    let high = sensors.iter().map(|sensor| sensor.high()).fold(0.0, f64::max);
    let y = Axis::from_zero("power", Unit::Si("W"), high);
    let mut plot = Plot::new(time_axis(source), y, "power over time");
    course.draw(&mut plot);
    for sensor in sensors {
        draw_band(&mut plot, sensor.class, &sensor.points);
        plot.legend(sensor.class, legend_of(source.report, &sensor.id));
    }
    for (_, class, word) in SHADED.iter().filter(|(phase, ..)| has_course && course.has(*phase)) {
        plot.legend(&format!("area {class}"), *word);
    }
    plot
}

/// Temperatures: a plot, or a sentence if there is a single reading.
fn temperature(source: &Source<'_>, course: &Course, sensors: &[Series]) -> Markup {
    let mut boards: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for sensor in &source.run.power.temperatures {
        let place = |t| source.timeline.at(sensor.segment, t).get();
        let points = sensor.readings.iter().map(|(t, degrees)| (place(*t), degrees.get()));
        boards.entry(&sensor.id).or_default().extend(points);
    }
    if boards.values().any(|points| points.len() > 1) {
        return html! { div.short { (temperature_plot(source, course, sensors, &boards).figure()) } };
    }
    let names = source.report.sensor_names();
    let words: Vec<_> = boards
        .iter()
        .filter_map(|(id, points)| {
            Some(format!("{}: {:.0} °C (a single reading)", names.name(id), points.first()?.1))
        })
        .collect();
    html! { @if !words.is_empty() { p.soft { (words.join("; ")) "." } } }
}

/// Temperatures, each in the colour that the same board's power has.
fn temperature_plot(
    source: &Source<'_>,
    course: &Course,
    sensors: &[Series],
    boards: &BTreeMap<&str, Vec<(f64, f64)>>,
) -> Plot {
    let degrees = || boards.values().flatten().map(|(_, degrees)| *degrees);
    let (low, high) =
        degrees().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), t| (low.min(t), high.max(t)));
    let y = Axis::around("temperature, °C", Unit::Plain, low - 2.0, high + 2.0);
    let mut plot = Plot::new(time_axis(source), y, "temperature of boards over time");
    course.draw(&mut plot);
    let names = source.report.sensor_names();
    for (id, points) in boards {
        let class = sensors.iter().find(|known| known.id == *id).map_or(SERIES[0], |known| known.class);
        plot.line(class, decimate(points.iter().copied(), POINTS).iter().map(|p| (p.x, p.mean)));
        let highest = points.iter().map(|(_, degrees)| *degrees).fold(f64::NEG_INFINITY, f64::max);
        plot.legend(class, format!("{} · highest {highest:.0} °C", names.name(id)));
    }
    plot
}

fn time_axis(source: &Source<'_>) -> Axis {
    Axis::exactly("running time", Unit::Time, source.timeline.total().get())
}

/// `NVIDIA H200 · mean 151 W · highest 200 W`
fn legend_of(report: &Report, id: &str) -> String {
    let mut parts = vec![report.sensor_names().name(id)];
    let Some(sensor) = report.sensors.iter().find(|sensor| sensor.id == id) else { return parts.remove(0) };
    parts.extend(sensor.mean_w.map(|mean| format!("mean {}", watts(mean))));
    parts.extend(sensor.max_w.map(|max| format!("highest {}", watts(max))));
    parts.join(" · ")
}

/// Every sensor's power over running time, its segments put end to end.
fn by_sensor(source: &Source<'_>) -> Vec<Series> {
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
    let mut sensors: Vec<_> = sensors.into_iter().collect();
    // Highest power first: it gets the first colour and the first place in the legend.
    let mean = |points: &[Decimated]| points.iter().map(|p| p.mean).sum::<f64>() / points.len().max(1) as f64;
    sensors.sort_by(|a, b| mean(&b.1).total_cmp(&mean(&a.1)));
    let colours = SERIES.iter().cycle();
    sensors
        .into_iter()
        .zip(colours)
        .map(|((id, points), class)| Series { id: id.to_owned(), class, points })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn series(id: &str, high: f64) -> Series {
        let points = vec![Decimated { x: 0.0, low: 0.0, mean: high / 2.0, high }];
        Series { id: id.to_owned(), class: "s1", points }
    }

    #[test]
    fn a_sensor_that_would_be_flat_has_a_panel_of_its_own() {
        let sensors = [series("gpu", 700.0), series("gpu2", 80.0), series("cpu", 9.0), series("dram", 0.2)];
        let ids = |panel: &Vec<&Series>| panel.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
        let panels: Vec<_> = panels(&sensors).iter().map(ids).collect();
        assert_eq!(panels, [vec!["gpu", "gpu2"], vec!["cpu"], vec!["dram"]]);
        assert_eq!(super::panels(&[series("off", 0.0)]).len(), 1);
    }
}
