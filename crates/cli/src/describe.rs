//! Records in words.

#[cfg(feature = "train")]
use wattle_meter::WindowEnergy;
use wattle_runlog::Record;
use wattle_runlog::record::{Method, SensorRecord};

use crate::humanize::{grams, joules, si, watts};

/// Energy, emissions, cost and joules a token of a record, for a person.
pub fn describe_energy(record: &Record) -> Vec<String> {
    let carbon = &record.carbon;
    let region = if carbon.region == "WORLD" { "world" } else { &carbon.region };
    let year = carbon.year.map_or(String::new(), |year| format!(", {year}"));
    let mut parts = vec![
        format!("{} {}", joules(record.energy_j), measured(record.measured_fraction)),
        format!("{} ({region}{year})", grams(record.emissions_g)),
    ];
    parts.extend(record.cost.as_ref().map(|cost| format!("{:.2e} {}", cost.value, cost.currency)));
    parts.extend(record.joules_per_token.map(|joules| si(joules * 1000.0, "J/ktoken")));
    parts
}

/// How much of an energy was measured: `measured`, `estimated`, `40 % measured`.
fn measured(fraction: f64) -> String {
    match fraction {
        share if share >= 0.995 => "measured".to_owned(),
        share if share < 0.005 => "estimated".to_owned(),
        share => format!("{:.0} % measured", share * 100.0),
    }
}

/// The energy of work on `n_tokens` tokens, for a person.
#[cfg(feature = "train")]
pub fn describe_window(window: &WindowEnergy, n_tokens: u64) -> String {
    let a_token = si(window.energy.get() / n_tokens as f64, "J/token");
    format!("{} · {a_token}", describe_work(window))
}

/// The energy of a piece of work, for a person.
#[cfg(feature = "train")]
pub fn describe_work(window: &WindowEnergy) -> String {
    format!("{} {}", joules(window.energy), measured(window.measured_fraction))
}

/// One sensor's part of a record, for a person.
pub fn describe_sensor(sensor: &SensorRecord) -> String {
    let method = match sensor.method {
        Method::Counter => "energy counter",
        Method::PowerIntegral => "integral of power",
        Method::Estimated => "estimated",
    };
    let random = sensor.uncertainty_j.map_or(String::new(), |error| format!(" ± {}", joules(error)));
    let mut parts = vec![format!("{}{random}", joules(sensor.energy_j))];
    parts.extend(sensor.mean_w.map(|mean| format!("mean {}", watts(mean))));
    parts.extend(sensor.max_w.map(|max| format!("max {}", watts(max))));
    parts.push(format!("{method}, systematic ± {:.0} %", sensor.systematic_fraction * 100.0));
    format!("{:<12} {}", sensor.id, parts.join(" · "))
}
