//! A name that a key takes, and lists of them.

use crate::doc::Doc;

/// One of the names that a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its name in a configuration.
    pub name: &'static str,
    /// What it means.
    pub doc: Doc,
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
