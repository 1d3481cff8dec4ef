//! Numbers as people read them.

use wattle_runlog::record::Cost;
use wattle_runlog::{GramsCo2e, Joules, Seconds, Watts};

/// A power of a thousand and its SI prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// The power of a thousand.
    pub factor: f64,
    /// Its prefix.
    pub prefix: &'static str,
}

const SCALES: [Scale; 9] = [
    Scale { factor: 1e18, prefix: "E" },
    Scale { factor: 1e15, prefix: "P" },
    Scale { factor: 1e12, prefix: "T" },
    Scale { factor: 1e9, prefix: "G" },
    Scale { factor: 1e6, prefix: "M" },
    Scale { factor: 1e3, prefix: "k" },
    Scale { factor: 1.0, prefix: "" },
    Scale { factor: 1e-3, prefix: "m" },
    Scale { factor: 1e-6, prefix: "µ" },
];

impl Scale {
    /// The scale on which a number has one to three digits before its point.
    pub fn of(value: f64) -> Self {
        // 999.6 reads as 1.00 k, not as 1000.
        let rounded = value.abs() * (1.0 + 5e-4);
        let fits = SCALES.into_iter().find(|scale| rounded >= scale.factor);
        match fits {
            Some(scale) => scale,
            None if value == 0.0 => Self { factor: 1.0, prefix: "" },
            None => SCALES[SCALES.len() - 1],
        }
    }
}

/// A number with three significant digits and an SI prefix on its unit: `4.12 kJ`.
pub fn si(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return format!("? {unit}").trim_end().to_owned();
    }
    let scale = Scale::of(value);
    format!("{} {}{unit}", three_digits(value / scale.factor), scale.prefix).trim_end().to_owned()
}

/// A number and its half-width on one scale: `4.12 ± 0.03 kJ`; without the half-width where that is zero.
pub fn plus_minus(value: f64, half_width: f64, unit: &str) -> String {
    if half_width <= 0.0 || !value.is_finite() || !half_width.is_finite() {
        return si(value, unit);
    }
    let scale = Scale::of(value.abs().max(half_width));
    let number = three_digits(value / scale.factor);
    format!("{number} ± {} {}{unit}", one_digit(half_width / scale.factor), scale.prefix)
}

/// A number and its half-width; `± ?` if the half-width is unknown.
pub fn uncertain(value: f64, half_width: Option<f64>, unit: &str) -> String {
    let Some(half_width) = half_width else {
        let scale = Scale::of(value);
        return format!("{} ± ? {}{unit}", three_digits(value / scale.factor), scale.prefix);
    };
    plus_minus(value, half_width, unit)
}

/// Three significant digits of a number of ordinary size.
pub fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// An error as errors are stated: one significant digit, two below a leading 2.
fn one_digit(value: f64) -> String {
    let magnitude = value.abs().log10().floor();
    let leading = value.abs() / 10f64.powf(magnitude);
    let digits = if leading < 2.0 { 1.0 } else { 0.0 };
    let decimals = (digits - magnitude).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

/// A whole number with its thousands apart: `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `4.12 kJ`
pub fn joules(energy: Joules) -> String {
    si(energy.get(), "J")
}

/// `85.0 W`
pub fn watts(power: Watts) -> String {
    si(power.get(), "W")
}

/// `0.55 gCO2e`; tonnes from a million grams on.
pub fn grams(emissions: GramsCo2e) -> String {
    format!("{}CO2e", mass(emissions))
}

/// `0.55 g`, where it is said already of what.
pub fn mass(emissions: GramsCo2e) -> String {
    match emissions.get() {
        grams if grams.abs() >= 0.9995e6 => format!("{} t", large(grams / 1e6)),
        grams => si(grams, "g"),
    }
}

/// Energy in the unit in which bills and papers state it: `1.29 GWh`.
pub fn watt_hours(energy: Joules) -> String {
    si(energy.kwh() * 1e3, "Wh")
}

/// Three significant digits, with its thousands apart.
pub fn large(value: f64) -> String {
    if value.abs() < 999.5 { three_digits(value) } else { count(value.round().abs() as u64) }
}

/// `12.3 s`, `4 min 05 s`, `3 h 12 min`, `2 d 4 h`
pub fn duration(time: Seconds) -> String {
    let seconds = time.get();
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    if seconds < 59.95 {
        return si(seconds.max(0.0), "s");
    }
    let whole = seconds.round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match whole {
        0..3600 => format!("{minutes} min {:02} s", whole % 60),
        3600..86_400 => format!("{hours} h {:02} min", minutes % 60),
        86_400..31_536_000 => format!("{} d {} h", count(days), hours % 24),
        _ => format!("{} d", count(days)),
    }
}

/// Joules for each thousand tokens, without the unit: `1.78`. Always on the same scale, so rows can be compared.
pub fn joules_per_ktoken(joules_per_token: f64) -> String {
    let value = joules_per_token * 1e3;
    match value.abs() {
        size if !value.is_finite() || size == 0.0 => three_digits(value),
        size if size < 1.0 => {
            let decimals = (2.0 - size.log10().floor()).clamp(2.0, 9.0) as usize;
            format!("{value:.decimals$}")
        }
        _ => large(value),
    }
}

/// Money: `1.25 EUR`, `13.1 µEUR`.
pub fn money(value: f64, currency: &str) -> String {
    match value.abs() {
        size if size >= 999.5 => format!("{} {currency}", large(value)),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2} {currency}"),
        _ => si(value, currency),
    }
}

/// The price that a cost comes from: `0.25 EUR a kWh`, and how much of the energy it covers if not all.
pub fn tariff(cost: &Cost) -> String {
    let price = format!("{} {} a kWh", factor(cost.tariff_per_kwh), cost.currency);
    match cost.energy_fraction {
        Some(fraction) => format!("{price}, for {} of the energy", percent(fraction)),
        None => price,
    }
}

/// A number that somebody gave, as it was given; a mean of several to four decimals.
pub fn factor(value: f64) -> String {
    let given = value.to_string();
    if given.len() <= 8 { given } else { format!("{value:.4}") }
}

/// A share: `17.5 %`, `0.02 %`.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if !percent.is_finite() => "?".to_owned(),
        percent if percent.abs() >= 99.95 => format!("{percent:.0} %"),
        percent if percent.abs() >= 0.995 || percent == 0.0 => format!("{percent:.1} %"),
        percent => format!("{percent:.2} %"),
    }
}

/// A share that is known roughly: `5 %`.
pub fn whole_percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// A loss: `3.767`.
pub fn loss(loss: f64) -> String {
    if loss.is_finite() { format!("{loss:.3}") } else { "not a number".to_owned() }
}

/// A wall time for a person: `2026-11-23 15:00 UTC`.
pub fn wall_time(rfc3339: &str) -> String {
    rfc3339
        .parse::<jiff::Timestamp>()
        .map_or_else(|_| rfc3339.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_a_prefix() {
        assert_eq!(si(4123.0, "J"), "4.12 kJ");
        assert_eq!(si(0.0098, "J"), "9.80 mJ");
        assert_eq!(si(999.9, "J"), "1.00 kJ");
        assert_eq!(si(0.0, "J"), "0.00 J");
        assert_eq!(si(f64::NAN, "J"), "? J");
        assert_eq!(si(4123.0, ""), "4.12 k");
    }

    #[test]
    fn an_error_stands_on_the_scale_of_its_number() {
        assert_eq!(plus_minus(4123.0, 31.0, "J"), "4.12 ± 0.03 kJ");
        assert_eq!(plus_minus(4123.0, 13.0, "J"), "4.12 ± 0.013 kJ");
        assert_eq!(plus_minus(118.0, 0.4, "J"), "118 ± 0.4 J");
        assert_eq!(plus_minus(118.0, 0.0, "J"), "118 J");
        assert_eq!(plus_minus(2.0, 5000.0, "J"), "0.00 ± 5 kJ");
        assert_eq!(uncertain(4123.0, Some(31.0), "J"), "4.12 ± 0.03 kJ");
        assert_eq!(uncertain(4123.0, None, "J"), "4.12 ± ? kJ");
    }

    #[test]
    fn times_and_amounts() {
        assert_eq!(duration(Seconds(59.97)), "1 min 00 s");
        assert_eq!(duration(Seconds(12.34)), "12.3 s");
        assert_eq!(duration(Seconds(11_530.0)), "3 h 12 min");
        assert_eq!(duration(Seconds(187_000.0)), "2 d 3 h");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(money(0.0000131, "EUR"), "13.1 µEUR");
        assert_eq!(money(1234.4, "EUR"), "1,234 EUR");
        assert_eq!(percent(0.175), "17.5 %");
        assert_eq!(
            [1.78e-3, 2.96e-4, 1.2342, 0.0].map(joules_per_ktoken),
            ["1.78", "0.296", "1,234", "0.00"]
        );
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(grams(GramsCo2e(552e6)), "552 tCO2e");
        assert_eq!(watt_hours(Joules::from_kwh(1_287_000.0)), "1.29 GWh");
    }
}
