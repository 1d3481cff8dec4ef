//! Numbers as people read them.

use wattle_runlog::GramsCo2e;

#[cfg(feature = "train")]
pub use wattle_report::quantity::{count, three_digits};
pub use wattle_report::quantity::{duration, joules, plus_minus, si, watts};

/// `0.55 gCO2e`
pub fn grams(emissions: GramsCo2e) -> String {
    si(emissions.get(), "gCO2e")
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
