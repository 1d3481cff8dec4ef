//! Axes: a range, round places on it, and what to write there.

use crate::words::quantity::Scale;

/// A range of numbers with ticks.
#[derive(Clone, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// What is written beside the axis.
    pub title: String,
    /// Places from 0 to 1, and what is written there.
    pub ticks: Vec<(f64, String)>,
}

/// What an axis counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit<'a> {
    /// SI prefixes on this unit; "" for a bare number.
    Si(&'a str),
    /// Seconds, minutes, hours or days, whichever fits.
    Time,
    /// As it is, with no unit.
    Plain,
    /// A share as a percentage.
    Percent,
}

impl Axis {
    /// An axis from zero to at least `high`.
    pub fn from_zero(name: &str, unit: Unit<'_>, high: f64) -> Self {
        Self::linear(name, unit, 0.0, high, true)
    }

    /// An axis that ends where the data ends, for places in time.
    pub fn exactly(name: &str, unit: Unit<'_>, high: f64) -> Self {
        Self::linear(name, unit, 0.0, high, false)
    }

    /// An axis around the data.
    pub fn around(name: &str, unit: Unit<'_>, low: f64, high: f64) -> Self {
        Self::linear(name, unit, low, high, true)
    }

    fn linear(name: &str, unit: Unit<'_>, low: f64, high: f64, is_rounded: bool) -> Self {
        let (low, high) = widened(low, high);
        let (factor, unit_name) = unit.scale(high);
        let step = unit.step((high - low) / factor);
        let (mut first, mut last) = ((low / factor / step).ceil(), (high / factor / step).floor());
        if is_rounded {
            (first, last) = ((low / factor / step).floor(), (high / factor / step).ceil());
        }
        let (low, high) = match is_rounded {
            true => (first * step * factor, last * step * factor),
            false => (low, high),
        };
        let decimals = decimals(step);
        let place = |i: f64| (i * step * factor - low) / (high - low);
        let label = |i: f64| format!("{:.decimals$}", i * step + 0.0);
        let n = (last - first) as usize;
        let ticks = (0..=n).map(|i| first + i as f64).map(|i| (place(i), label(i))).collect();
        Self { low, high, is_logarithmic: false, title: titled(name, &unit_name), ticks }
    }

    /// A logarithmic axis around positive numbers; a linear one where they are of a size.
    pub fn logarithmic(name: &str, unit: &str, low: f64, high: f64) -> Self {
        if low <= 0.0 || high / low < 5.0 {
            return Self::around(name, Unit::Si(unit), low, high);
        }
        let (low, high) = (low / 1.15, high * 1.15);
        let scale = Scale::of(high);
        let first = low.log10().floor() as i32;
        let last = high.log10().ceil() as i32;
        let place = |value: f64| (value / low).ln() / (high / low).ln();
        let within = |steps: &[f64]| -> Vec<f64> {
            let values = (first..=last).flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d)));
            values.filter(|value| (low..=high).contains(value)).collect()
        };
        let tens = within(&[1.0]);
        let ticks = if tens.len() >= 3 { tens } else { within(&[1.0, 2.0, 3.0, 5.0]) };
        let label = |value: f64| format!("{}", (value / scale.factor * 1e6).round() / 1e6);
        let ticks = ticks.into_iter().map(|value| (place(value), label(value))).collect();
        let title = titled(name, &format!("{}{unit}", scale.prefix));
        Self { low, high, is_logarithmic: true, title, ticks }
    }

    /// Where a value lies, 0 at the low end and 1 at the high one.
    pub fn place(&self, value: f64) -> f64 {
        match self.is_logarithmic {
            true => (value / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        }
    }
}

impl Unit<'_> {
    /// The factor between the axis' numbers and the data's, and the unit's name.
    fn scale(self, high: f64) -> (f64, String) {
        match self {
            Self::Si(unit) => {
                let scale = Scale::of(high);
                let name = match (unit, scale.prefix) {
                    ("", "k") => "thousands".to_owned(),
                    ("", "M") => "millions".to_owned(),
                    ("", "G") => "billions".to_owned(),
                    (unit, prefix) => format!("{prefix}{unit}"),
                };
                (scale.factor, name)
            }
            Self::Time => {
                let (factor, name) = match high {
                    seconds if seconds < 180.0 => (1.0, "s"),
                    seconds if seconds < 10_800.0 => (60.0, "min"),
                    seconds if seconds < 345_600.0 => (3600.0, "h"),
                    _ => (86_400.0, "d"),
                };
                (factor, name.to_owned())
            }
            // Very small numbers would be labelled with zeros alone.
            Self::Plain if high > 0.0 && high < 1e-3 => {
                let power = high.log10().floor();
                (10f64.powf(power), format!("times 1e{power}"))
            }
            Self::Plain => (1.0, String::new()),
            Self::Percent => (0.01, "%".to_owned()),
        }
    }

    /// A round distance between ticks, some five on the axis.
    fn step(self, width: f64) -> f64 {
        let rough = width / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let multiples: &[f64] =
            if self == Self::Time && width > 12.0 { &[1.0, 2.0, 3.0, 6.0] } else { &[1.0, 2.0, 5.0] };
        let fits = multiples.iter().map(|multiple| multiple * power).find(|step| *step >= rough * 0.999);
        fits.unwrap_or(10.0 * power)
    }
}

fn titled(name: &str, unit: &str) -> String {
    if unit.is_empty() { name.to_owned() } else { format!("{name}, {unit}") }
}

/// The number of decimals that distinguishes neighbouring ticks.
fn decimals(step: f64) -> usize {
    (-step.log10() - 1e-9).ceil().clamp(0.0, 12.0) as usize
}

/// A range with a width. Equal or nearly equal numbers end up in its middle.
fn widened(low: f64, high: f64) -> (f64, f64) {
    /// Relative to the numbers; ticks over it need four digits at most.
    const NARROWEST: f64 = 5e-3;
    let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
    let size = low.abs().max(high.abs());
    match high - low >= NARROWEST * size && size > 0.0 {
        true => (low, high),
        false if size == 0.0 => (0.0, 1.0),
        false => {
            let (middle, half) = ((low + high) / 2.0, NARROWEST * size);
            (middle - half, middle + half)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::from_zero("energy", Unit::Si("J"), 23_400.0);
        assert_eq!(
            (axis.title.as_str(), labels(&axis)),
            ("energy, kJ", vec!["0", "5", "10", "15", "20", "25"])
        );
        let axis = Axis::exactly("running time", Unit::Time, 7_260.0);
        assert_eq!(axis.title, "running time, min");
        assert_eq!(labels(&axis), ["0", "30", "60", "90", "120"]);
        assert!(axis.ticks.iter().all(|(place, _)| (0.0..=1.0).contains(place)));
        assert_eq!(Axis::exactly("steps", Unit::Si(""), 100_000.0).title, "steps, thousands");
        let axis = Axis::around("loss", Unit::Plain, 2.53, 6.25);
        assert_eq!(labels(&axis), ["2", "3", "4", "5", "6", "7"]);
        assert_eq!(axis.place(2.0), 0.0);
    }

    #[test]
    fn a_logarithmic_axis_has_at_least_three_ticks() {
        for (low, high) in [(100.0, 250.0), (1.0, 1e6), (220.0, 260.0), (230.0, 1200.0), (90.0, 460.0)] {
            let axis = Axis::logarithmic("energy", "J", low, high);
            assert!(axis.ticks.len() >= 3, "{low} {high} {:?}", axis.ticks);
            assert!(axis.ticks.iter().all(|(place, _)| (0.0..=1.0).contains(place)));
        }
    }

    #[test]
    fn labels_have_the_digits_that_the_spacing_needs_and_no_more() {
        let axis = Axis::around("loss", Unit::Plain, 4.933_180, 4.933_192);
        assert_eq!(labels(&axis), ["4.90", "4.91", "4.92", "4.93", "4.94", "4.95", "4.96"]);
        let axis = Axis::around("loss", Unit::Plain, 2.0, 2.0);
        assert_eq!(labels(&axis), ["1.990", "1.995", "2.000", "2.005", "2.010"]);
        let axis = Axis::around("loss", Unit::Plain, 1e-8, 5e-8);
        assert_eq!((axis.title.as_str(), labels(&axis)), ("loss, times 1e-8", vec!["1", "2", "3", "4", "5"]));
        for (low, high) in [(4.9, 5.1), (0.001, 0.0015), (7e-7, 9e-6), (99.99, 100.01), (1e6, 1e6 + 1.0)] {
            let axis = Axis::around("loss", Unit::Plain, low, high);
            let labels = labels(&axis);
            assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{labels:?}");
            assert!(labels.iter().all(|label| label.len() <= 7), "{labels:?}");
        }
    }

    #[test]
    fn nothing_and_one_number_have_axes_too() {
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (f64::INFINITY, f64::NEG_INFINITY), (-2.0, -2.0)] {
            let axis = Axis::around("x", Unit::Plain, low, high);
            assert!(axis.ticks.len() > 1 && axis.ticks.iter().all(|(place, _)| place.is_finite()));
        }
    }
}
