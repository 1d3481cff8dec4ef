//! A run on a terminal.

pub(crate) mod beside_words;
pub(crate) mod energy_words;
pub(crate) mod phase_words;
pub(crate) mod rank_words;
pub(crate) mod waiting_words;

use wattle_runlog::record::{Method, SensorRecord};
use wattle_runlog::{Joules, Seconds};

use crate::join::epochs::EpochRow;
use crate::join::provenance::Provenance;
use crate::join::report::Report;
use crate::text::beside_words::{embodied_words, idle_words, masked_words, padding_words, projection_words};
use crate::text::energy_words::energy_words;
use crate::text::phase_words::{phase_energy, phase_method, phase_name, phases_method};
use crate::text::rank_words::{node_words, rank_words};
use crate::words::bounds::{energy_in, energy_of};
use crate::words::clock::clock_words;
use crate::words::describe::calibration_words;
use crate::words::flags;
use crate::words::quantity::{
    count, duration, factor, grams, joules, joules_per_ktoken, loss, money, percent, si, tariff, uncertain,
    wall_time, watts, whole_percent,
};
use crate::words::table::{Table, WIDTH, hang, wrap};

/// Characters that bars are drawn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bars {
    /// Block characters.
    Blocks,
    /// `#`, for dumb terminals.
    Ascii,
}

/// The longest bar.
const BAR: f64 = 16.0;

/// Epochs shown one by one; of more, the first and the last.
const MAX_EPOCHS: usize = 24;

/// A report as text, at most eighty columns wide.
pub fn text(report: &Report, bars: Bars) -> String {
    let sections = [
        heading(report),
        warnings(report),
        learning(report),
        cost(report),
        epochs(report),
        phases(report, bars),
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
    let status = format!("{} · {}", report.run_id, report.status.words());
    [status, facts.join(" · "), course.join(" · ")].iter().flat_map(|line| wrap(line, WIDTH)).collect()
}

/// Warnings to read before any figure.
fn warnings(report: &Report) -> Vec<String> {
    let warnings = report.unmetered_words().into_iter().chain(report.doubts.iter().cloned());
    warnings.flat_map(|warning| hang("! ", &warning)).collect()
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
    let names = match devices.as_slice() {
        few if few.len() <= 2 => few.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        many => format!("{} GPUs", many.len()),
    };
    let ranks = rank_words(report).map_or(String::new(), |ranks| format!(", {ranks}"));
    format!("{names} on {} ({}){ranks}", host.hostname, report.provenance.computed_on())
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
            "  perplexity        {}{} · {} right",
            si(best.perplexity, ""),
            bits_per_byte(best.bits_per_byte),
            percent(best.accuracy),
        ));
    }
    for source in learnt.best.iter().flat_map(|best| &best.sources) {
        let bits = bits_per_byte(source.bits_per_byte.unwrap_or(f64::NAN));
        lines.push(format!(
            "    {:<15} {}{bits} · {} right",
            source.name,
            loss(source.loss),
            percent(source.accuracy)
        ));
    }
    if let Some((floor, best)) = report.floor().zip(learnt.best.as_ref()) {
        lines.push(format!(
            "  entropy floor     {} of the text's grammar; the best loss is {} above it",
            loss(floor.nats_per_token),
            loss(best.loss - floor.nats_per_token)
        ));
    }
    if let Some(last) = learnt.last.as_ref().filter(|last| learnt.best.as_ref() != Some(last)) {
        lines.push(format!("  at the end        {} at step {}", loss(last.loss), count(last.at.step)));
    }
    lines.extend(latest_scores(report));
    lines.extend(
        learnt.train_loss.map(|train| format!("  training loss     {} over the last steps", loss(train))),
    );
    if lines.len() > 1 { lines } else { Vec::new() }
}

/// The last score that stands for each task.
fn latest_scores(report: &Report) -> Vec<String> {
    let evaluations = &report.learning.tasks;
    let mut names: Vec<&str> = Vec::new();
    for task in evaluations.iter().flat_map(|evaluation| &evaluation.tasks) {
        if !names.contains(&task.task.as_str()) {
            names.push(&task.task);
        }
    }
    let line = |name: &&str| {
        let (at, task) = evaluations.iter().rev().find_map(|evaluation| {
            Some((&evaluation.at, evaluation.tasks.iter().find(|task| task.task == *name)?))
        })?;
        let score = task.score(None)?;
        let error = score.stderr.map_or(String::new(), |error| format!(" ± {}", percent(error)));
        let (value, step) = (percent(score.value), count(at.step));
        Some(hang(
            &format!("  {name:<17} "),
            &format!("{} {value}{error} of {} items, at step {step}", score.metric, count(task.items)),
        ))
    };
    names.iter().filter_map(line).flatten().collect()
}

fn cost(report: &Report) -> Vec<String> {
    let Some(totals) = &report.totals else {
        return vec!["cost".to_owned(), "  nothing is recorded yet".to_owned()];
    };
    let mut lines = vec!["cost".to_owned()];
    let mut line = |name: &str, text: String| lines.extend(hang(&format!("  {name:<12}"), &text));
    line("energy", energy_words(report, totals));
    let carbon = &totals.carbon;
    let year = carbon.year.map_or(String::new(), |year| format!(" {year}"));
    let pue = if totals.pue > 1.0 { format!(", PUE {}", factor(totals.pue)) } else { String::new() };
    line(
        "emissions",
        format!(
            "{} · {} g/kWh ({}{year}, {}{pue})",
            report.at_least(grams(totals.emissions_g)),
            si(carbon.intensity_g_per_kwh.get(), ""),
            carbon.region,
            carbon.basis
        ),
    );
    if let Some(cost) = &totals.cost {
        line("cost", format!("{} · {}", report.at_least(money(cost.value, &cost.currency)), tariff(cost)));
    }
    if let Some(embodied) = &totals.embodied {
        line("embodied", embodied_words(embodied, totals.sci.as_ref()));
    }
    if let Some(idle) = &totals.machine_idle {
        line("idle", idle_words(idle));
    }
    let per_token = totals
        .joules_per_token
        .map(|j| format!(" · {}", report.at_least(format!("{} J/ktoken", joules_per_ktoken(j)))));
    line("tokens", format!("{}{}", count(totals.tokens), per_token.unwrap_or_default()));
    if let Some(masked) = &totals.masked {
        line("masked", masked_words(masked));
    }
    if let Some(padding) = &totals.padding {
        line("padding", padding_words(padding));
    }
    if let Some(waiting) = &report.waiting {
        line("waiting", waiting_words::cost(waiting));
        line("saved", waiting_words::saved(waiting));
    }
    if totals.wasted_j > Joules::ZERO {
        let share = percent(totals.wasted_j / totals.energy_j);
        line("wasted", format!("{} ({share}) on steps that had to be done again", joules(totals.wasted_j)));
    }
    if totals.unrecorded_j > Joules::ZERO {
        line(
            "unrecorded",
            format!("{} since the last record, by the power trace", joules(totals.unrecorded_j)),
        );
    }
    if let Some(projection) = &totals.projection {
        line("projected", projection_words(projection));
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

fn epochs(report: &Report) -> Vec<String> {
    if report.epochs.is_empty() {
        return Vec::new();
    }
    let headings = ["epoch", "steps", "loss", "val", "tokens", "time", "energy", "measured", "CO2e", "cost"];
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

fn epoch_cells(row: &EpochRow, report: &Report) -> Vec<String> {
    let currency = report.totals.as_ref().and_then(|totals| totals.cost.as_ref()).map(|cost| &cost.currency);
    let number = |n: u64| if n == 0 { String::new() } else { si(n as f64, "") };
    vec![
        row.name(),
        if row.steps == 0 { String::new() } else { count(row.steps) },
        row.loss.map(loss).unwrap_or_default(),
        row.val_loss.map(loss).unwrap_or_default(),
        number(row.tokens),
        duration(row.duration_s),
        energy_in(report.is_metered(), row.energy_j, row.energy_uncertainty_j),
        row.measured_fraction.filter(|_| has_measured(report)).map(whole_percent).unwrap_or_default(),
        report.at_least(si(row.emissions_g.get(), "g")),
        row.cost
            .zip(currency)
            .map(|(value, currency)| report.at_least(money(value, currency)))
            .unwrap_or_default(),
    ]
}

/// Whether the measured share differs enough between rows to be worth a column.
fn has_measured(report: &Report) -> bool {
    let shares = report.epochs.iter().filter_map(|row| row.measured_fraction);
    let (low, high) = shares.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
    high - low > 0.05
}

fn phases(report: &Report, bars: Bars) -> Vec<String> {
    if report.phases.is_empty() {
        return Vec::new();
    }
    let heading = format!("where the joules went ({})", phases_method(report));
    let mut table = Table::new(["", "energy", "share", "by", ""], &[0, 3, 4]);
    for row in &report.phases {
        let bar = if bars == Bars::Blocks { "█" } else { "#" };
        table.row([
            phase_name(row.phase),
            phase_energy(report, row),
            percent(row.share),
            phase_method(report, row).unwrap_or_default().to_owned(),
            bar.repeat((row.share * BAR).round() as usize),
        ]);
    }
    [hang("", &heading), table.lines().into_iter().skip(1).collect()].concat()
}

fn sensors(report: &Report) -> Vec<String> {
    if report.sensors.is_empty() {
        return Vec::new();
    }
    let mut table =
        Table::new(["sensor", "energy", "by", "systematic", "mean", "max", "readings", "gap"], &[0, 2]);
    let names = report.sensor_names();
    for sensor in &report.sensors {
        table.row(sensor_cells(sensor, names.name(&sensor.id)));
    }
    let mut lines = [vec!["sensors".to_owned()], table.lines()].concat();
    if report.sensors.iter().any(|sensor| sensor.uncertainty_j.is_none()) {
        lines.push("    ± ?: the random error is unknown".to_owned());
    }
    lines.extend(about_sensors(report).iter().flat_map(|words| hang("    ", words)));
    for note in &report.flags {
        let mark = if note.is_warning { "!" } else { " " };
        let name = flags::name(note.flag).replace('_', " ");
        let text = format!("{name} ({}): {}", names.list(&note.sensors), note.meaning);
        lines.extend(hang(&format!("  {mark} "), &text));
    }
    lines
}

/// What each machine used, assumptions behind estimates, idle baselines, and what held clocks back.
pub(crate) fn about_sensors(report: &Report) -> Vec<String> {
    let names = report.sensor_names();
    let words = |sensor: &SensorRecord| {
        let name = names.name(&sensor.id);
        let assumption = sensor.assumption.as_ref().map(|assumption| format!("{name} assumes {assumption}"));
        let calibration = sensor.calibration.as_ref();
        let calibration = calibration.map(|applied| format!("{name} is {}", calibration_words(applied)));
        let baseline = sensor.baseline.map(|idle| {
            let power = uncertain(idle.power_w.get(), Some(idle.uncertainty_w.get()), "W");
            format!("{name} drew {power} idle, measured for {} before the load", duration(idle.seconds))
        });
        let own = report.provenance.sensors.iter().find(|info| info.id == sensor.id);
        let limit = own.and_then(|info| info.limits).map(|limits| limits.enforced_w);
        let time = report.totals.as_ref().map_or(Seconds::ZERO, |totals| totals.duration_s);
        let clocks = clock_words(sensor, &name, limit, time);
        assumption.into_iter().chain(calibration).chain(baseline).chain(clocks)
    };
    node_words(report).into_iter().chain(report.sensors.iter().flat_map(words)).collect()
}

fn sensor_cells(sensor: &SensorRecord, name: String) -> [String; 8] {
    [
        name,
        energy_of(sensor.energy_j, sensor.uncertainty_j),
        method(sensor.method).to_owned(),
        format!("± {}", whole_percent(sensor.systematic_fraction)),
        sensor.mean_w.map(watts).unwrap_or_default(),
        sensor.max_w.map(watts).unwrap_or_default(),
        count(sensor.samples),
        si(sensor.max_gap_ms / 1e3, "s"),
    ]
}

/// A method in words.
pub(crate) fn method(method: Method) -> &'static str {
    match method {
        Method::Counter => "counter",
        Method::DriverSamples => "samples",
        Method::PowerIntegral => "integral",
        Method::Estimated => "estimate",
    }
}

fn repriced(report: &Report) -> Vec<String> {
    let Some(repriced) = &report.repriced else { return Vec::new() };
    let change = repriced.emissions_g / repriced.recorded_g - 1.0;
    let mut table = Table::new(["epoch", "energy", "recorded", "by the table", "g/kWh", ""], &[0, 5]);
    for part in &repriced.parts {
        let spread = if part.from_trace { "" } else { "no trace: spread evenly" };
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
    [hang("", &heading), table.lines()].concat()
}

fn notes(report: &Report) -> Vec<String> {
    report.notes.iter().flat_map(|note| hang("note: ", note)).collect()
}

/// Bits a byte, where they are known: not of a text that its tokens do not stand for.
fn bits_per_byte(bits: f64) -> String {
    if bits.is_finite() { format!(" · {bits:.3} bits/byte") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;
    use wattle_runlog::beside::{EmbodiedRate, Fits, MachineIdle, Projected};
    use wattle_runlog::record::PhasesMethod;
    use wattle_runlog::record::Sci;
    use wattle_runlog::{GramsCo2e, Watts};

    fn lines(synthetic: &SyntheticRun) -> String {
        let dir = tempfile::tempdir().unwrap();
        let run = synthetic.write(dir.path());
        text(&Report::of(&run, None).unwrap(), Bars::Blocks)
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
    fn a_run_whose_board_was_not_metered() {
        insta::assert_snapshot!(lines(&SyntheticRun::unmetered()));
    }

    #[test]
    fn what_stands_beside_the_energy_is_told_with_what_it_is_no_part_of() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(dir.path());
        let mut report = Report::of(&run, None).unwrap();
        let totals = report.totals.as_mut().unwrap();
        let rate = EmbodiedRate { machine_g: GramsCo2e(1.5e6), lifetime_h: 40_000.0 };
        totals.embodied = Some(rate.over(Seconds(7_200.0)));
        totals.sci = Some(Sci { value: 1.25, per: "1000 tokens".to_owned() });
        let (power_w, energy_j) = (Watts(180.0), Joules(1.296e6));
        totals.machine_idle = Some(MachineIdle { power_w, energy_j, emissions_g: GramsCo2e(144.0) });
        totals.projection = Some(Projected {
            step: 40,
            total_steps: 100,
            energy_j: Joules(100_900.0),
            uncertainty_j: Joules(2_000.0),
            budget_j: Some(Joules(98_000.0)),
            fits: Some(Fits::No),
        });
        let text = text(&report, Bars::Blocks);
        let told: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.contains("embodied"))
            .take_while(|l| !l.contains("metering"))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn no_line_is_wider_than_eighty_columns() {
        let long = SyntheticRun { n_epochs: 150, ..SyntheticRun::wide() };
        for synthetic in [SyntheticRun::small(), SyntheticRun::resumed(), SyntheticRun::unmetered(), long] {
            for line in lines(&synthetic).lines() {
                assert!(line.chars().count() <= WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn an_unknown_error_is_never_written_as_none() {
        let estimated = SyntheticRun { method: "estimated", ..SyntheticRun::small() };
        let text = lines(&estimated);
        assert!(text.contains("606 J · estimated, not measured · random error unknown"), "{text}");
        assert!(text.contains("303 ± ? J") && !text.contains("± 0"), "{text}");
    }

    #[test]
    fn a_wide_interval_is_the_first_thing_said() {
        let wide = lines(&SyntheticRun { half_width: 350.0, ..SyntheticRun::small() });
        assert!(wide.contains("! the energy, 606 J, is uncertain by ± 58 %"), "{wide}");
        assert!(wide.contains("the energy of 2 epochs is uncertain by more than 15 %"), "{wide}");
        assert!(wide.find("! the energy").unwrap() < wide.find("learnt").unwrap());
        assert!(!lines(&SyntheticRun::small()).contains("uncertain"));
    }

    #[test]
    fn phases_are_headed_by_what_each_method_accounts_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun::small().write(dir.path());
        let whole = run.records.last_mut().unwrap();
        whole.phases_methods = [
            (wattle_runlog::Phase::ForwardBackward, PhasesMethod::Measured),
            (wattle_runlog::Phase::Optimizer, PhasesMethod::TimeShare),
        ]
        .into();
        let text = text(&Report::of(&run, None).unwrap(), Bars::Ascii);
        let heading = "(90.0 % by each phase's own readings, 10.0 % in";
        assert!(text.contains(heading), "{text}");
        assert!(text.contains("readings  ##############") && !text.contains('█'), "{text}");
    }

    #[test]
    fn what_an_estimate_takes_for_granted_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun::unmetered().write(dir.path());
        let whole = run.records.last_mut().unwrap();
        whole.sensors[0].assumption = Some("a TDP of 138 W, a guess".to_owned());
        whole.sensors[0].baseline = Some(wattle_runlog::record::Baseline {
            power_w: wattle_runlog::Watts(118.0),
            uncertainty_w: wattle_runlog::Watts(0.4),
            seconds: wattle_runlog::Seconds(10.0),
        });
        let text = text(&Report::of(&run, None).unwrap(), Bars::Blocks);
        assert!(text.contains("    cpu:estimate assumes a TDP of 138 W, a guess\n"), "{text}");
        assert!(
            text.contains("    cpu:estimate drew 118 ± 0.4 W idle, measured for 10.0 s before"),
            "{text}"
        );
    }

    #[test]
    fn a_mean_above_the_highest_reading_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun::small().write(dir.path());
        run.records[1].sensors[0].max_w = Some(wattle_runlog::Watts(140.0));
        let doubts = Report::of(&run, None).unwrap().doubts;
        let said = "NVIDIA H200: in epoch 2 the mean power of 152 W is above the highest reading of 140 W";
        assert!(doubts.len() == 1 && doubts[0].starts_with(said), "{doubts:?}");
    }
}
