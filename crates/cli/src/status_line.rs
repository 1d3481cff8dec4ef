//! A line at the foot of a terminal that another program writes to.
//!
//! The rows above it are made the terminal's scrolling region, as apt does under dpkg, so that what the other
//! program prints never runs into the line. Programs that draw on the whole screen do so over it.

use std::io::{self, Write};

use rustix::termios::tcgetwinsize;

use crate::terminal::is_drawn_on;

/// Fewest rows with which a line is set apart.
const MIN_ROWS: u16 = 5;

/// The last row of the terminal on standard error. It is given back on drop.
pub struct StatusLine {
    rows: u16,
    columns: u16,
}

impl StatusLine {
    /// Takes the last row, if standard error is a terminal that can spare it.
    pub fn take() -> Option<Self> {
        if !is_drawn_on() {
            return None;
        }
        let (rows, columns) = size()?;
        let mut line = Self { rows, columns };
        // A line end first: what stands on the last row is scrolled up and kept.
        line.print(&format!("\n{}\x1b[1A", region(rows)));
        Some(line)
    }

    /// Shows `text`, cut to the terminal's width.
    pub fn show(&mut self, text: &str) {
        if let Some((rows, columns)) = size()
            && (rows, columns) != (self.rows, self.columns)
        {
            (self.rows, self.columns) = (rows, columns);
            self.print(&region(rows));
        }
        let text: String = text.chars().take(usize::from(self.columns)).collect();
        self.print(&format!("\x1b7\x1b[{};1H\x1b[2K\x1b[7m{text}\x1b[0m\x1b8", self.rows));
    }

    fn print(&mut self, text: &str) {
        let mut stderr = io::stderr().lock();
        // A terminal that has gone away needs no line.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.print(&format!("\x1b7\x1b[r\x1b[{};1H\x1b[2K\x1b8", self.rows));
    }
}

/// Rows and columns, if there are enough rows.
fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stderr()).ok()?;
    (size.ws_row >= MIN_ROWS && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Makes all rows but the last scroll; setting a region moves the cursor, so its place is kept.
fn region(rows: u16) -> String {
    format!("\x1b7\x1b[1;{}r\x1b8", rows - 1)
}
