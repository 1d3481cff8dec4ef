//! Enums that are settings: names and documentation, listed once.

use crate::doc::Doc;

/// One of the names that a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name in a configuration.
    pub name: &'static str,
    /// What it means.
    pub doc: Doc,
}

/// An enum declared with [`choices!`](crate::choices).
pub trait Choices: Copy + PartialEq + Send + Sync + 'static {
    /// Every value, in order.
    const VALUES: &'static [Self];
    /// The name and documentation of every value, in the same order.
    const CHOICES: &'static [Choice];

    /// Its name in a configuration.
    fn name(self) -> &'static str {
        let place = Self::VALUES.iter().position(|value| *value == self);
        Self::CHOICES[place.expect("every value is listed")].name
    }

    /// The value of this name.
    fn named(name: &str) -> Option<Self> {
        let place = Self::CHOICES.iter().position(|choice| choice.name == name)?;
        Self::VALUES.get(place).copied()
    }
}

/// The names in quotes, as a message lists them.
pub(crate) fn listed(choices: &[Choice]) -> String {
    let quoted: Vec<String> = choices.iter().map(|choice| format!("{:?}", choice.name)).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
    }
}
