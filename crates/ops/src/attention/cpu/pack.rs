//! Heads copied into scratch, in rows or transposed, and filled up with zeros.

use super::PANEL;
use crate::heads::HeadRows;

/// Rows of one head in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) values: &'a [f32],
    pub(super) rows: HeadRows,
    pub(super) head: usize,
    pub(super) width: usize,
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn row(&self, row: usize) -> &'a [f32] {
        &self.values[self.rows.start(row, self.head, self.width)..][..self.width]
    }
}

/// Copies rows `first..first + n` times `scale` to rows of `padded_width`; zeros after them to the end of
/// `out`.
#[inline(always)]
pub(super) fn rows(out: &mut [f32], head: Head<'_>, first: usize, n: usize, scale: f32, padded_width: usize) {
    let (rows, rest) = out.split_at_mut(n * padded_width);
    for (row, out) in rows.chunks_exact_mut(padded_width).enumerate() {
        let (out, padding) = out.split_at_mut(head.width);
        for (out, &x) in out.iter_mut().zip(head.row(first + row)) {
            *out = x * scale;
        }
        if !padding.is_empty() {
            padding.fill(0.0);
        }
    }
    if !rest.is_empty() {
        rest.fill(0.0);
    }
}

/// Transposes rows `first..first + n` into panels: row `32·p + j` becomes column `j` of panel `p`, which has
/// `head.width` rows of 32. Columns after the last row are zero.
#[inline(always)]
pub(super) fn panels(out: &mut [f32], head: Head<'_>, first: usize, n: usize) {
    for (panel_idx, panel) in
        out[..n.div_ceil(PANEL) * PANEL * head.width].chunks_exact_mut(PANEL * head.width).enumerate()
    {
        let n_columns = PANEL.min(n - panel_idx * PANEL);
        if n_columns < PANEL {
            panel.fill(0.0);
        }
        let first = first + panel_idx * PANEL;
        let whole = if n_columns == PANEL { head.width / 4 * 4 } else { 0 };
        for column in (0..PANEL).step_by(4).take_while(|_| whole > 0) {
            let first = first + column;
            let rows = [first, first + 1, first + 2, first + 3];
            let rows = [head.row(rows[0]), head.row(rows[1]), head.row(rows[2]), head.row(rows[3])];
            transpose_fours(&mut panel[column..], rows);
        }
        for column in 0..n_columns {
            let row = &head.row(first + column)[whole..];
            for (out, &x) in panel[whole * PANEL..].chunks_exact_mut(PANEL).zip(row) {
                out[column] = x;
            }
        }
    }
}

/// Four rows become four columns of a panel, in squares of 4 × 4, which the compiler keeps in registers.
#[inline(always)]
fn transpose_fours(panel: &mut [f32], rows: [&[f32]; 4]) {
    let [a, b, c, d] = rows;
    let fours = a.chunks_exact(4).zip(b.chunks_exact(4)).zip(c.chunks_exact(4).zip(d.chunks_exact(4)));
    for (k, ((a, b), (c, d))) in fours.enumerate() {
        for i in 0..4 {
            panel[(4 * k + i) * PANEL..][..4].copy_from_slice(&[a[i], b[i], c[i], d[i]]);
        }
    }
}
