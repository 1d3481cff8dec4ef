//! Decoding: rows of two texts in one pass, in no order of their places, with one that belongs to none.

use wattle_random::{Purpose, Stream};

use super::bench::Bench;
use crate::HeadRows;
use crate::attention::{Kind, cpu};
use crate::board::{BoardError, DeviceTensor, Ptr};
use crate::decode::board::{
    Cache, Linear, NO_SLOT, Rows, Scratch, Shape, attend, embed, gather, linear, store,
};
use crate::rope::{Rotary, Scaling, cpu as rope};
use crate::verify::Check;

/// (t of the longer text, heads of queries, heads of keys, width of a head)
const TABLE: [[usize; 4]; 5] = [[1, 1, 1, 8], [9, 7, 7, 42], [70, 2, 1, 16], [11, 6, 2, 64], [5, 2, 1, 136]];
const KINDS: [Kind; 4] = [Kind::Causal, Kind::Window(1), Kind::Window(5), Kind::Window(67)];
/// The place of each text.
const SLOTS: [u32; 2] = [2, 0];
const N_SLOTS: usize = 3;

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = vec![rows_of_tables(bench, [7, 41])?, rows_of_tables(bench, [5, 768])?];
    for shape in TABLE {
        for kind in KINDS {
            all.push(decode(bench, shape, kind, true)?);
        }
        all.push(decode(bench, shape, Kind::Causal, false)?);
    }
    for [n_in, n_out] in [[41, 9], [24, 130], [776, 48]] {
        for n in [1, 2, 4, 16] {
            for output_first in [false, true] {
                all.push(product(bench, [n, n_in, n_out], output_first, false)?);
            }
            all.push(product(bench, [n, n_in, n_out], true, true)?);
        }
    }
    Ok(all)
}

/// A linear layer of few rows, whose result is of the type at hand or, `widened`, in `f32`.
fn product(
    bench: &mut Bench<'_>,
    [n, n_in, n_out]: [usize; 3],
    output_first: bool,
    widened: bool,
) -> Result<Check, BoardError> {
    bench.clear();
    let (x, x_ptr) = bench.normal(0, n * n_in)?;
    let (w, weight) = bench.normal(1, n_in * n_out)?;
    let (b, bias) = bench.normal(2, n_out)?;
    let out: DeviceTensor =
        if widened { bench.room_of::<f32>(n * n_out)?.into() } else { bench.room(n * n_out)? };
    let bias = (!widened).then_some(bias);
    linear(bench.board, out, x_ptr, &Linear { weight, bias, n_in, n_out, output_first }, n)?;
    let of_weight = |i: usize, o: usize| if output_first { w[o * n_in + i] } else { w[i * n_out + o] };
    let element = |r: usize, o: usize| {
        let sum: f64 = (0..n_in).map(|i| f64::from(x[r * n_in + i]) * f64::from(of_weight(i, o))).sum();
        (sum + if widened { 0.0 } else { f64::from(b[o]) }) as f32
    };
    let expected: Vec<f32> =
        (0..n).flat_map(|r| (0..n_out).map(move |o| (r, o))).map(|(r, o)| element(r, o)).collect();
    let order = if output_first { "(out, in)" } else { "(in, out)" };
    let subject = bench.subject("decode", format!("linear ({n}, {n_in}) by {order}, {n_out} columns"));
    match widened {
        true => bench.check_f32(&subject, "out", Ptr::new(out.bytes()), &expected, n_in),
        false => bench.check(&subject, "out", out, &expected, 1.0, n_in),
    }
}

/// Rows of tables by explicit positions, and then some of them in another order.
fn rows_of_tables(bench: &mut Bench<'_>, [n, c]: [usize; 2]) -> Result<Check, BoardError> {
    const TABLE_ROWS: usize = 11;
    bench.clear();
    let stream = Stream::new(1, Purpose::Order, 0);
    let words = |start: u64| -> Vec<u32> {
        (start..start + n as u64).map(|i| stream.word(i) % TABLE_ROWS as u32).collect()
    };
    let (tokens, positions, picked) =
        (words(0), words(64), words(128).iter().map(|i| i % n as u32).collect());
    let picked: Vec<u32> = picked;
    let (table, table_ptr) = bench.normal(0, TABLE_ROWS * c)?;
    let (position_table, position_ptr) = bench.normal(1, TABLE_ROWS * c)?;
    let rows = Rows {
        n,
        tokens: bench.put_u32(&tokens)?,
        slots: bench.put_u32(&vec![0; n])?,
        positions: bench.put_u32(&positions)?,
    };
    let (picked_ptr, x, out) = (bench.put_u32(&picked)?, bench.room(n * c)?, bench.room(n * c)?);
    embed(bench.board, x, &rows, table_ptr, Some(position_ptr), c)?;
    gather(bench.board, out, x, picked_ptr, [n, c])?;
    let row = |table: &[f32], row: u32, i: usize| table[row as usize * c + i];
    let expected: Vec<f32> = picked
        .iter()
        .flat_map(|&r| (0..c).map(move |i| (r as usize, i)))
        .map(|(r, i)| row(&table, tokens[r], i) + row(&position_table, positions[r], i))
        .collect();
    bench.check(&bench.subject("decode", format!("rows of tables ({n}, {c})")), "out", out, &expected, 1.0, 1)
}

/// All rows of both texts at once against the CPU's attention of whole sequences.
fn decode(
    bench: &mut Bench<'_>,
    [t, n_heads, n_kv_heads, d]: [usize; 4],
    kind: Kind,
    turns: bool,
) -> Result<Check, BoardError> {
    bench.clear();
    // Of each text a sequence of t rows on the CPU, of which the second is not used to its end.
    let (lens, room, width) = ([t, t.div_ceil(3)], t + 3, (n_heads + 2 * n_kv_heads) * d);
    let shape = Shape { n_heads, n_kv_heads, d, n_slots: N_SLOTS, room, context: room, kind };
    let (qkv, _) = bench.normal(0, 2 * t * width)?;
    let rotary = Rotary::new(10_000.0, d, room, Scaling::None);
    let angles = [bench.put_f32(rotary.cos())?, bench.put_f32(rotary.sin())?];
    // Positions count down, and texts take turns: no row depends on its neighbours.
    let mut order: Vec<[usize; 2]> = (0..2).flat_map(|i| (0..lens[i]).map(move |p| [p, i])).collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    let n = order.len() + 1;
    let mut words = [vec![], vec![], vec![]];
    let mut rows_of = Vec::new();
    for &[position, text] in &order {
        words[0].push(0);
        words[1].push(SLOTS[text]);
        words[2].push(position as u32);
        rows_of.extend_from_slice(&qkv[(text * t + position) * width..][..width]);
    }
    words[0].push(0);
    words[1].push(NO_SLOT);
    words[2].push(0);
    rows_of.extend(vec![1.0; width]);
    let qkv_ptr = bench.put(&rows_of)?;
    let [tokens, slots, positions] = [0, 1, 2].map(|i| bench.put_u32(&words[i]));
    let rows = Rows { n, tokens: tokens?, slots: slots?, positions: positions? };
    let cache = Cache { keys: bench.room(shape.cache_len())?, values: bench.room(shape.cache_len())? };
    let scratch =
        Scratch { partial: bench.room_of(shape.partial_len(n))?, stats: bench.room_of(shape.stats_len(n))? };
    let out: DeviceTensor = bench.room(n * n_heads * d)?;
    store(bench.board, qkv_ptr, &rows, &cache, &shape, turns.then_some(angles))?;
    attend(bench.board, out, qkv_ptr, &rows, &cache, &shape, &scratch)?;
    let of_cpu = whole(qkv, [t, n_heads, n_kv_heads, d], kind, turns.then_some(&rotary));
    let row = |&[position, text]: &[usize; 2]| {
        of_cpu[(text * t + position) * n_heads * d..][..n_heads * d].to_vec()
    };
    let mut expected: Vec<f32> = order.iter().flat_map(row).collect();
    expected.extend(vec![0.0; n_heads * d]);
    let turned = if turns { ", turned" } else { "" };
    let subject = bench.subject("decode", format!("({t}, {n_heads}/{n_kv_heads}, {d}) {kind:?}{turned}"));
    // Turned queries and keys are rounded before they are multiplied, and the result is.
    bench.check(&subject, "out", out, &expected, if turns { 3.0 } else { 1.0 }, 64 + t)
}

/// Attention of two sequences, positions turned beforehand.
fn whole(
    mut qkv: Vec<f32>,
    [t, n_heads, n_kv_heads, d]: [usize; 4],
    kind: Kind,
    rotary: Option<&Rotary>,
) -> Vec<f32> {
    let shape = cpu::Shape { t, n_heads, n_kv_heads, head_width: d, kind };
    let row_stride = (n_heads + 2 * n_kv_heads) * d;
    if let Some(rotary) = rotary {
        rope::fwd(&mut qkv, HeadRows { offset: 0, row_stride }, 2 * t, n_heads + n_kv_heads, t, None, rotary);
    }
    let (mut out, mut lse) = (vec![0.0; 2 * t * n_heads * d], vec![0.0; 2 * n_heads * t]);
    let mut scratch = vec![0.0; shape.fwd_scratch_len()];
    cpu::fwd(&mut out, &mut lse, &qkv, &cpu::QkvLayout::fused(&shape), &shape, None, None, &mut scratch);
    out
}
