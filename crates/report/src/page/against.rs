//! What a curve of learning is drawn against, and the switch between them: radio buttons and plain CSS.

use maud::{Markup, html};

use crate::join::learning::Moment;
use crate::page::axis::Unit;

/// A horizontal axis to choose.
pub(crate) struct Against {
    id: &'static str,
    view: &'static str,
    label: &'static str,
    /// Its name beside the axis.
    pub(crate) name: &'static str,
    /// Whether it counts joules.
    pub(crate) is_energy: bool,
    /// Its unit.
    pub(crate) unit: Unit<'static>,
    /// Where a moment lies on it.
    pub(crate) place: fn(&Moment) -> f64,
}

pub(crate) const STEPS: Against = Against {
    id: "by-step",
    view: "view step",
    label: "steps",
    name: "steps",
    is_energy: false,
    unit: Unit::Si(""),
    place: |at| at.step as f64,
};

pub(crate) const TOKENS: Against = Against {
    id: "by-tokens",
    view: "view tokens",
    label: "tokens",
    name: "tokens",
    is_energy: false,
    unit: Unit::Si(""),
    place: |at| at.tokens as f64,
};

pub(crate) const JOULES: Against = Against {
    id: "by-joules",
    view: "view joules",
    label: "joules",
    name: "energy spent",
    is_energy: true,
    unit: Unit::Si("J"),
    place: |at| at.energy_j.get(),
};

pub(crate) const TIME: Against = Against {
    id: "by-time",
    view: "view time",
    label: "time",
    name: "running time",
    is_energy: false,
    unit: Unit::Time,
    place: |at| at.time_s.get(),
};

/// What `draw` makes for each of `choices`, of which one is shown; the first unless another is chosen.
pub(crate) fn switcher(choices: &[Against], draw: impl Fn(&Against) -> Markup) -> Markup {
    html! {
        div.switcher {
            @for (i, against) in choices.iter().enumerate() {
                input type="radio" name="against" id=(against.id) checked[i == 0];
            }
            div.switch {
                span.soft { "against" }
                @for against in choices { label for=(against.id) { (against.label) } }
            }
            @for against in choices { div class=(against.view) { (draw(against)) } }
        }
    }
}
