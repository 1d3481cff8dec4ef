//! Whether to draw on the terminal.

use std::ffi::OsStr;
use std::io::{IsTerminal, stderr};

/// Whether standard error is a terminal that may be drawn on in colours and bars: not where `NO_COLOR` is set to
/// anything (<https://no-color.org>), nor on a terminal that is called dumb or nothing.
pub fn is_drawn_on() -> bool {
    let variable = |name: &str| std::env::var_os(name);
    stderr().is_terminal() && allows(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
}

fn allows(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_and_dumb_terminals_are_left_plain() {
        let allows = |no_color: Option<&str>, term: Option<&str>| {
            allows(no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(allows(None, Some("xterm-256color")) && allows(Some(""), Some("xterm")));
        for (no_color, term) in [(Some("1"), Some("xterm")), (Some("0"), Some("xterm")), (None, None)] {
            assert!(!allows(no_color, term));
        }
        assert!(!allows(None, Some("dumb")) && !allows(None, Some("")));
    }
}
