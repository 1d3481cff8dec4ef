//! Numbers as people read them.

use wattle_runlog::GramsCo2e;
#[cfg(feature = "train")]
use wattle_runlog::Joules;

#[cfg(feature = "train")]
pub use wattle_report::words::quantity::{count, three_digits};
pub use wattle_report::words::quantity::{duration, joules, plus_minus, si, watts};

/// `0.55 gCO2e`
pub fn grams(emissions: GramsCo2e) -> String {
    si(emissions.get(), "gCO2e")
}

/// `1.43 J/ktoken`, of an energy that so many tokens took.
#[cfg(feature = "train")]
pub fn joules_per_ktoken(energy: Joules, n_tokens: u64) -> String {
    si(energy.get() * 1e3 / n_tokens as f64, "J/ktoken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(feature = "train")]
    fn energy_per_token_is_stated_for_a_thousand() {
        assert_eq!(joules_per_ktoken(Joules(46.9), 32_768), "1.43 J/ktoken");
        assert_eq!(joules_per_ktoken(Joules(0.5), 1_000_000), "500 µJ/ktoken");
    }

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
