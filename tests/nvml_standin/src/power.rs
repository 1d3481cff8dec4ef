//! Power as a known function of time, with its integral.
//!
//! Time is `CLOCK_MONOTONIC`, so that whoever loads the library can compute the energy between two moments too.

use std::str::FromStr;

use wattle_runlog::{Joules, MonotonicNs, Seconds, Watts};

/// A board's power over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Power {
    /// `steady:300`: the same watts always.
    Steady(Watts),
    /// `square:low:high:period_ms`: low for the first half of each period, high for the second.
    Square(Watts, Watts, u64),
    /// `ramp:low:high:period_ms`: from low to high within each period, and back to low at once.
    Ramp(Watts, Watts, u64),
    /// `burst:low:high:period_ms:width_ms`: low, but high for the last part of each period.
    Burst(Watts, Watts, u64, u64),
}

impl Power {
    /// Power at a moment.
    pub fn at(&self, t: MonotonicNs) -> Watts {
        match *self {
            Self::Steady(watts) => watts,
            Self::Square(low, high, period_ms) => {
                if phase(t, period_ms) < 0.5 {
                    low
                } else {
                    high
                }
            }
            Self::Ramp(low, high, period_ms) => low + (high - low) * phase(t, period_ms),
            Self::Burst(low, high, period_ms, width_ms) => {
                if phase(t, period_ms) < 1.0 - width_ms as f64 / period_ms as f64 { low } else { high }
            }
        }
    }

    /// Energy since boot.
    pub fn energy(&self, t: MonotonicNs) -> Joules {
        let periods = |period_ms: u64| (t.0 / (period_ms * 1_000_000)) as f64;
        let seconds = |period_ms: u64| Seconds(period_ms as f64 / 1e3);
        match *self {
            Self::Steady(watts) => watts * t.since(MonotonicNs(0)),
            Self::Square(low, high, period_ms) => {
                let (period, phase) = (seconds(period_ms), phase(t, period_ms));
                let whole = (low + high) * (0.5 * periods(period_ms)) * period;
                whole + low * period * phase.min(0.5) + high * period * (phase - 0.5).max(0.0)
            }
            Self::Ramp(low, high, period_ms) => {
                let (period, phase) = (seconds(period_ms), phase(t, period_ms));
                let whole = (low + high) * (0.5 * periods(period_ms)) * period;
                whole + low * period * phase + (high - low) * (0.5 * phase * phase) * period
            }
            Self::Burst(low, high, period_ms, width_ms) => {
                let (period, width) = (seconds(period_ms), seconds(width_ms));
                let into =
                    Seconds(phase(t, period_ms) * period.get() - (period - width).get()).get().max(0.0);
                let bursts = (high - low) * (width * periods(period_ms) + Seconds(into));
                low * t.since(MonotonicNs(0)) + bursts
            }
        }
    }

    /// Energy between two moments.
    pub fn between(&self, start: MonotonicNs, end: MonotonicNs) -> Joules {
        self.energy(end) - self.energy(start)
    }
}

/// How far into its period a moment is, from 0 to 1.
fn phase(t: MonotonicNs, period_ms: u64) -> f64 {
    let period_ns = period_ms * 1_000_000;
    (t.0 % period_ns) as f64 / period_ns as f64
}

fn period(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(ms) if ms > 0 => Ok(ms),
        _ => Err(format!("{text:?}: expected milliseconds above 0")),
    }
}

impl FromStr for Power {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields: Vec<_> = text.split(':').collect();
        let watts = |text: &str| text.parse().map(Watts).map_err(|e| format!("{text:?}: {e}"));
        match fields[..] {
            ["steady", power] => Ok(Self::Steady(watts(power)?)),
            ["square", low, high, ms] => Ok(Self::Square(watts(low)?, watts(high)?, period(ms)?)),
            ["ramp", low, high, ms] => Ok(Self::Ramp(watts(low)?, watts(high)?, period(ms)?)),
            ["burst", low, high, ms, width] => {
                let (period, width) = (period(ms)?, period(width)?);
                if width > period {
                    return Err(format!("{text:?}: the burst is longer than its period"));
                }
                Ok(Self::Burst(watts(low)?, watts(high)?, period, width))
            }
            _ => {
                let expected = "expected steady:W, square:W:W:ms, ramp:W:W:ms or burst:W:W:ms:ms";
                Err(format!("{text:?}: {expected}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_the_integral_of_power() {
        for text in ["steady:300", "square:100:400:70", "ramp:50:650:110", "burst:80:700:130:35"] {
            let power: Power = text.parse().unwrap();
            let (start, step) = (MonotonicNs(123_456_789_000_000), 10_000);
            let mut sum = Joules::ZERO;
            for i in 0..50_000 {
                sum += power.at(MonotonicNs(start.0 + i * step + step / 2)) * Seconds::from_ns(step);
            }
            let exact = power.between(start, MonotonicNs(start.0 + 50_000 * step));
            // The midpoint rule misses at most a step's worth at each edge of the square.
            assert!((exact - sum).get().abs() < 0.01, "{text}: {exact:?} and {sum:?}");
        }
    }

    #[test]
    fn what_is_no_curve_is_refused() {
        for text in ["", "steady", "steady:x", "square:1:2", "ramp:1:2:0", "burst:1:2:10", "burst:1:2:10:11"]
        {
            assert!(text.parse::<Power>().is_err(), "{text}");
        }
    }
}
