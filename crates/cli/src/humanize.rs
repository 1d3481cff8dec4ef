//! Numbers as people read them.

use std::time::Duration;

use indicatif::HumanDuration;
use wattle_runlog::{GramsCo2e, Joules, Seconds, Watts};

/// A number with three significant digits and an SI prefix on its unit: `4.12 kJ`.
pub fn si(value: f64, unit: &str) -> String {
    const PREFIXES: [(f64, &str); 9] = [
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1.0, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
    ];
    if !value.is_finite() {
        return format!("? {unit}");
    }
    // 999.6 reads as 1.00 k, not as 1000.
    let rounded = value.abs() * (1.0 + 5e-4);
    let (scale, prefix) = match PREFIXES.into_iter().find(|(scale, _)| rounded >= *scale) {
        Some(found) => found,
        None if value == 0.0 => (1.0, ""),
        None => (1e-6, "µ"),
    };
    format!("{} {prefix}{unit}", three_digits(value / scale))
}

/// Three significant digits of a number of ordinary size.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number with its thousands apart: `1,234,567`.
#[cfg(feature = "train")]
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// `4.12 kJ`
pub fn joules(energy: Joules) -> String {
    si(energy.get(), "J")
}

/// `85.0 W`
pub fn watts(power: Watts) -> String {
    si(power.get(), "W")
}

/// `0.55 gCO2e`
pub fn grams(emissions: GramsCo2e) -> String {
    si(emissions.get(), "gCO2e")
}

/// `3 minutes`
pub fn duration(time: Seconds) -> String {
    let seconds = time.get().max(0.0);
    match Duration::try_from_secs_f64(seconds) {
        Ok(_) if seconds < 60.0 => si(seconds, "s"),
        Ok(duration) => HumanDuration(duration).to_string(),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_prefix() {
        assert_eq!(si(4123.0, "J"), "4.12 kJ");
        assert_eq!(si(85.04, "W"), "85.0 W");
        assert_eq!(si(0.0098, "J"), "9.80 mJ");
        assert_eq!(si(999.9, "J"), "1.00 kJ");
        assert_eq!(si(2.74e17, "FLOP"), "274 PFLOP");
        assert_eq!(si(0.0, "J"), "0.00 J");
        assert_eq!(si(2.5e-9, "J"), "0.00 µJ");
        assert_eq!(si(f64::NAN, "J"), "? J");
    }
}
