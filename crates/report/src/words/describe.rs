//! Records in words.

use wattle_meter::WindowEnergy;
use wattle_runlog::calibration::AppliedCalibration;
use wattle_runlog::record::{Flag, Method, SensorRecord};
use wattle_runlog::{Joules, Record};

use crate::words::quantity::{grams, percent, plus_minus, si, watts};

/// A half-width above this share of an energy is warned of.
const WIDE: f64 = 0.2;

/// Energy, emissions, cost and joules a token of a record, for a person.
pub fn describe_energy(record: &Record) -> Vec<String> {
    let carbon = &record.carbon;
    let region = if carbon.region == "WORLD" { "world" } else { &carbon.region };
    let year = carbon.year.map_or(String::new(), |year| format!(", {year}"));
    let energy = energy_of(
        record.energy_j,
        record.energy_uncertainty_j,
        record.measured_fraction,
        &record.unmetered_devices,
    );
    let mut parts = vec![energy, format!("{} ({region}{year})", grams(record.emissions_g))];
    parts.extend(record.cost.as_ref().map(|cost| {
        let part = cost.energy_fraction.map(|f| format!(" for {} of the energy", percent(f)));
        format!("{:.2e} {}{}", cost.value, cost.currency, part.unwrap_or_default())
    }));
    parts.extend(record.joules_per_token.map(|joules| si(joules * 1000.0, "J/ktoken")));
    parts
}

/// An energy with its half-width, what of it is known how, and what it lacks: `8.21 ± 0.06 kJ measured`.
fn energy_of(
    energy: Joules,
    half_width: Option<Joules>,
    measured_fraction: f64,
    unmetered: &[String],
) -> String {
    let energy = plus_minus(energy.get(), half_width.unwrap_or_default().get(), "J");
    let without = match unmetered {
        [] => String::new(),
        devices => format!(" without {} (not metered)", devices.join(", ")),
    };
    format!("{energy} {}{without}", measured(measured_fraction))
}

/// Warnings about a record's figures, the worst first: unmetered devices, then a wide error on the energy.
pub fn energy_warnings(record: &Record) -> Vec<String> {
    let mut warnings = Vec::new();
    if !record.unmetered_devices.is_empty() {
        warnings.push(unmetered_warning(&record.unmetered_devices));
    }
    let half_width = record.energy_uncertainty_j.unwrap_or_default().get();
    let share = half_width / record.energy_j.get();
    if share > WIDE {
        let why = doubtful_flags(record);
        warnings.push(format!("the energy is known to ± {:.0} % only{why}", share * 100.0));
    }
    warnings
}

/// That an energy is mostly estimated, with what the estimate takes for granted.
pub fn estimate_warning(record: &Record) -> Option<String> {
    let estimated = 1.0 - record.measured_fraction;
    let assumption = record.sensors.iter().find_map(|sensor| sensor.assumption.as_ref());
    let assuming = assumption.map_or(String::new(), |assumption| format!(", assuming {assumption}"));
    (estimated > 0.5).then(|| {
        format!(
            "{:.0} % of the energy is estimated and not measured{assuming}; wattle devices says how to fix it",
            estimated * 100.0
        )
    })
}

/// That devices are computed on and not metered.
pub fn unmetered_warning(devices: &[String]) -> String {
    let (are, their) = if devices.len() == 1 { ("is", "its") } else { ("are", "their") };
    format!(
        "{} {are} not metered: {their} energy is missing from every figure of energy, emissions and cost; wattle \
         devices shows the sensors",
        devices.join(", ")
    )
}

/// Why an energy may be hardly known, by its sensors' flags.
fn doubtful_flags(record: &Record) -> String {
    let has = |flag: Flag| record.sensors.iter().any(|sensor| sensor.flags.contains(&flag));
    let reasons = [
        (Flag::Disagree, "energy counter and power disagree"),
        (Flag::DeviceLost, "a device stopped answering"),
        (Flag::Gaps, "readings are missing"),
        (
            Flag::ShortWindow,
            "it was short compared with the sensors' update period; a longer run gives a tighter figure",
        ),
    ];
    reasons.into_iter().find(|(flag, _)| has(*flag)).map_or(String::new(), |(_, why)| format!(": {why}"))
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
pub fn describe_window(window: &WindowEnergy, n_tokens: u64) -> String {
    format!("{} · {}", describe_work(window), per_ktoken(window.energy, n_tokens))
}

/// `1.43 J/ktoken`: the energy per thousand tokens of work on `n_tokens` tokens.
pub fn per_ktoken(energy: Joules, n_tokens: u64) -> String {
    si(energy.get() * 1e3 / n_tokens as f64, "J/ktoken")
}

/// The energy of a piece of work, for a person.
pub fn describe_work(window: &WindowEnergy) -> String {
    energy_of(window.energy, window.uncertainty, window.measured_fraction, &window.unmetered_devices)
}

/// One sensor's part of a record, for a person, in lines.
pub fn describe_sensor(sensor: &SensorRecord) -> Vec<String> {
    let method = match sensor.method {
        Method::Counter => "energy counter",
        Method::DriverSamples => "the driver's samples",
        Method::PowerIntegral => "integral of power",
        Method::Estimated => "estimated",
    };
    let half_width = sensor.uncertainty_j.unwrap_or_default();
    let mut parts = vec![plus_minus(sensor.energy_j.get(), half_width.get(), "J")];
    parts.extend(sensor.mean_w.map(|mean| format!("mean {}", watts(mean))));
    parts.extend(sensor.max_w.map(|max| format!("max {}", watts(max))));
    parts.push(format!("{method}, systematic ± {:.0} %", sensor.systematic_fraction * 100.0));
    let figures = format!("{:<12} {}", sensor.id, parts.join(" · "));
    let assumption = sensor.assumption.as_ref().map(|assumption| format!("{:<12} assumes {assumption}", ""));
    let calibration = sensor.calibration.as_ref();
    let calibration = calibration.map(|calibration| format!("{:<12} {}", "", calibration_words(calibration)));
    [figures].into_iter().chain(assumption).chain(calibration).collect()
}

/// `calibrated on 2026-11-28 (20261128-061500/gpu:GPU-1a2b): its readings are multiplied by 1.0430`
pub fn calibration_words(calibration: &AppliedCalibration) -> String {
    let AppliedCalibration { id, made_at, gain, .. } = calibration;
    let date = made_at.split('T').next().unwrap_or_default();
    format!("calibrated on {date} ({id}): its readings are multiplied by {gain:.4}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_per_token_is_stated_for_a_thousand() {
        assert_eq!(per_ktoken(Joules(46.9), 32_768), "1.43 J/ktoken");
        assert_eq!(per_ktoken(Joules(0.5), 1_000_000), "500 µJ/ktoken");
    }

    #[test]
    fn an_energy_says_how_well_and_how_it_is_known_and_what_it_lacks() {
        let board = ["cuda:0".to_owned()];
        assert_eq!(energy_of(Joules(8_210.0), Some(Joules(62.0)), 0.999, &[]), "8.21 ± 0.06 kJ measured");
        assert_eq!(energy_of(Joules(345.4), Some(Joules(61.8)), 0.97, &[]), "345 ± 62 J 97 % measured");
        assert_eq!(
            energy_of(Joules(141.0), None, 0.0, &board),
            "141 J estimated without cuda:0 (not metered)"
        );
    }
}
