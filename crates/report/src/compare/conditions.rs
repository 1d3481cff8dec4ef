//! What differs between runs besides their configuration, and whether they may be compared all the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wattle_runlog::Seconds;
use wattle_runlog::record::Flag;

use crate::compare::contender::Contender;
use crate::compare::group::{configured, power_limits};
use crate::join::report::Report;
use crate::join::status::Status;
use crate::words::clock::capped_share;
use crate::words::quantity::{duration, factor, joules, percent, whole_percent};

/// Boards that differ by more degrees at the start are not equally warm. Ours, as is the next.
const WARMER: f64 = 10.0;

/// In runs that are longer, the temperature at the start matters little.
const SETTLED_AFTER: Seconds = Seconds(1_800.0);

/// Something that is not the same in all runs, or is not as it should be in one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Condition {
    /// What differs, as a sentence with each run's case.
    pub what: String,
    /// Whether it forbids to name a winner.
    pub is_blocking: bool,
}

/// Everything that differs, blocking conditions first. Verdicts exclude unmetered runs, so a difference that only
/// concerns them does not block.
pub fn conditions(reports: &[Report], contenders: &[Contender]) -> Vec<Condition> {
    let mut found = unmetered(contenders);
    let mut differs = |is_blocking: bool, what: &str, values: Vec<String>| {
        let metered: Vec<_> = contenders
            .iter()
            .zip(&values)
            .filter(|(run, _)| run.is_metered())
            .map(|(_, value)| value)
            .collect();
        let is_among_metered = metered.windows(2).any(|pair| pair[0] != pair[1]);
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            let cases = cases(contenders, &values);
            found.push(Condition {
                what: format!("{what}: {cases}"),
                is_blocking: is_blocking && is_among_metered,
            });
        }
    };
    let of = |value: &dyn Fn(&Report) -> String| -> Vec<String> { reports.iter().map(value).collect() };
    differs(true, "they ran on different devices", of(&|report| report.provenance.computed_on()));
    // Where nothing else is configured differently, the limit is what is compared.
    let is_compared = reports.windows(2).all(|pair| configured(&pair[0]) == configured(&pair[1]));
    differs(!is_compared, "boards were held to different power limits", of(&power_limits));
    differs(true, "clocks were held back in some of them", throttling(reports, |reason| reason != POWER_CAP));
    differs(
        false,
        "the power limit held clocks back in some of them",
        throttling(reports, |r| r == POWER_CAP),
    );
    differs(false, "the power limit held clocks back for different shares of the time", capped(reports));
    differs(true, "they were trained on different data", texts(reports));
    differs(false, "their tokenizers differ", of(&tokenizer));
    differs(true, "different things were metered", of(&scope));
    differs(false, "different shares of their energy were measured", shares(reports));
    differs(false, "they were priced by different carbon intensities, so compare joules", of(&intensity));
    differs(false, "some waited for cleaner electricity, and their energy counts it", of(&waited));
    differs(
        false,
        "they were made by different versions of wattle",
        of(&|r| r.provenance.versions.wattle.clone()),
    );
    differs(false, "NVIDIA drivers differ", of(&driver));
    found.extend(temperatures(reports, contenders));
    found.extend(contention(reports, contenders));
    found.extend(estimation(reports));
    for (report, contender) in reports.iter().zip(contenders) {
        let is_open = matches!(report.status, Status::Running | Status::Interrupted | Status::Signal);
        if is_open {
            let what = format!("{} is not finished: {}", contender.label, report.status.words());
            found.push(Condition { what, is_blocking: false });
        }
    }
    found
}

/// The unmetered runs.
fn unmetered(contenders: &[Contender]) -> Vec<Condition> {
    let words = |run: &Contender| unmetered_words(run).map(|what| Condition { what, is_blocking: false });
    contenders.iter().filter_map(words).collect()
}

/// `a trained on cuda:0, which was not metered: …`
pub(crate) fn unmetered_words(run: &Contender) -> Option<String> {
    let devices = run.unmetered_devices.join(", ");
    (!devices.is_empty()).then(|| {
        let label = &run.label;
        format!("{label} trained on {devices}, which no sensor measured: no comparison of energy includes it")
    })
}

/// `a, b 300 W; c 400 W`
fn cases(contenders: &[Contender], values: &[String]) -> String {
    let mut cases: Vec<(&str, Vec<&str>)> = Vec::new();
    for (contender, value) in contenders.iter().zip(values) {
        match cases.iter_mut().find(|(known, _)| known == value) {
            Some((_, labels)) => labels.push(&contender.label),
            None => cases.push((value, vec![&contender.label])),
        }
    }
    let case = |(value, labels): &(&str, Vec<&str>)| {
        format!("{} {}", labels.join(", "), if value.is_empty() { "none" } else { value })
    };
    cases.iter().map(case).collect::<Vec<_>>().join("; ")
}

/// What was metered: how many sensors of each kind.
fn scope(report: &Report) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for sensor in &report.sensors {
        *counts.entry(format!("{:?}", sensor.kind).to_lowercase()).or_default() += 1;
    }
    counts.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect::<Vec<_>>().join(", ")
}

/// The largest share of each run for which a board was held at its power limit, if the shares differ by more than five
/// percentage points. Such a run would be faster with fewer bytes a token.
fn capped(reports: &[Report]) -> Vec<String> {
    let share = |report: &Report| {
        let time = report.totals.as_ref()?.duration_s;
        let shares = report.sensors.iter().filter_map(|sensor| capped_share(sensor, time));
        shares.reduce(f64::max)
    };
    let shares: Vec<Option<f64>> = reports.iter().map(share).collect();
    let known = || shares.iter().copied().flatten();
    let is_alike = known().fold(0.0, f64::max) - known().fold(1.0, f64::min) <= 0.05;
    let words = |share: &Option<f64>| share.map(whole_percent).unwrap_or_default();
    if is_alike { vec![String::new(); shares.len()] } else { shares.iter().map(words).collect() }
}

/// NVML's name for a board at its power limit: the normal state of a busy board.
const POWER_CAP: &str = "sw power cap";

/// Each run's clock-limiting reasons that pass `counts`, except reasons that all runs share and idleness.
fn throttling(reports: &[Report], counts: impl Fn(&str) -> bool) -> Vec<String> {
    let reasons = |report: &Report| -> BTreeSet<String> {
        let reasons = report.sensors.iter().flat_map(|sensor| &sensor.throttle);
        reasons.map(|reason| reason.replace('_', " ")).filter(|r| r != "gpu idle" && counts(r)).collect()
    };
    let all: Vec<_> = reports.iter().map(reasons).collect();
    let is_shared = |reason: &String| all.iter().all(|reasons| reasons.contains(reason));
    let own = |(report, reasons): (&Report, &BTreeSet<String>)| {
        let own: Vec<_> = reasons.iter().filter(|reason| !is_shared(reason)).cloned().collect();
        let limits = power_limits(report);
        match own.join(", ") {
            own if own.is_empty() || limits.is_empty() => own,
            own => format!("{own} at {limits}"),
        }
    };
    reports.iter().zip(&all).map(own).collect()
}

/// Each run's text; where a run does not tell it, as older ones do not, the tokens that each was cut into.
fn texts(reports: &[Report]) -> Vec<String> {
    let data = |report: &Report| report.provenance.data.clone();
    let are_known = reports.iter().filter_map(data).all(|data| data.text_sha256.is_some());
    let hash = |report: &Report| {
        let data = data(report)?;
        if are_known { data.text_sha256 } else { Some(data.sha256) }
    };
    reports.iter().map(|report| short(hash(report))).collect()
}

fn tokenizer(report: &Report) -> String {
    short(report.provenance.data.as_ref().map(|data| data.tokenizer_sha256.clone()))
}

/// As much of a hash as people compare.
fn short(hash: Option<String>) -> String {
    hash.unwrap_or_default().chars().take(12).collect()
}

/// The measured share of each run's energy, if the shares differ by more than one percentage point. The verdict
/// accounts for the possible effect of the unmeasured part.
fn shares(reports: &[Report]) -> Vec<String> {
    let share = |report: &Report| report.totals.as_ref().map_or(0.0, |totals| totals.measured_fraction);
    let shares: Vec<f64> = reports.iter().map(share).collect();
    let (low, high) = shares.iter().fold((f64::INFINITY, 0.0f64), |(l, h), x| (l.min(*x), h.max(*x)));
    if high - low <= 0.01 {
        vec![String::new(); shares.len()]
    } else {
        shares.into_iter().map(percent).collect()
    }
}

/// Runs that shared their device with other processes.
fn contention(reports: &[Report], contenders: &[Contender]) -> Option<Condition> {
    let is_contended = |report: &Report| report.flags.iter().any(|note| note.flag == Flag::Contended);
    let shared = reports.iter().zip(contenders).filter(|(report, _)| is_contended(report));
    let labels: Vec<_> = shared.map(|(_, contender)| contender.label.as_str()).collect();
    let who = if labels.len() == reports.len() { "all of them".to_owned() } else { labels.join(", ") };
    (!labels.is_empty())
        .then(|| Condition { what: format!("other processes used the device of {who}"), is_blocking: false })
}

/// Energies that no sensor measured.
fn estimation(reports: &[Report]) -> Option<Condition> {
    let is_estimated = |report: &Report| report.totals.as_ref().is_some_and(|t| t.measured_fraction < 0.005);
    let what = "no sensor measured these energies: a model estimated them from each run's own processor time and \
                memory; they can be compared with each other, but all may be off together by up to their bound";
    let all = reports.iter().all(is_estimated);
    all.then(|| Condition { what: what.to_owned(), is_blocking: false })
}

/// Boards that were not equally warm when they began. A warm board draws more for the same work, until its
/// temperature has settled.
fn temperatures(reports: &[Report], contenders: &[Contender]) -> Option<Condition> {
    let starts: Option<Vec<f64>> = reports.iter().map(|r| Some(r.start_temperature_c?.get())).collect();
    let starts = starts?;
    let (low, high) =
        starts.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), t| (l.min(*t), h.max(*t)));
    let values: Vec<_> = starts.iter().map(|degrees| format!("{degrees:.0} °C")).collect();
    let shortest = contenders.iter().map(|run| run.duration_s.get()).fold(f64::INFINITY, f64::min);
    (high - low > WARMER).then(|| Condition {
        what: format!("their boards were not equally warm at the start: {}", cases(contenders, &values)),
        is_blocking: shortest < SETTLED_AFTER.get(),
    })
}

fn intensity(report: &Report) -> String {
    report.totals.as_ref().map_or(String::new(), |totals| {
        let carbon = &totals.carbon;
        let intensity = factor((carbon.intensity_g_per_kwh.get() * 10.0).round() / 10.0);
        format!("{intensity} g/kWh ({}), PUE {}", carbon.region, factor(totals.pue))
    })
}

fn waited(report: &Report) -> String {
    report.waiting.as_ref().map_or("not at all".to_owned(), |waiting| {
        format!("{}, {} idle", duration(waiting.time_s), joules(waiting.idle_j))
    })
}

fn driver(report: &Report) -> String {
    report.provenance.drivers.nvidia.clone().unwrap_or_default()
}
