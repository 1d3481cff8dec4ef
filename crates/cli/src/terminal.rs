//! Standard output, and what may be written to a terminal.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal, Write, stderr, stdout};

/// Standard output takes no more: its reader has gone, or its disk is full.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct StdoutError(#[from] io::Error);

impl StdoutError {
    /// Whether its reader has gone, as `head` does when it has seen enough.
    pub fn is_closed_pipe(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Writes a command's result to standard output. On a terminal, control characters other than line ends and tabs are
/// escaped: a model's or a file's text must not set the title, write the clipboard or move the cursor.
///
/// # Errors
/// If not all of it can be written.
pub fn print(text: &str) -> Result<(), StdoutError> {
    print_raw(&for_stdout(text))
}

/// [`print()`], and the end of a line.
///
/// # Errors
/// If not all of it can be written.
pub fn print_line(text: &str) -> Result<(), StdoutError> {
    print(&format!("{text}\n"))
}

/// Writes `text` to standard output as it is.
///
/// # Errors
/// If not all of it can be written.
pub fn print_raw(text: &str) -> Result<(), StdoutError> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Whether standard error is a terminal that may be drawn on in colours and bars: not where `NO_COLOR` is set to
/// anything (<https://no-color.org>), nor on a terminal that is called dumb or nothing.
pub fn is_drawn_on() -> bool {
    let variable = |name: &str| std::env::var_os(name);
    stderr().is_terminal() && allows(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
}

/// Whether standard output is such a terminal.
#[cfg(feature = "train")]
pub fn is_coloured() -> bool {
    let variable = |name: &str| std::env::var_os(name);
    stdout().is_terminal() && allows(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
}

fn allows(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty) && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// `text` as [`print()`] writes it.
fn for_stdout(text: &str) -> Cow<'_, str> {
    if stdout().is_terminal() { escaped(text) } else { Cow::Borrowed(text) }
}

/// `text` with control characters other than line ends and tabs escaped.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_active = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_active(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_drives_a_terminal() {
        assert_eq!(escaped("naïve\tcafé\n"), "naïve\tcafé\n");
        // The clipboard, by OSC 52; a line drawn over; a C1 control; DEL.
        assert_eq!(
            escaped("a\x1b]52;c;eA==\x07b\rc\u{9b}2J\x7f"),
            "a\\u{1b}]52;c;eA==\\u{7}b\\rc\\u{9b}2J\\u{7f}"
        );
    }

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
