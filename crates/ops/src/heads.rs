//! Where the vectors of attention heads lie among other columns.

/// Heads side by side within rows of a buffer: head `h` of row `r` starts at
/// `offset + r · row_stride + h · head_width`.
///
/// So query, key and value can lie in one row (n, 3c) as a fused projection leaves them, or each in a block of
/// its own, one after the other in the same buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRows {
    /// Index of the first row's first head.
    pub offset: usize,
    /// From one row to the next.
    pub row_stride: usize,
}

impl HeadRows {
    #[inline(always)]
    pub(crate) fn start(&self, row: usize, head: usize, head_width: usize) -> usize {
        self.offset + row * self.row_stride + head * head_width
    }

    /// Refuses rows whose heads would overlap the next row or the end of a buffer.
    pub(crate) fn check(&self, what: &str, len: usize, n_rows: usize, width: usize) {
        assert!(self.row_stride >= width, "{what}: heads take {width} of a row, stride {}", self.row_stride);
        let end = self.offset + n_rows.saturating_sub(1) * self.row_stride + width;
        assert!(n_rows == 0 || end <= len, "{what}: {n_rows} rows end at {end} of a buffer of {len}");
    }
}
