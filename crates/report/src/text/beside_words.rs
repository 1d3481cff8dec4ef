//! What stands beside a run's energy, in words.

use wattle_runlog::beside::{Embodied, EmbodiedRate, Fits, MachineIdle, Projected};
use wattle_runlog::masked::Masked;
use wattle_runlog::record::Sci;

use crate::words::quantity::{count, grams, joules, percent, si, watts};

/// `40.0 g of making the machine (40.0 kg over 1,000 h), not in the emissions; SCI with it 320 g per 1000 tokens`
pub(crate) fn embodied_words(embodied: &Embodied, sci: Option<&Sci>) -> String {
    let EmbodiedRate { machine_g, lifetime_h } = embodied.rate;
    let sci = sci.map(|sci| format!("; SCI with it {} per {}", si(sci.value, "g"), sci.per));
    format!(
        "{} of making the machine ({} over {} h), not in the emissions{}",
        grams(embodied.emissions_g),
        grams(machine_g),
        count(lifetime_h as u64),
        sci.unwrap_or_default()
    )
}

/// `360 kJ at a stated 100 W (60.0 g), not in the energy, which holds a part of it`
pub(crate) fn idle_words(idle: &MachineIdle) -> String {
    format!(
        "{} at a stated {} ({}), not in the energy, which holds a part of it",
        joules(idle.energy_j),
        watts(idle.power_w),
        grams(idle.emissions_g)
    )
}

/// `41,200 more were read and not learnt (31 %), with 12.0 J of forward and backward passes`
pub(crate) fn masked_words(masked: &Masked) -> String {
    format!(
        "{} more were read and not learnt ({}), with {} of forward and backward passes",
        count(masked.tokens),
        percent(masked.share),
        joules(masked.energy_j)
    )
}

/// `41,200 more filled windows up (31 %), with 12.0 J of forward and backward passes`
pub(crate) fn padding_words(padding: &Masked) -> String {
    format!(
        "{} more filled windows up ({}), with {} of forward and backward passes",
        count(padding.tokens),
        percent(padding.share),
        joules(padding.energy_j)
    )
}

/// `101 kJ ± 2.00 kJ for all 100 steps and the end, by step 40; the budget allows 100 kJ: too little`
pub(crate) fn projection_words(projection: &Projected) -> String {
    let budget = projection.budget_j.zip(projection.fits).map(|(limit, fits)| {
        let fits = match fits {
            Fits::Yes => "enough",
            Fits::Unsure => "perhaps enough",
            Fits::No => "too little",
        };
        format!("; the budget allows {}: {fits}", joules(limit))
    });
    format!(
        "{} ± {} for all {} steps and the end, by step {}{}",
        joules(projection.energy_j),
        joules(projection.uncertainty_j),
        count(projection.total_steps),
        count(projection.step),
        budget.unwrap_or_default()
    )
}
