//! Rotary positions.

use super::bench::Bench;
use crate::HeadRows;
use crate::board::BoardError;
use crate::rope::board::{Heads, bwd, fwd};
use crate::rope::{Rotary, Scaling, cpu};
use crate::verify::Check;
use crate::verify::cpu::embedding::documents;

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for [b, t, n_heads, d] in [[2, 9, 3, 14], [1, 16, 4, 32], [3, 5, 1, 64]] {
        for (gap, way) in [(6, "plain"), (8, "packs")] {
            for is_packed in [false, true] {
                all.extend(turn(bench, [b, t, n_heads, d], gap, is_packed, way)?);
            }
        }
    }
    Ok(all)
}

/// Heads of queries in rows that go on with other columns, `gap` of them, which must stay.
fn turn(
    bench: &mut Bench<'_>,
    [b, t, n_heads, d]: [usize; 4],
    gap: usize,
    is_packed: bool,
    way: &str,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (n, row_stride) = (b * t, n_heads * d + gap);
    let rotary = Rotary::new(10_000.0, d, t + 3, Scaling::None);
    let (mut x, x_ptr) = bench.normal(0, n * row_stride)?;
    let (mut grad, grad_ptr) = bench.normal(1, n * row_stride)?;
    let (cos, sin) = (bench.put_f32(rotary.cos())?, bench.put_f32(rotary.sin())?);
    let starts = is_packed.then(|| documents(n, t));
    let documents = starts.as_ref().map(|starts| bench.put_u32(starts)).transpose()?;
    let heads = Heads { n, row_stride, n_heads, d, t, cos, sin, documents };
    bench.board.choices().trying(way, || {
        fwd(bench.board, x_ptr, &heads)?;
        bwd(bench.board, grad_ptr, &heads)
    })?;
    let rows = HeadRows { offset: 0, row_stride };
    cpu::fwd(&mut x, rows, n, n_heads, t, starts.as_deref(), &rotary);
    cpu::bwd(&mut grad, rows, n, n_heads, t, starts.as_deref(), &rotary);
    let subject = bench.subject(
        "rope",
        format!("({b}, {t}, {n_heads}, {d}){}, {way}", if is_packed { " within documents" } else { "" }),
    );
    Ok(vec![
        bench.check(&subject, "out", x_ptr, &x, 1.0, 4)?,
        bench.check(&subject, "grad_x", grad_ptr, &grad, 1.0, 4)?,
    ])
}
