//! LayerNorm and RMSNorm.

use super::SHAPES;
use super::bench::Bench;
use super::embedding::site;
use crate::Store;
use crate::board::BoardError;
use crate::dropout::board::Site;
use crate::dropout::cpu as dropout;
use crate::head_norm::{board as head_board, cpu as head};
use crate::heads::HeadRows;
use crate::layer_norm::{board as layer_board, cpu as layer};
use crate::rms_norm::{board as rms_board, cpu as rms};
use crate::verify::Check;

const EPS: f32 = 1e-5;
/// Rows of more than four packs a lane in bfloat16.
const WIDE: [usize; 2] = [3, 1536];
/// `held` is only for what drops nothing.
const RESIDUAL_WAYS: [&str; 2] = ["plain", "held"];

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for shape in SHAPES.into_iter().chain([WIDE]) {
        for with_bias in [true, false] {
            all.extend(layer_norm(bench, shape, with_bias)?);
            for way in RESIDUAL_WAYS {
                all.extend(layer_norm_residual(bench, shape, with_bias, way)?);
            }
        }
        all.extend(rms_norm(bench, shape)?);
        for way in RESIDUAL_WAYS {
            all.extend(rms_norm_residual(bench, shape, way)?);
        }
        all.extend(rms_norm_add(bench, shape)?);
        for n_heads in [1, 3] {
            all.extend(head_norm(bench, shape, n_heads)?);
        }
    }
    Ok(all)
}

/// How gradients of rows are stored, and made.
fn stores_and_ways() -> impl Iterator<Item = (Store, &'static str)> {
    let stores = [Store::Overwrite, Store::Accumulate];
    stores.into_iter().flat_map(|store| ["apart", "fused"].map(|way| (store, way)))
}

fn layer_norm(bench: &mut Bench<'_>, [n, c]: [usize; 2], with_bias: bool) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (x, x_ptr) = bench.normal(0, n * c)?;
    let (weight, weight_ptr) = bench.normal(1, c)?;
    let (bias, bias_ptr) = bench.normal(2, c)?;
    let (grad_out, grad_out_ptr) = bench.normal(3, n * c)?;
    let normed =
        layer_board::Normed { out: bench.room(n * c)?, mean: bench.room_of(n)?, rstd: bench.room_of(n)? };
    let norm = layer_board::Norm { n, c, weight: weight_ptr, bias: with_bias.then_some(bias_ptr), eps: EPS };
    layer_board::fwd(bench.board, &normed, x_ptr, &norm)?;
    let (mut out, mut mean, mut rstd) = (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
    let of_cpu = layer::Norm { weight: &weight, bias: with_bias.then_some(&bias), eps: EPS };
    layer::fwd(&mut out, layer::Stats { mean: &mut mean, rstd: &mut rstd }, &x, &of_cpu);
    let subject =
        bench.subject("layer_norm", format!("({n}, {c}){}", if with_bias { "" } else { ", no bias" }));
    let mut checks = vec![
        bench.check(&subject, "out", normed.out, &out, 1.0, c)?,
        bench.check_f32(&subject, "mean", normed.mean, &mean, c)?,
        bench.check_f32(&subject, "rstd", normed.rstd, &rstd, c)?,
    ];

    for (store, way) in stores_and_ways() {
        let subject = bench.subject(subject.op, format!("{}, gradients {way}", subject.shape));
        let (mut grad_x, grad_x_ptr) = bench.normal(5, n * c)?;
        let (mut grad_weight, mut grad_bias) = (vec![0.5; c], vec![0.25; c]);
        let gradients = layer_board::Gradients {
            x: grad_x_ptr,
            accumulate: store == Store::Accumulate,
            weight: bench.put_f32(&grad_weight)?,
            bias: with_bias.then(|| bench.put_f32(&grad_bias)).transpose()?,
        };
        let mut sums = bench.sums(layer_board::bwd_scratch_len(n, c), Store::Accumulate)?;
        bench.board.choices().trying(way, || {
            layer_board::bwd(bench.board, &gradients, grad_out_ptr, x_ptr, &normed, &norm, &mut sums)
        })?;
        sums.finish(bench.board)?;
        let saved = layer::Saved { x: &x, mean: &mean, rstd: &rstd };
        let of_bias = with_bias.then_some(&mut grad_bias[..]);
        layer::bwd(&mut grad_x, store, &mut grad_weight, of_bias, &grad_out, saved, &weight);
        checks.push(bench.check(&subject, "grad_x", grad_x_ptr, &grad_x, 1.0, c)?);
        checks.push(bench.check_f32(&subject, "grad_weight", gradients.weight, &grad_weight, n)?);
        if let Some(bias) = gradients.bias {
            checks.push(bench.check_f32(&subject, "grad_bias", bias, &grad_bias, n)?);
        }
    }
    Ok(checks)
}

/// With dropout of what is added, and a bias to it.
fn layer_norm_residual(
    bench: &mut Bench<'_>,
    [n, c]: [usize; 2],
    with_bias: bool,
    way: &str,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (site, of_cpu) = site(bench, c)?;
    let site = if way == "held" { Site::NONE } else { site };
    let (x, x_ptr) = bench.normal(0, n * c)?;
    let (mut branch, branch_ptr) = bench.normal(1, n * c)?;
    let (addend, addend_ptr) = bench.normal(2, c)?;
    let (weight, weight_ptr) = bench.normal(3, c)?;
    let normed =
        layer_board::Normed { out: bench.room(n * c)?, mean: bench.room_of(n)?, rstd: bench.room_of(n)? };
    let sum_ptr = bench.room(n * c)?;
    let norm = layer_board::Norm { n, c, weight: weight_ptr, bias: None, eps: EPS };
    let bias = with_bias.then_some(addend_ptr);
    let added = layer_board::Addend { rows: branch_ptr, bias, site: &site };
    let choices = bench.board.choices();
    choices.trying(way, || layer_board::residual_fwd(bench.board, sum_ptr, &normed, x_ptr, &added, &norm))?;
    if with_bias {
        branch.chunks_exact_mut(c).for_each(|row| row.iter_mut().zip(&addend).for_each(|(x, y)| *x += y));
    }
    if way != "held" {
        dropout::fwd(&mut branch, c, &of_cpu);
    }
    let sum: Vec<f32> = x.iter().zip(&branch).map(|(x, y)| x + y).collect();
    // Rows are normalized as they are stored.
    let stored = bench.get(sum_ptr, n * c)?;
    let (mut out, mut mean, mut rstd) = (vec![0.0; n * c], vec![0.0; n], vec![0.0; n]);
    let of_cpu = layer::Norm { weight: &weight, bias: None, eps: EPS };
    layer::fwd(&mut out, layer::Stats { mean: &mut mean, rstd: &mut rstd }, &stored, &of_cpu);
    let subject = bench.subject("layer_norm", format!("({n}, {c}) behind a residual addition, {way}"));
    Ok(vec![
        bench.check(&subject, "sum", sum_ptr, &sum, 1.0, 4)?,
        bench.check(&subject, "out", normed.out, &out, 1.0, c)?,
        bench.check_f32(&subject, "rstd", normed.rstd, &rstd, c)?,
    ])
}

fn rms_norm(bench: &mut Bench<'_>, [n, c]: [usize; 2]) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (x, x_ptr) = bench.normal(0, n * c)?;
    let (weight, weight_ptr) = bench.normal(1, c)?;
    let (grad_out, grad_out_ptr) = bench.normal(3, n * c)?;
    let normed = rms_board::Normed { out: bench.room(n * c)?, rstd: bench.room_of(n)? };
    let norm = rms_board::Norm { n, c, weight: weight_ptr, eps: EPS };
    rms_board::fwd(bench.board, &normed, x_ptr, &norm)?;
    let (mut out, mut rstd) = (vec![0.0; n * c], vec![0.0; n]);
    rms::fwd(&mut out, &mut rstd, &x, &rms::Norm { weight: &weight, eps: EPS });
    let subject = bench.subject("rms_norm", format!("({n}, {c})"));
    let mut checks = vec![
        bench.check(&subject, "out", normed.out, &out, 1.0, c)?,
        bench.check_f32(&subject, "rstd", normed.rstd, &rstd, c)?,
    ];
    for (store, way) in stores_and_ways() {
        let subject = bench.subject(subject.op, format!("{}, gradients {way}", subject.shape));
        let (mut grad_x, grad_x_ptr) = bench.normal(5, n * c)?;
        let mut grad_weight = vec![0.5; c];
        let gradients = rms_board::Gradients {
            x: grad_x_ptr,
            accumulate: store == Store::Accumulate,
            weight: bench.put_f32(&grad_weight)?,
        };
        let mut sums = bench.sums(rms_board::bwd_scratch_len(n, c), Store::Accumulate)?;
        bench.board.choices().trying(way, || {
            rms_board::bwd(bench.board, &gradients, grad_out_ptr, x_ptr, &normed, &norm, &mut sums)
        })?;
        sums.finish(bench.board)?;
        let saved = rms::Saved { x: &x, rstd: &rstd };
        rms::bwd(&mut grad_x, store, &mut grad_weight, &grad_out, saved, &weight);
        checks.push(bench.check(&subject, "grad_x", grad_x_ptr, &grad_x, 1.0, c)?);
        checks.push(bench.check_f32(&subject, "grad_weight", gradients.weight, &grad_weight, n)?);
    }
    Ok(checks)
}

fn rms_norm_residual(bench: &mut Bench<'_>, [n, c]: [usize; 2], way: &str) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (site, of_cpu) = site(bench, c)?;
    let site = if way == "held" { Site::NONE } else { site };
    let (x, x_ptr) = bench.normal(0, n * c)?;
    let (mut branch, branch_ptr) = bench.normal(1, n * c)?;
    let (weight, weight_ptr) = bench.normal(3, c)?;
    let normed = rms_board::Normed { out: bench.room(n * c)?, rstd: bench.room_of(n)? };
    let norm = rms_board::Norm { n, c, weight: weight_ptr, eps: EPS };
    let added = rms_board::Addend { rows: branch_ptr, bias: None, site: &site };
    // In place: the residual stream goes on where it is.
    let choices = bench.board.choices();
    choices.trying(way, || rms_board::residual_fwd(bench.board, x_ptr, &normed, x_ptr, &added, &norm))?;
    if way != "held" {
        dropout::fwd(&mut branch, c, &of_cpu);
    }
    let sum: Vec<f32> = x.iter().zip(&branch).map(|(x, y)| x + y).collect();
    let stored = bench.get(x_ptr, n * c)?;
    let (mut out, mut rstd) = (vec![0.0; n * c], vec![0.0; n]);
    rms::fwd(&mut out, &mut rstd, &stored, &rms::Norm { weight: &weight, eps: EPS });
    let subject = bench.subject("rms_norm", format!("({n}, {c}) behind a residual addition, {way}"));
    Ok(vec![
        bench.check(&subject, "sum", x_ptr, &sum, 1.0, 4)?,
        bench.check(&subject, "out", normed.out, &out, 1.0, c)?,
    ])
}

fn rms_norm_add(bench: &mut Bench<'_>, [n, c]: [usize; 2]) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (x, x_ptr) = bench.normal(0, n * c)?;
    let (added, added_ptr) = bench.normal(1, n * c)?;
    let (weight, weight_ptr) = bench.normal(3, c)?;
    let rstd_ptr = bench.room_of(n)?;
    let norm = rms_board::Norm { n, c, weight: weight_ptr, eps: EPS };
    // In place: the residual stream goes on where it is.
    rms_board::add_fwd(bench.board, x_ptr, rstd_ptr, x_ptr, added_ptr, &norm)?;
    let (mut out, mut rstd) = (vec![0.0; n * c], vec![0.0; n]);
    rms::fwd(&mut out, &mut rstd, &added, &rms::Norm { weight: &weight, eps: EPS });
    let sum: Vec<f32> = x.iter().zip(&out).map(|(x, y)| x + y).collect();
    let subject = bench.subject("rms_norm", format!("({n}, {c}) before a residual addition"));
    Ok(vec![
        bench.check(&subject, "sum", x_ptr, &sum, 1.0, c)?,
        bench.check_f32(&subject, "rstd", rstd_ptr, &rstd, c)?,
    ])
}

/// Heads of width `c` that begin after two columns of each row, and end before three others.
fn head_norm(bench: &mut Bench<'_>, [n, c]: [usize; 2], n_heads: usize) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let width = n_heads * c;
    let (row_stride, saved_stride) = (width + 5, width + 1);
    let (mut x, x_ptr) = bench.normal(0, n * row_stride)?;
    let (weight, weight_ptr) = bench.normal(1, c)?;
    let (mut grad, grad_ptr) = bench.normal(3, n * row_stride)?;
    let (saved_ptr, rstd_ptr) = (bench.room(n * saved_stride)?, bench.room_of(n * n_heads)?);
    let heads =
        head_board::Heads { n, n_heads, width: c, row_stride, saved_stride, weight: weight_ptr, eps: EPS };
    head_board::fwd(bench.board, x_ptr.add(2), saved_ptr, rstd_ptr, &heads)?;
    let of_cpu = head::Heads {
        n_rows: n,
        n_heads,
        rows: HeadRows { offset: 2, row_stride },
        saved: HeadRows { offset: 0, row_stride: width },
        rstd: HeadRows { offset: 0, row_stride: n_heads },
        norm: rms::Norm { weight: &weight, eps: EPS },
    };
    let (mut saved, mut rstd) = (vec![0.0; n * width], vec![0.0; n * n_heads]);
    head::fwd(&mut x, &mut saved, &mut rstd, &of_cpu);
    let subject = bench.subject("head_norm", format!("({n}, {n_heads}, {c})"));
    let mut checks = vec![
        // The columns beside the heads are as they were.
        bench.check(&subject, "out", x_ptr, &x, 1.0, c)?,
        bench.check_f32(&subject, "rstd", rstd_ptr, &rstd, c)?,
    ];
    let mut grad_weight = vec![0.5; c];
    let grad_weight_ptr = bench.put_f32(&grad_weight)?;
    let mut sums = bench.sums(head_board::bwd_scratch_len(n, n_heads, c), Store::Accumulate)?;
    head_board::bwd(bench.board, grad_ptr.add(2), grad_weight_ptr, saved_ptr, rstd_ptr, &heads, &mut sums)?;
    sums.finish(bench.board)?;
    head::bwd(&mut grad, &mut grad_weight, &saved, &rstd, &of_cpu, &mut vec![0.0; width]);
    checks.push(bench.check(&subject, "grad_x", grad_ptr, &grad, 1.0, c)?);
    checks.push(bench.check_f32(&subject, "grad_weight", grad_weight_ptr, &grad_weight, n * n_heads)?);
    Ok(checks)
}
