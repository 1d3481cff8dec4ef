//! Pauses for cleaner electricity in words.

use wattle_runlog::GramsCo2e;

use crate::join::waiting::Waiting;
use crate::words::quantity::{duration, grams, joules, percent};

/// What waiting saved.
pub(crate) fn saved(waiting: &Waiting) -> String {
    let share = percent(waiting.saved_fraction().abs());
    let at_once = grams(waiting.at_once_g);
    if waiting.saved_g < GramsCo2e::ZERO {
        let more = grams(GramsCo2e(-waiting.saved_g.get()));
        return format!(
            "nothing: {more} ({share}) more than running at once, which would have emitted {at_once}"
        );
    }
    format!(
        "{} ({share}) against running at once, which would have emitted {at_once}",
        grams(waiting.saved_g)
    )
}

/// What waiting cost.
pub(crate) fn cost(waiting: &Waiting) -> String {
    let pauses =
        if waiting.pauses == 1 { "a pause".to_owned() } else { format!("{} pauses", waiting.pauses) };
    format!(
        "{} in {pauses}; the idle machine drew {} and emitted {}, already taken off",
        duration(waiting.time_s),
        joules(waiting.idle_j),
        grams(waiting.idle_g)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_runlog::{Joules, Seconds};

    #[test]
    fn what_waiting_saved_and_cost_is_said_and_also_where_it_saved_nothing() {
        let mut waiting = Waiting {
            pauses: 2,
            time_s: Seconds(7200.0),
            idle_j: Joules(3.6e5),
            idle_g: GramsCo2e(10.0),
            work_g: GramsCo2e(110.0),
            at_once_g: GramsCo2e(200.0),
            saved_g: GramsCo2e(80.0),
        };
        assert_eq!(
            saved(&waiting),
            "80.0 gCO2e (40.0 %) against running at once, which would have emitted 200 gCO2e"
        );
        assert_eq!(
            cost(&waiting),
            "2 h 00 min in 2 pauses; the idle machine drew 360 kJ and emitted 10.0 gCO2e, already taken off"
        );
        (waiting.work_g, waiting.saved_g, waiting.pauses) = (GramsCo2e(200.0), GramsCo2e(-10.0), 1);
        assert!(saved(&waiting).starts_with("nothing: 10.0 gCO2e (5.0 %) more than"), "{}", saved(&waiting));
        assert!(cost(&waiting).contains(" in a pause;"));
    }
}
