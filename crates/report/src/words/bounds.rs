//! Figures with how far they may be off: a half-width, or that they are lower bounds.

use wattle_runlog::Joules;

use crate::words::quantity::{joules, uncertain};

/// Marks a figure as a lower bound unless everything was metered.
pub(crate) fn at_least(is_metered: bool, figure: String) -> String {
    if is_metered { figure } else { format!("≥ {figure}") }
}

/// An energy with its half-width, or as a lower bound if a device was unmetered.
pub(crate) fn energy_in(is_metered: bool, energy: Joules, half_width: Option<Joules>) -> String {
    match is_metered {
        true => energy_of(energy, half_width),
        false => at_least(is_metered, joules(energy)),
    }
}

/// An energy with its half-width; `± ?` if the half-width is unknown.
pub(crate) fn energy_of(energy: Joules, half_width: Option<Joules>) -> String {
    uncertain(energy.get(), half_width.map(Joules::get), "J")
}
