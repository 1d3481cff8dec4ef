//! A run's energy in words: how much of it was measured, and both parts of its error.

use crate::join::report::{Report, Totals};
use crate::words::quantity::{joules, percent, whole_percent};

/// `7.01 kJ · 97.7 % measured · ± 131 J random, ± 6 % systematic`
pub(crate) fn energy_words(report: &Report, totals: &Totals) -> String {
    let energy = report.at_least(joules(totals.energy_j));
    let without = report.unmetered_devices.join(", ");
    let without = if without.is_empty() { without } else { format!(" · without {without}") };
    let error = format!("{}, {}", random_words(totals), systematic_words(totals));
    format!("{energy}{without} · {} · {error}", measured_words(totals))
}

/// `97.7 % measured`
pub(crate) fn measured_words(totals: &Totals) -> String {
    match totals.measured_fraction {
        share if share >= 0.995 => "measured".to_owned(),
        share if share < 0.005 => "estimated, not measured".to_owned(),
        share => format!("{} measured", percent(share)),
    }
}

/// `± 131 J random`
pub(crate) fn random_words(totals: &Totals) -> String {
    let random = totals.energy_uncertainty_j.map(|half_width| format!("± {} random", joules(half_width)));
    random.unwrap_or_else(|| "random error unknown".to_owned())
}

/// `± 6 % systematic`
pub(crate) fn systematic_words(totals: &Totals) -> String {
    format!("± {} systematic", whole_percent(totals.systematic_fraction))
}
