//! The tables of a page: phases, sensors, epochs, where the run came from, and how it was configured.

use maud::{Markup, html};
use wattle_runlog::record::SensorRecord;

use crate::join::epochs::{EpochRow, RowKind};
use crate::join::report::Report;
use crate::page::curves::SERIES;
use crate::text::energy_words::energy_words;
use crate::text::phase_words::{phase_energy, phase_method, phase_name, phases_method};
use crate::text::rank_words::segment_words;
use crate::text::waiting_words;
use crate::text::{about_sensors, method};
use crate::words::bounds::{energy_in, energy_of};
use crate::words::flags;
use crate::words::quantity::{
    count, duration, grams, joules, loss, money, percent, si, wall_time, watts, whole_percent,
};

/// Rows of the table of epochs; of more, the first and the last.
const MAX_EPOCHS: usize = 60;

/// Where the joules went.
pub fn phases(report: &Report) -> Markup {
    if report.phases.is_empty() {
        return html! {};
    }
    html! {
        h2 { "Where the joules went" }
        p.lead {
            "By what the run was doing: " (phases_method(report)) "."
            @if !report.is_metered() { " This excludes " (report.unmetered_devices.join(", ")) "." }
        }
        div.wide {
            table.phases {
                @for row in &report.phases {
                    tr {
                        td { (phase_name(row.phase)) }
                        td.barcell { div.bar.s2 { i style=(width(row.share)) {} } }
                        td { (percent(row.share)) }
                        td { (phase_energy(report, row)) }
                        @if report.phases.iter().any(|row| phase_method(report, row).is_some()) {
                            td.soft.words { (phase_method(report, row).unwrap_or_default()) }
                        }
                    }
                }
            }
        }
        @if let Some(waiting) = &report.waiting {
            p.soft { "Waiting for cleaner electricity took " (waiting_words::cost(waiting)) ". It saved " (waiting_words::saved(waiting)) "." }
        }
        @if let Some(overhead) = &report.overhead {
            p.soft {
                "Metering itself took " (duration(overhead.sampler_cpu_s)) " of processor time, "
                (percent(overhead.share_of_a_cpu)) " of one CPU, for " (count(overhead.samples)) " rounds of readings"
                @if overhead.missed_deadlines > 0 { ", " (count(overhead.missed_deadlines)) " of them late" }
                "."
            }
        }
    }
}

fn width(share: f64) -> String {
    format!("width:{:.2}%", share * 100.0)
}

/// Measured against estimated, sensor by sensor, and what their flags mean.
pub fn sensors(report: &Report) -> Markup {
    let Some(totals) = &report.totals else { return html! {} };
    if report.sensors.is_empty() {
        return html! {};
    }
    let total = totals.energy_j.get().max(f64::MIN_POSITIVE);
    let names = report.sensor_names();
    html! {
        h2 { "Measured and estimated" }
        p.lead { (energy_words(report, totals)) ". Hatched: estimated by a model." }
        div.bar.split role="img" aria-label=(format!("{} measured", percent(totals.measured_fraction))) {
            @for (sensor, class) in report.sensors.iter().zip(SERIES.iter().cycle()) {
                i class=(bar_class(sensor, class)) style=(width(sensor.energy_j.get() / total)) {}
            }
        }
        div.wide { (sensor_table(report)) }
        @for words in about_sensors(report) { p.soft { (words) "." } }
        ul.flags {
            @for note in &report.flags {
                li class=(if note.is_warning { "warn" } else { "good" }) {
                    b { (flags::name(note.flag).replace('_', " ")) }
                    span { (note.meaning) " " span.soft { (names.list(&note.sensors)) } }
                }
            }
        }
    }
}

/// Highest power, and the counter against the integral, are columns where a sensor has them.
fn sensor_table(report: &Report) -> Markup {
    let has_highest = report.sensors.iter().any(|sensor| sensor.max_w.is_some());
    let has_both = report.sensors.iter().any(|sensor| !disagreement(sensor).is_empty());
    let names = report.sensor_names();
    html! {
        table {
            tr {
                th { "sensor" } th.words { "by" } th { "energy" } th { "systematic" } th { "mean" }
                @if has_highest { th { "highest" } }
                @if has_both { th { "counter − integral" } }
                th { "readings" } th { "longest gap" }
            }
            @for (sensor, class) in report.sensors.iter().zip(SERIES.iter().cycle()) {
                tr {
                    td { span class=(class) { "■ " } (names.name(&sensor.id)) }
                    td.words { (method(sensor.method)) }
                    td { (energy_of(sensor.energy_j, sensor.uncertainty_j)) }
                    td { "± " (whole_percent(sensor.systematic_fraction)) }
                    td { (sensor.mean_w.map(watts).unwrap_or_default()) }
                    @if has_highest { td { (sensor.max_w.map(watts).unwrap_or_default()) } }
                    @if has_both { td { (disagreement(sensor)) } }
                    td { (count(sensor.samples)) }
                    td { (si(sensor.max_gap_ms / 1e3, "s")) }
                }
            }
        }
    }
}

fn bar_class(sensor: &SensorRecord, class: &str) -> String {
    if sensor.method.is_measured() { class.to_owned() } else { format!("{class} hatched") }
}

/// By how much the counter says more than the integral of power.
fn disagreement(sensor: &SensorRecord) -> String {
    match (sensor.counter_j, sensor.integral_j) {
        (Some(counter), Some(integral)) if integral.get() > 0.0 => {
            format!("{:+.1} %", (counter / integral - 1.0) * 100.0)
        }
        _ => String::new(),
    }
}

/// The table of epochs.
pub fn epochs(report: &Report) -> Markup {
    if report.epochs.is_empty() {
        return html! {};
    }
    let n = report.epochs.len();
    let is_shown = |i: usize| n <= MAX_EPOCHS || i < MAX_EPOCHS / 2 || i >= n - MAX_EPOCHS / 2;
    html! {
        h2 { "Epoch by epoch" }
        div.wide {
            table {
                tr {
                    th { "epoch" } th { "steps" } th { "loss" } th { "validation" } th { "tokens" } th { "time" }
                    th { "energy" } th { "measured" } th { "CO₂e" }
                    @if has_cost(report) { th { "cost" } }
                }
                @for (i, row) in report.epochs.iter().enumerate() {
                    @if is_shown(i) { (epoch_row(report, row)) }
                    @else if i == MAX_EPOCHS / 2 {
                        tr.lost { td colspan="10" { "… " (n - MAX_EPOCHS) " more …" } }
                    }
                }
                (total_row(report))
            }
        }
    }
}

fn has_cost(report: &Report) -> bool {
    report.totals.as_ref().is_some_and(|totals| totals.cost.is_some())
}

fn epoch_row(report: &Report, row: &EpochRow) -> Markup {
    let currency = report.totals.as_ref().and_then(|totals| totals.cost.as_ref()).map(|cost| &cost.currency);
    html! {
        tr.lost[row.kind == RowKind::Interrupted] {
            td { (row.name()) }
            td { @if row.steps > 0 { (count(row.steps)) } }
            td { (row.loss.map(loss).unwrap_or_default()) }
            td { (row.val_loss.map(loss).unwrap_or_default()) }
            td { @if row.tokens > 0 { (count(row.tokens)) } }
            td { (duration(row.duration_s)) }
            td { (energy_in(report.is_metered(), row.energy_j, row.energy_uncertainty_j)) }
            td { (row.measured_fraction.map(whole_percent).unwrap_or_default()) }
            td { (report.at_least(si(row.emissions_g.get(), "g"))) }
            @if has_cost(report) {
                td {
                    @if let Some((cost, currency)) = row.cost.zip(currency) {
                        (report.at_least(money(cost, currency)))
                    }
                }
            }
        }
    }
}

fn total_row(report: &Report) -> Markup {
    let Some(totals) = &report.totals else { return html! {} };
    html! {
        tr.total {
            td { "all" }
            td { (count(report.steps)) }
            td {} td {}
            td { (count(totals.tokens)) }
            td { (duration(totals.duration_s)) }
            td { (energy_in(report.is_metered(), totals.energy_j, totals.energy_uncertainty_j)) }
            td { (whole_percent(totals.measured_fraction)) }
            td { (report.at_least(si(totals.emissions_g.get(), "g"))) }
            @if let Some(cost) = &totals.cost { td { (report.at_least(money(cost.value, &cost.currency))) } }
        }
    }
}

/// Emissions by another table.
pub fn repriced(report: &Report) -> Markup {
    let Some(repriced) = &report.repriced else { return html! {} };
    html! {
        h2 { "Priced again" }
        p.lead {
            "By " code { (repriced.table) } ": " (grams(repriced.emissions_g)) " instead of "
            (grams(repriced.recorded_g)) ". The joules are the same, each priced at the moment of its use."
        }
        div.wide {
            table {
                tr { th { "epoch" } th { "energy" } th { "recorded" } th { "by the table" } th { "g/kWh" } }
                @for part in &repriced.parts {
                    tr {
                        td { (part.epoch.map_or("after".to_owned(), |epoch| epoch.to_string())) }
                        td { (joules(part.energy_j)) }
                        td { (grams(part.recorded_g)) }
                        td { (grams(part.emissions_g)) }
                        td { (si(part.intensity_g_per_kwh.get(), "")) }
                    }
                }
            }
        }
    }
}

/// Where the run came from.
pub fn provenance(report: &Report) -> Markup {
    let from = &report.provenance;
    let mut facts = vec![
        ("run", report.run_id.clone()),
        ("command", from.command.join(" ")),
        ("seed", from.seed.to_string()),
        ("wattle", from.versions.wattle.clone()),
    ];
    facts.extend(from.versions.candle.clone().map(|candle| ("candle", candle)));
    let cuda = from.drivers.cuda.as_ref().map_or(String::new(), |cuda| format!(", CUDA {cuda}"));
    facts.extend(from.drivers.nvidia.as_ref().map(|driver| ("NVIDIA driver", format!("{driver}{cuda}"))));
    facts.push(("host", host(report)));
    for sensor in &from.sensors {
        let limit = sensor.limits.map_or(String::new(), |l| format!(", limited to {}", watts(l.enforced_w)));
        facts.push(("sensor", format!("{}: {}{limit}", sensor.id, sensor.description)));
    }
    if let Some(data) = &from.data {
        facts.push(("data (SHA-256)", data.sha256.clone()));
        facts.push(("tokenizer (SHA-256)", data.tokenizer_sha256.clone()));
        let tokens = format!("{} to train on, {} held out", count(data.train_tokens), count(data.val_tokens));
        facts.push(("tokens", tokens));
    }
    for segment in &from.segments {
        let start = wall_time(&segment.wall_anchor);
        let ranks =
            segment.ranks.as_ref().map_or(String::new(), |ranks| format!(" · {}", segment_words(ranks)));
        let text =
            format!("{} · {start} · {} · from step {}{ranks}", segment.id, segment.host, segment.step_start);
        facts.push(("segment", text));
    }
    html! {
        h2 { "Where it came from" }
        dl.facts {
            @for (name, fact) in facts {
                dt { (name) }
                dd { code { (fact) } }
            }
        }
    }
}

fn host(report: &Report) -> String {
    let host = &report.provenance.host;
    let cpu = host.cpu_model.as_deref().unwrap_or("unknown processor");
    let memory = host
        .memory_bytes
        .map_or(String::new(), |bytes| format!(", {:.0} GiB", bytes as f64 / 1024f64.powi(3)));
    format!("{}: {}, {cpu}, {} CPUs{memory}", host.hostname, host.os, host.cpus)
}

/// The resolved configuration.
pub fn configuration(report: &Report) -> Markup {
    html! {
        h2 { "Configuration" }
        div.keys {
            @for (section, keys) in &report.config {
                @if let Some(keys) = keys.as_table().filter(|keys| !keys.is_empty()) {
                    section {
                        h3 { (section) }
                        @for (key, value) in keys {
                            div { span { (key) } span { code { (value) } } }
                        }
                    }
                }
            }
        }
    }
}
