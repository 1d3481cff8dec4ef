//! Documentation comments as text.

/// The lines of a documentation comment: a summary, and paragraphs after a blank line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doc(&'static [&'static str]);

impl Doc {
    /// A comment from its lines.
    pub const fn new(lines: &'static [&'static str]) -> Self {
        Self(lines)
    }

    /// The first paragraph, on one line.
    pub fn summary(self) -> String {
        self.paragraphs().next().unwrap_or_default()
    }

    /// The other paragraphs, each on one line.
    pub fn details(self) -> Vec<String> {
        self.paragraphs().skip(1).collect()
    }

    fn paragraphs(self) -> impl Iterator<Item = String> {
        let paragraphs = self.0.split(|line| line.trim().is_empty());
        paragraphs
            .map(|lines| lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "))
            .filter(|paragraph| !paragraph.is_empty())
    }
}
