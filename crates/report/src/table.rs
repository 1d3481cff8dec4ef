//! Aligned columns on a terminal.

/// A table of text.
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

    /// The table's lines, indented by two. A column without any content is left out.
    pub fn lines(&self) -> Vec<String> {
        let n_columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = || self.rows.iter().filter_map(move |row| row.get(column));
            let is_empty = cells().skip(1).all(String::is_empty);
            if is_empty { 0 } else { cells().map(|cell| cell.chars().count()).max().unwrap_or(0) }
        };
        let widths: Vec<_> = (0..n_columns).map(width).collect();
        self.rows.iter().map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = row.iter().zip(widths).enumerate().filter(|(_, (_, width))| **width > 0);
        let padded = cells.map(|(column, (cell, &width))| match self.left.contains(&column) {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        format!("  {}", padded.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    }
}

/// Breaks a text into lines of at most `width` characters, words whole.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
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
    fn words_stay_whole() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    }
}
