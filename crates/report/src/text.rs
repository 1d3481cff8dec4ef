//! A run on a terminal.

use wattle_runlog::Joules;
use wattle_runlog::record::{Method, PhasesMethod, SensorRecord};

use crate::epochs::{EpochRow, RowKind};
use crate::flags;
use crate::quantity::{
    count, duration, grams, joules, loss, money, percent, plus_minus, si, wall_time, watts, whole_percent,
};
use crate::report::{Provenance, Report, Totals};
use crate::sensor_name::{self, short};
use crate::table::{Table, wrap};

/// Columns of a terminal that is not wide.
const WIDTH: usize = 100;

/// Epochs shown one by one; of more, the first and the last.
const MAX_EPOCHS: usize = 24;

/// A report as text, at most a hundred columns wide but for names and paths.
pub fn text(report: &Report) -> String {
    let sections = [
        heading(report),
        learning(report),
        cost(report),
        epochs(report),
        phases(report),
        sensors(report),
        repriced(report),
        notes(report),
    ];
    let sections = sections.into_iter().filter(|lines| !lines.is_empty());
    sections.map(|lines| lines.join("\n") + "\n").collect::<Vec<_>>().join("\n")
}

fn heading(report: &Report) -> Vec<String> {
    let mut facts = vec![what(report)];
    facts.extend(
        report.provenance.data.as_ref().map(|d| format!("{} training tokens", count(d.train_tokens))),
    );
    facts.push(device(report));
    facts.push(format!("seed {}", report.provenance.seed));
    let mut course: Vec<String> = report.started_at.as_deref().map(wall_time).into_iter().collect();
    course.extend(report.totals.as_ref().map(|totals| duration(totals.duration_s)));
    course.push(format!("{} steps", count(report.steps)));
    let n_segments = report.provenance.segments.len();
    if n_segments > 1 {
        course.push(format!("{n_segments} segments"));
    }
    let mut lines = vec![format!("{} · {}", report.run_id, report.status.words())];
    lines.extend(wrap(&facts.join(" · "), WIDTH));
    lines.push(course.join(" · "));
    lines
}

/// Family and size of the model.
pub(crate) fn what(report: &Report) -> String {
    report.provenance.model.as_ref().map_or_else(
        || "the model is not built yet".to_owned(),
        |model| format!("{}, {} parameters", model.family, count(model.parameters)),
    )
}

/// What it computes on, and where.
pub(crate) fn device(report: &Report) -> String {
    let Provenance { host, devices, .. } = &report.provenance;
    let names: Vec<_> = devices.iter().map(ToString::to_string).collect();
    format!("{} on {} ({})", names.join(", "), host.hostname, sensor_name::compute(&report.provenance))
}

fn learning(report: &Report) -> Vec<String> {
    let learnt = &report.learning;
    let mut lines = vec!["learnt".to_owned()];
    if let Some(best) = &learnt.best {
        let which = if learnt.last.as_ref() == Some(best) { "the last" } else { "the best" };
        lines.push(format!(
            "  validation loss   {} at step {}, {which} of {}",
            loss(best.loss),
            count(best.at.step),
            learnt.evaluations.len(),
        ));
        lines.push(format!(
            "  perplexity        {}{} · {} of next tokens right",
            si(best.perplexity, ""),
            bits_per_byte(best.bits_per_byte),
            percent(best.accuracy),
        ));
    }
    if let Some((floor, best)) = report.floor().zip(learnt.best.as_ref()) {
        lines.push(format!(
            "  entropy floor     {}: what a model that knew the grammar would reach; {} above it",
            loss(floor.nats_per_token),
            loss(best.loss - floor.nats_per_token)
        ));
    }
    if let Some(last) = learnt.last.as_ref().filter(|last| learnt.best.as_ref() != Some(last)) {
        lines.push(format!("  at the end        {} at step {}", loss(last.loss), count(last.at.step)));
    }
    lines.extend(
        learnt.train_loss.map(|train| format!("  training loss     {} over the last steps", loss(train))),
    );
    if lines.len() > 1 { lines } else { Vec::new() }
}

fn cost(report: &Report) -> Vec<String> {
    let Some(totals) = &report.totals else {
        return vec!["cost".to_owned(), "  nothing is recorded yet".to_owned()];
    };
    let mut lines = vec!["cost".to_owned()];
    let mut line = |name: &str, text: String| lines.push(format!("  {name:<12}{text}"));
    line("energy", energy_words(totals));
    let carbon = &totals.carbon;
    let year = carbon.year.map_or(String::new(), |year| format!(" {year}"));
    let pue = if totals.pue > 1.0 { format!(", PUE {}", totals.pue) } else { String::new() };
    line(
        "emissions",
        format!(
            "{} · {} g/kWh ({}{year}, {}{pue})",
            grams(totals.emissions_g),
            si(carbon.intensity_g_per_kwh.get(), ""),
            carbon.region,
            carbon.basis
        ),
    );
    if let Some(cost) = &totals.cost {
        let tariff = format!("{} {} a kWh", cost.tariff_per_kwh, cost.currency);
        line("cost", format!("{} · {tariff}", money(cost.value, &cost.currency)));
    }
    let per_token = totals.joules_per_token.map(|j| format!(" · {}", si(j * 1e3, "J/ktoken")));
    line("tokens", format!("{}{}", count(totals.tokens), per_token.unwrap_or_default()));
    if totals.wasted_j > Joules::ZERO {
        let share = percent(totals.wasted_j / totals.energy_j);
        line("wasted", format!("{} ({share}) on steps that had to be done again", joules(totals.wasted_j)));
    }
    if totals.unrecorded_j > Joules::ZERO {
        line("since then", format!("{} by the trace, in no record yet", joules(totals.unrecorded_j)));
    }
    if let Some(overhead) = &report.overhead {
        let time = duration(overhead.sampler_cpu_s);
        let share = percent(overhead.share_of_a_cpu);
        let late = if overhead.missed_deadlines > 0 {
            format!(", {} of {} rounds late", count(overhead.missed_deadlines), count(overhead.samples))
        } else {
            String::new()
        };
        line("metering", format!("took {time} of processor time, {share} of one CPU{late}"));
    }
    lines
}

/// `225 J · estimated (model's error up to ± 50 %)`
pub(crate) fn energy_words(totals: &Totals) -> String {
    let energy = energy_of(totals.energy_j, totals.energy_uncertainty_j, totals.measured_fraction);
    let systematic = whole_percent(totals.systematic_fraction);
    match totals.measured_fraction {
        share if share >= 0.995 => format!("{energy} · measured (sensor gain up to ± {systematic} besides)"),
        share if share < 0.005 => format!("{energy} · estimated (the model may be off by {systematic})"),
        share => format!("{energy} · {} measured (systematic error up to ± {systematic})", percent(share)),
    }
}

/// An energy with its half-width; without it where nothing was measured, for a model's error is not random.
pub(crate) fn energy_of(energy: Joules, half_width: Option<Joules>, measured_fraction: f64) -> String {
    let half_width = half_width.filter(|_| measured_fraction >= 0.005).unwrap_or_default();
    plus_minus(energy.get(), half_width.get(), "J")
}

fn epochs(report: &Report) -> Vec<String> {
    if report.epochs.is_empty() {
        return Vec::new();
    }
    let headings =
        ["epoch", "steps", "loss", "val loss", "tokens", "time", "energy", "measured", "emissions", "cost"];
    let mut table = Table::new(headings, &[0]);
    let n = report.epochs.len();
    for (i, row) in report.epochs.iter().enumerate() {
        let is_shown = n <= MAX_EPOCHS || i < MAX_EPOCHS / 2 || i >= n - MAX_EPOCHS / 2;
        if is_shown {
            table.row(epoch_cells(row, report));
        } else if i == MAX_EPOCHS / 2 {
            table.row([format!("… {} more", n - MAX_EPOCHS)]);
        }
    }
    [vec!["epochs".to_owned()], table.lines()].concat()
}

/// A row's name: `3`, `3 (cut short)`, `interrupted`, `after`.
pub(crate) fn row_name(row: &EpochRow) -> String {
    let epoch = row.epoch.map_or(String::new(), |epoch| epoch.to_string());
    match row.kind {
        RowKind::Epoch if row.complete => epoch,
        RowKind::Epoch => format!("{epoch} (part)"),
        RowKind::Interrupted => format!("{epoch} (lost)"),
        RowKind::Rest => "after".to_owned(),
    }
}

fn epoch_cells(row: &EpochRow, report: &Report) -> Vec<String> {
    let currency = report.totals.as_ref().and_then(|totals| totals.cost.as_ref()).map(|cost| &cost.currency);
    let number = |n: u64| if n == 0 { String::new() } else { si(n as f64, "") };
    vec![
        row_name(row),
        if row.steps == 0 { String::new() } else { count(row.steps) },
        row.loss.map(loss).unwrap_or_default(),
        row.val_loss.map(loss).unwrap_or_default(),
        number(row.tokens),
        duration(row.duration_s),
        energy_of(row.energy_j, row.energy_uncertainty_j, row.measured_fraction.unwrap_or(1.0)),
        row.measured_fraction.map(whole_percent).unwrap_or_default(),
        si(row.emissions_g.get(), "g"),
        row.cost.zip(currency).map(|(value, currency)| money(value, currency)).unwrap_or_default(),
    ]
}

fn phases(report: &Report) -> Vec<String> {
    if report.phases.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("where the joules went{}", phases_method(report.phases_method))];
    let mut table = Table::new(["", "energy", "share", ""], &[0, 3]);
    for row in &report.phases {
        let bar = "█".repeat((row.share * 40.0).round() as usize);
        table.row([phase_name(row.phase), joules(row.energy_j), percent(row.share), bar]);
    }
    lines.extend(table.lines().into_iter().skip(1));
    lines
}

/// A phase in words.
pub(crate) fn phase_name(phase: wattle_runlog::Phase) -> String {
    use wattle_runlog::Phase;
    let name = match phase {
        Phase::Setup => "setup",
        Phase::Data => "data",
        Phase::ForwardBackward => "forward and backward",
        Phase::Optimizer => "optimizer",
        Phase::Evaluate => "evaluation",
        Phase::Checkpoint => "checkpoint",
        Phase::Other => "other",
    };
    name.to_owned()
}

/// How phases were divided, as the end of a heading.
pub(crate) fn phases_method(method: Option<PhasesMethod>) -> &'static str {
    match method {
        Some(PhasesMethod::Measured) => " (by each phase's own readings)",
        Some(PhasesMethod::Regression) => " (by a fit over many steps)",
        Some(PhasesMethod::TimeShare) => " (in proportion to time)",
        None => "",
    }
}

fn sensors(report: &Report) -> Vec<String> {
    if report.sensors.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new(
        ["sensor", "energy", "by", "gain error", "mean", "highest", "readings", "longest gap"],
        &[0, 2],
    );
    for sensor in &report.sensors {
        table.row(sensor_cells(sensor));
    }
    let mut lines = [vec!["sensors".to_owned()], table.lines()].concat();
    for note in &report.flags {
        let mark = if note.is_warning { "!" } else { " " };
        let sensors: Vec<_> = note.sensors.iter().map(|id| short(id)).collect();
        let name = flags::name(note.flag).replace('_', " ");
        let text = format!("{name} ({}): {}", sensors.join(", "), note.meaning);
        let wrapped = wrap(&text, WIDTH - 4);
        let indented = wrapped.iter().enumerate().map(|(i, line)| match i {
            0 => format!("  {mark} {line}"),
            _ => format!("    {line}"),
        });
        lines.extend(indented);
    }
    lines
}

fn sensor_cells(sensor: &SensorRecord) -> [String; 8] {
    [
        short(&sensor.id),
        energy_of_sensor(sensor),
        method(sensor.method).to_owned(),
        format!("± {}", whole_percent(sensor.systematic_fraction)),
        sensor.mean_w.map(watts).unwrap_or_default(),
        sensor.max_w.map(watts).unwrap_or_default(),
        count(sensor.samples),
        si(sensor.max_gap_ms / 1e3, "s"),
    ]
}

/// A sensor's energy with its half-width.
pub(crate) fn energy_of_sensor(sensor: &SensorRecord) -> String {
    let measured_fraction = if sensor.method.is_measured() { 1.0 } else { 0.0 };
    energy_of(sensor.energy_j, sensor.uncertainty_j, measured_fraction)
}

/// A method in words.
pub(crate) fn method(method: Method) -> &'static str {
    match method {
        Method::Counter => "energy counter",
        Method::PowerIntegral => "integral of power",
        Method::Estimated => "estimate",
    }
}

fn repriced(report: &Report) -> Vec<String> {
    let Some(repriced) = &report.repriced else { return Vec::new() };
    let change = repriced.emissions_g / repriced.recorded_g - 1.0;
    let mut table = Table::new(["epoch", "energy", "recorded", "by the table", "g/kWh", ""], &[0, 5]);
    for part in &repriced.parts {
        let spread = if part.from_trace { "" } else { "spread evenly: no trace" };
        table.row([
            part.epoch.map_or("after".to_owned(), |epoch| epoch.to_string()),
            joules(part.energy_j),
            grams(part.recorded_g),
            grams(part.emissions_g),
            si(part.intensity_g_per_kwh.get(), ""),
            spread.to_owned(),
        ]);
    }
    let heading = format!(
        "priced again by {}: {} instead of {} ({:+.1} %)",
        repriced.table,
        grams(repriced.emissions_g),
        grams(repriced.recorded_g),
        change * 100.0
    );
    [vec![heading], table.lines()].concat()
}

fn notes(report: &Report) -> Vec<String> {
    report.notes.iter().map(|note| format!("note: {note}")).collect()
}

/// Bits a byte, where they are known: not of a text that its tokens do not stand for.
fn bits_per_byte(bits: f64) -> String {
    if bits.is_finite() { format!(" · {bits:.3} bits/byte") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;

    fn lines(synthetic: &SyntheticRun) -> String {
        let dir = tempfile::tempdir().unwrap();
        let run = synthetic.write(dir.path());
        text(&Report::of(&run, None).unwrap())
    }

    #[test]
    fn a_finished_run() {
        insta::assert_snapshot!(lines(&SyntheticRun::small()));
    }

    #[test]
    fn a_resumed_run() {
        insta::assert_snapshot!(lines(&SyntheticRun::resumed()));
    }

    #[test]
    fn an_estimated_run() {
        let estimated = SyntheticRun {
            method: "estimated",
            systematic: ("estimate:gpu", 0.5),
            stop: None,
            ..SyntheticRun::small()
        };
        insta::assert_snapshot!(lines(&estimated));
    }

    #[test]
    fn no_line_is_wider_than_a_hundred_columns() {
        for synthetic in [SyntheticRun::small(), SyntheticRun::resumed()] {
            for line in lines(&synthetic).lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }
}
