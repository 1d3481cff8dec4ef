//! What several runs say of the same figure.

use serde::Serialize;

use crate::words::quantity::{Scale, loss, si, three_digits};

/// Mean and extremes of one figure over several runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Lowest.
    pub low: f64,
    /// Highest.
    pub high: f64,
}

impl Spread {
    /// The spread of these figures; `None` if one is missing, or there is none.
    pub fn of(figures: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let figures: Vec<f64> = figures.into_iter().collect::<Option<_>>()?;
        let mean = figures.iter().sum::<f64>() / figures.len() as f64;
        let (low, high) =
            figures.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(*x), h.max(*x)));
        (!figures.is_empty()).then_some(Self { mean, low, high })
    }

    /// Whether no figure of the one lies among the other's.
    pub fn is_apart(&self, other: &Self) -> bool {
        self.high < other.low || other.high < self.low
    }

    /// `606 (600–612) J`, or the one figure there is.
    pub(crate) fn words(self, unit: &str) -> String {
        let scale = Scale::of(self.mean);
        let number = |value: f64| three_digits(value / scale.factor);
        match self.low < self.high {
            true => format!(
                "{} ({}–{}) {}{unit}",
                number(self.mean),
                number(self.low),
                number(self.high),
                scale.prefix
            ),
            false => si(self.mean, unit),
        }
    }

    /// `2.543 (2.542–2.544)`, or the one loss there is.
    pub(crate) fn loss_words(self) -> String {
        match self.low < self.high {
            true => format!("{} ({}–{})", loss(self.mean), loss(self.low), loss(self.high)),
            false => loss(self.mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_with_a_missing_figure_is_missing() {
        assert_eq!(Spread::of([Some(1.0), None]), None);
        let spread = Spread::of([Some(1.0), Some(3.0)]).unwrap();
        assert_eq!((spread.mean, spread.low, spread.high), (2.0, 1.0, 3.0));
        assert!(spread.is_apart(&Spread { mean: 4.0, low: 3.5, high: 5.0 }));
        assert!(!spread.is_apart(&Spread { mean: 4.0, low: 2.5, high: 5.0 }));
    }
}
