//! Aligned columns, at most eighty characters wide.

/// Width of a standard terminal. No table is wider.
pub const WIDTH: usize = 80;

/// In a table that would be too wide, longer names get a line of their own.
const NAME: usize = 24;

/// Space before the first column and between columns.
const GAP: usize = 2;

/// A table of text. Its first column names the rows.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Columns that are read from the left; all others are numbers.
    left: Vec<usize>,
}

impl Table {
    /// A table with these headings; the columns in `left` are words, the others numbers.
    pub fn new<'a>(headings: impl IntoIterator<Item = &'a str>, left: &[usize]) -> Self {
        let headings = headings.into_iter().map(str::to_owned).collect();
        Self { rows: vec![headings], left: left.to_vec() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table's lines, indented by two and at most [`WIDTH`] wide. Empty columns are left out. Columns that do not
    /// fit follow in another block below, with the row names repeated.
    pub fn lines(&self) -> Vec<String> {
        let mut widths = self.widths();
        if total(&widths) > WIDTH
            && let Some(name) = widths.first_mut()
        {
            *name = (*name).min(NAME);
        }
        let blocks = blocks(&mut widths);
        let lines = |(i, columns): (usize, &Vec<usize>)| {
            let mut lines = if i > 0 { vec![String::new()] } else { Vec::new() };
            lines.extend(self.rows.iter().flat_map(|row| self.row_lines(row, columns, &widths)));
            lines
        };
        blocks.iter().enumerate().flat_map(lines).collect()
    }

    /// The width of each column; 0 for a column that is empty below its heading.
    fn widths(&self) -> Vec<usize> {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = || self.rows.iter().filter_map(move |row| row.get(column));
            let is_empty = cells().skip(1).all(String::is_empty);
            if is_empty { 0 } else { cells().map(|cell| length(cell)).max().unwrap_or(0) }
        };
        (0..n_columns).map(width).collect()
    }

    /// One row in these columns: one line, preceded by the name if that is too long for its column.
    fn row_lines(&self, row: &[String], columns: &[usize], widths: &[usize]) -> Vec<String> {
        let name = row.first().map_or("", String::as_str);
        let is_long = columns.first() == Some(&0) && length(name) > widths[0];
        let cells = columns.iter().map(|&column| {
            let cell = row.get(column).map_or("", String::as_str);
            let (cell, width) = (if is_long && column == 0 { "" } else { cell }, widths[column]);
            let cell = cut(cell, width);
            if self.left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned();
        let mut lines = Vec::new();
        if is_long {
            lines.extend(wrap(name, WIDTH - GAP).into_iter().map(|part| format!("  {part}")));
        }
        lines.push(line);
        lines
    }
}

/// Splits the columns into blocks that fit, each starting with the first column.
fn blocks(widths: &mut [usize]) -> Vec<Vec<usize>> {
    let name = widths.first().copied().unwrap_or(0);
    let names: Vec<usize> = if name > 0 { vec![0] } else { Vec::new() };
    let start = if name > 0 { GAP + name } else { 0 };
    let mut blocks = vec![names.clone()];
    let mut used = start;
    for (column, width) in widths.iter_mut().enumerate().skip(1).filter(|(_, width)| **width > 0) {
        *width = (*width).min(WIDTH - start - GAP);
        if used + GAP + *width > WIDTH {
            blocks.push(names.clone());
            used = start;
        }
        used += GAP + *width;
        if let Some(block) = blocks.last_mut() {
            block.push(column);
        }
    }
    blocks
}

fn total(widths: &[usize]) -> usize {
    widths.iter().filter(|width| **width > 0).map(|width| GAP + width).sum()
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Shortens a text with an ellipsis if it is too long.
fn cut(text: &str, width: usize) -> String {
    if length(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// Breaks a text into lines of at most `width` characters, between words where possible.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let letters: Vec<char> = word.chars().collect();
        for part in letters.chunks(width.max(1)) {
            let part: String = part.iter().collect();
            match lines.last_mut() {
                Some(line) if length(line) + 1 + length(word) <= width => {
                    line.push(' ');
                    line.push_str(&part);
                }
                _ => lines.push(part),
            }
        }
    }
    lines
}

/// Wraps a text to [`WIDTH`]. The first line starts with `first`; the others are indented to match.
pub fn hang(first: &str, text: &str) -> Vec<String> {
    let indent = length(first);
    let place = |(i, line): (usize, &String)| match i {
        0 => format!("{first}{line}"),
        _ => format!("{:indent$}{line}", ""),
    };
    wrap(text, WIDTH.saturating_sub(indent)).iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_empty_ones_left_out() {
        let mut table = Table::new(["what", "cost", "energy"], &[0]);
        table.row(["a".to_owned(), String::new(), "118 J".to_owned()]);
        table.row(["longer".to_owned(), String::new(), "4.12 ± 0.03 kJ".to_owned()]);
        let expected = ["  what            energy", "  a                118 J", "  longer  4.12 ± 0.03 kJ"];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn what_does_not_fit_stands_below_and_nothing_is_lost() {
        let headings: Vec<String> = (0..12).map(|i| format!("heading-{i}")).collect();
        let mut table = Table::new(headings.iter().map(String::as_str), &[0]);
        let long =
            "a-name-that-somebody-gave-to-a-run-with-all-its-keys-in-it-and-then-some-more-of-them-seed-1";
        table.row(std::iter::once(long.to_owned()).chain((1..12).map(|i| format!("cell-{i}"))));
        table.row(std::iter::once("short".to_owned()).chain((1..12).map(|i| "9".repeat(i + 3))));
        let lines = table.lines();
        assert!(lines.iter().all(|line| length(line) <= WIDTH), "{lines:#?}");
        let text = lines.join("\n");
        assert!((1..12).all(|i| text.contains(&format!("cell-{i}"))), "{text}");
        assert!(text.contains(&long[..70]) && text.contains("seed-1"), "{text}");
        assert_eq!(text.matches("short").count(), 3, "{text}");
    }

    #[test]
    fn words_stay_whole_where_they_fit() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a 0123456789 b", 4), ["a", "0123", "4567", "89 b"]);
        assert_eq!(hang("- ", "one two"), ["- one two"]);
    }
}
