//! TOML text, and names that are nearly right.

use toml::Table;

/// Reads TOML text that a message calls `origin`.
///
/// # Errors
/// If it is not TOML, with the place. The line itself is not shown: a file given by mistake may be one long line.
pub fn parse_toml(origin: &str, text: &str) -> Result<Table, String> {
    // Some editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.parse::<Table>().map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{origin}: not TOML: {} at line {line}, column {column}", error.message())
    })
}

/// The candidate that `name` was most likely meant to be, if any is close.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (similarity(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// How alike two names are, from 0 to 1.
pub fn similarity(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}
