//! What differs between runs besides their configuration, and whether they may be compared all the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wattle_runlog::Seconds;
use wattle_runlog::record::Flag;

use crate::compare::contender::Contender;
use crate::quantity::{watts, whole_percent};
use crate::report::Report;
use crate::sensor_name;
use crate::status::Status;

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

/// Everything that differs, what forbids a verdict first.
pub fn conditions(reports: &[Report], contenders: &[Contender]) -> Vec<Condition> {
    let mut found = Vec::new();
    let mut differs = |is_blocking: bool, what: &str, values: Vec<String>| {
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            let cases = cases(contenders, &values);
            found.push(Condition { what: format!("{what}: {cases}"), is_blocking });
        }
    };
    let of = |value: &dyn Fn(&Report) -> String| -> Vec<String> { reports.iter().map(value).collect() };
    differs(true, "they ran on different devices", of(&|report| sensor_name::compute(&report.provenance)));
    differs(true, "boards were held to different power limits", of(&power_limits));
    differs(true, "clocks were held back in some of them", of(&throttling));
    differs(true, "they were trained on different data", texts(reports));
    differs(false, "their tokenizers differ", of(&tokenizer));
    differs(true, "different things were metered", of(&scope));
    differs(true, "measured and estimated energies are mixed", of(&measurement));
    differs(false, "they were priced by different carbon intensities, so compare joules", of(&intensity));
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
            let what = format!("{} has not come to its end: {}", contender.label, report.status.words());
            found.push(Condition { what, is_blocking: false });
        }
    }
    found
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

fn power_limits(report: &Report) -> String {
    let limits = report.provenance.sensors.iter().filter_map(|sensor| sensor.limits);
    limits.map(|limits| watts(limits.enforced_w)).collect::<Vec<_>>().join(", ")
}

/// What held clocks back, but for a board that had nothing to do.
fn throttling(report: &Report) -> String {
    let reasons = report.sensors.iter().flat_map(|sensor| &sensor.throttle);
    let reasons: BTreeSet<_> =
        reasons.map(|reason| reason.replace('_', " ")).filter(|r| r != "gpu idle").collect();
    reasons.into_iter().collect::<Vec<_>>().join(", ")
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

/// Two runs may be off by a per cent in this and still be of one kind.
fn measurement(report: &Report) -> String {
    match report.totals.as_ref().map_or(0.0, |totals| totals.measured_fraction) {
        share if share >= 0.995 => "measured".to_owned(),
        share if share < 0.005 => "estimated".to_owned(),
        // Rounded to tenths, for the mix of a measured board and an estimated host is the same from run to run.
        share => format!("about {} measured", whole_percent((share * 10.0).round() / 10.0)),
    }
}

/// Runs whose device was not theirs alone. A model of the load is thrown off by it: runs that computed the same to
/// the bit, some of them beside a busy compiler, were told a tenth apart.
fn contention(reports: &[Report], contenders: &[Contender]) -> Option<Condition> {
    let is_contended = |report: &Report| report.flags.iter().any(|note| note.flag == Flag::Contended);
    let shared = reports.iter().zip(contenders).filter(|(report, _)| is_contended(report));
    let labels: Vec<_> = shared.map(|(_, contender)| contender.label.as_str()).collect();
    let is_blocking = reports.iter().any(|r| r.totals.as_ref().is_some_and(|t| t.measured_fraction < 0.995));
    let who = if labels.len() == reports.len() { "all of them".to_owned() } else { labels.join(", ") };
    (!labels.is_empty())
        .then(|| Condition { what: format!("other processes used the device of {who}"), is_blocking })
}

/// Energies that no sensor measured.
fn estimation(reports: &[Report]) -> Option<Condition> {
    let is_estimated = |report: &Report| report.totals.as_ref().is_some_and(|t| t.measured_fraction < 0.005);
    let what = "no sensor measured these energies: a model made them from each run's own processor time and \
                memory; they compare with each other, and may be off all together by as much as their bound";
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
        format!("{} g/kWh ({}), PUE {}", carbon.intensity_g_per_kwh.get(), carbon.region, totals.pue)
    })
}

fn driver(report: &Report) -> String {
    report.provenance.drivers.nvidia.clone().unwrap_or_default()
}
