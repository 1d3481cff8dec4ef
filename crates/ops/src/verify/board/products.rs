//! Matrix products, the bias's gradient, and casts.

use super::SHAPES;
use super::bench::{Bench, round};
use crate::board::{BoardError, DeviceTensor, Elem, Epilogue, Gemm, Matrix, Ptr};
use crate::cast::board as cast;
use crate::linear::board as linear;
use crate::linear::cpu;
use crate::verify::Check;
use crate::verify::numbers::normal;
use crate::{Activation, Store, activation};

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for [m, n, k] in [[9, 7, 41], [16, 24, 8], [64, 40, 96]] {
        for transposed in [[false, false], [true, false], [false, true]] {
            all.push(product(bench, [m, n, k], transposed, false)?);
            all.push(product(bench, [m, n, k], transposed, true)?);
        }
    }
    for with_bias in [true, false] {
        all.extend(gelu(bench, [40, 64, 96], with_bias)?);
    }
    for of_a in [true, false] {
        all.extend(sums_of_factors(bench, [64, 40, 96], of_a)?);
    }
    for shape in SHAPES {
        all.extend(bias_gradients(bench, &[shape])?);
        all.push(casts(bench, shape[0] * shape[1])?);
    }
    all.extend(bias_gradients(bench, &[[1025, 24]])?);
    // More than one launch takes.
    all.extend(bias_gradients(
        bench,
        &[[40, 24], [1, 8], [37, 130], [9, 7], [40, 1], [20, 96], [3, 5], [2, 2], [17, 33]],
    )?);
    Ok(all)
}

/// Two products at once; accumulating into `f32` as gradients of weights do, else stored in the type at hand.
fn product(
    bench: &mut Bench<'_>,
    [m, n, k]: [usize; 3],
    [a_transposed, b_transposed]: [bool; 2],
    accumulate: bool,
) -> Result<Check, BoardError> {
    bench.clear();
    let (a, a_ptr) = bench.normal(0, 2 * m * k)?;
    let (b, b_ptr) = bench.normal(1, 2 * k * n)?;
    let before = vec![0.5; 2 * m * n];
    let c = if accumulate { bench.put_f32(&before)?.into() } else { bench.room(2 * m * n)? };
    let factor = |tensor: DeviceTensor, [rows, columns]: [usize; 2], transposed: bool| {
        let stored = if transposed { rows } else { columns };
        let matrix = Matrix::new(tensor, stored).batched(rows * columns);
        if transposed { matrix.transposed() } else { matrix }
    };
    let (a_matrix, b_matrix) = (factor(a_ptr, [m, k], a_transposed), factor(b_ptr, [k, n], b_transposed));
    bench.board.gemm(&Gemm {
        m,
        n,
        k,
        a: a_matrix,
        b: b_matrix,
        c: Matrix::new(c, n).batched(m * n),
        alpha: 1.0,
        accumulate,
        batch: 2,
        epilogue: Epilogue::None,
    })?;
    let at = |values: &[f32], [rows, columns]: [usize; 2], transposed: bool, [i, j]: [usize; 2]| {
        if transposed { values[j * rows + i] } else { values[i * columns + j] }
    };
    let mut expected = Vec::new();
    for (a, b) in a.chunks_exact(m * k).zip(b.chunks_exact(k * n)) {
        for i in 0..m {
            for j in 0..n {
                let term = |l| at(a, [m, k], a_transposed, [i, l]) * at(b, [k, n], b_transposed, [l, j]);
                expected.push((0..k).map(term).sum::<f32>() + if accumulate { 0.5 } else { 0.0 });
            }
        }
    }
    let [a, b] = [a_transposed, b_transposed].map(|transposed| if transposed { "ᵀ" } else { "" });
    let subject = bench.subject("gemm", format!("({m}, {k}){a}·({k}, {n}){b}"));
    match accumulate {
        true => bench.check_f32(&subject, "grad_weight", Ptr::new(c.bytes()), &expected, k),
        false => bench.check(&subject, "out", c, &expected, 1.0, k),
    }
}

/// Runs a product with an epilogue; false if this board has none for it, and then a kernel of its own is taken.
fn has_epilogue(bench: &Bench<'_>, gemm: &Gemm) -> Result<bool, BoardError> {
    match bench.board.gemm(gemm) {
        Ok(()) => Ok(true),
        Err(BoardError::Product(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// GELU's tanh form and its slope in epilogues, in bfloat16: a library's tanh need not have all bits of `f32`.
fn gelu(bench: &mut Bench<'_>, [m, n, k]: [usize; 3], with_bias: bool) -> Result<Vec<Check>, BoardError> {
    if bench.elem != Elem::Bf16 {
        return Ok(Vec::new());
    }
    bench.clear();
    let (a, a_ptr) = bench.normal(0, m * k)?;
    // Sums of standard size, where GELU is no straight line.
    let b: Vec<f32> = normal(1, k * n).into_iter().map(|x| round(x * 0.125, bench.elem)).collect();
    let b_ptr = bench.put(&b)?;
    let (bias, bias_ptr) = bench.normal(2, n)?;
    let (before_ptr, after_ptr) = (bench.room(m * n)?, bench.room(m * n)?);
    let plain = Gemm {
        m,
        n,
        k,
        a: Matrix::new(a_ptr, k),
        b: Matrix::new(b_ptr, n),
        c: Matrix::new(after_ptr, n),
        alpha: 1.0,
        accumulate: false,
        batch: 1,
        epilogue: Epilogue::None,
    };
    let sums: Vec<f32> =
        (0..m * n).map(|at| (0..k).map(|l| a[at / n * k + l] * b[l * n + at % n]).sum::<f32>()).collect();
    let bias = if with_bias { bias } else { vec![0.0; n] };
    let mut before = sums.clone();
    before.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(x, bias)| *x += bias));
    let mut after = vec![0.0; m * n];
    activation::cpu::fwd(Activation::GeluTanh, &mut after, &before);
    let subject = bench.subject("gemm", format!("({m}, {k})·({k}, {n}), GELU, bias {with_bias}"));
    let mut checks = Vec::new();
    let epilogue = Epilogue::GeluTanh { bias: with_bias.then_some(bias_ptr), before: before_ptr };
    if has_epilogue(bench, &Gemm { epilogue, ..plain })? {
        checks.push(bench.check(&subject, "before", before_ptr, &before, 1.0, k)?);
        checks.push(bench.check(&subject, "out", after_ptr, &after, 2.0, k)?);
    }
    let (slopes_of, before_ptr) = bench.normal(3, m * n)?;
    let mut expected = sums;
    activation::cpu::bwd(Activation::GeluTanh, &mut expected, &slopes_of);
    let epilogue = Epilogue::GeluTanhSlope { before: before_ptr };
    if has_epilogue(bench, &Gemm { epilogue, ..plain })? {
        checks.push(bench.check(&subject, "grad_x", after_ptr, &expected, 2.0, k)?);
    }
    Ok(checks)
}

/// As the gradient of a layer's weight makes that of its bias: `aᵀ·b`, added to what is there, and sums of a factor.
fn sums_of_factors(
    bench: &mut Bench<'_>,
    [m, n, k]: [usize; 3],
    of_a: bool,
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let (a, a_ptr) = bench.normal(0, k * m)?;
    let (b, b_ptr) = bench.normal(1, k * n)?;
    let (factor, width) = if of_a { (&a, m) } else { (&b, n) };
    let (out_ptr, sums_ptr) = (bench.put_f32(&vec![0.5; m * n])?, bench.room_of::<f32>(width)?);
    let epilogue = if of_a { Epilogue::SumsOfA } else { Epilogue::SumsOfB };
    let gemm = Gemm {
        m,
        n,
        k,
        a: Matrix::new(a_ptr, m).transposed(),
        b: Matrix::new(b_ptr, n),
        c: Matrix::new(out_ptr, n),
        alpha: 1.0,
        accumulate: true,
        batch: 1,
        epilogue: epilogue(sums_ptr.into()),
    };
    if !has_epilogue(bench, &gemm)? {
        return Ok(Vec::new());
    }
    let out: Vec<f32> = (0..m * n)
        .map(|at| 0.5 + (0..k).map(|l| a[l * m + at / n] * b[l * n + at % n]).sum::<f32>())
        .collect();
    let mut sums = vec![0.0; width];
    cpu::bwd_bias(&mut sums, factor);
    let subject =
        bench.subject("gemm", format!("({m}, {k})ᵀ·({k}, {n}), sums of {}", if of_a { "a" } else { "b" }));
    Ok(vec![
        bench.check_f32(&subject, "grad_weight", out_ptr, &out, k)?,
        bench.check_f32(&subject, "grad_bias", sums_ptr, &sums, k)?,
    ])
}

/// The bias gradients of several layers, whose column sums are made together.
fn bias_gradients(bench: &mut Bench<'_>, shapes: &[[usize; 2]]) -> Result<Vec<Check>, BoardError> {
    let mut checks = Vec::new();
    for (store, way) in [
        (Store::Accumulate, "each"),
        (Store::Accumulate, "together"),
        (Store::Overwrite, "each"),
        (Store::Overwrite, "together"),
    ] {
        bench.clear();
        let len = shapes.iter().map(|&[n, c]| linear::scratch_len(n, c)).sum();
        let mut sums = bench.sums(len, store)?;
        let mut expected = Vec::new();
        for (idx, &[n, c]) in shapes.iter().enumerate() {
            let (grad_out, grad_out_ptr) = bench.normal(idx as u32, n * c)?;
            let before = if store == Store::Accumulate { 0.25 } else { f32::NAN };
            let grad_bias = bench.put_f32(&vec![before; c])?;
            let partials = sums.add(grad_bias, n, c);
            linear::bwd_bias(bench.board, grad_out_ptr, &partials, &sums)?;
            let mut of_cpu = vec![if store == Store::Accumulate { 0.25 } else { 0.0 }; c];
            cpu::bwd_bias(&mut of_cpu, &grad_out);
            expected.push((grad_bias, of_cpu));
        }
        bench.board.choices().trying(way, || sums.finish(bench.board))?;
        for ((grad_bias, expected), [n, c]) in expected.into_iter().zip(shapes) {
            let subject = bench.subject("linear", format!("({n}, {c}), {store:?}, {way}"));
            checks.push(bench.check_f32(&subject, "grad_bias", grad_bias, &expected, *n)?);
        }
    }
    Ok(checks)
}

fn casts(bench: &mut Bench<'_>, n: usize) -> Result<Check, BoardError> {
    bench.clear();
    let x = normal(3, n);
    let x_ptr = bench.put_f32(&x)?;
    let out = bench.room(n)?;
    cast::cast(bench.board, out, x_ptr, n)?;
    let expected: Vec<f32> = x.iter().map(|&x| round(x, bench.elem)).collect();
    bench.check(&bench.subject("cast", format!("({n})")), "out", out, &expected, 0.0, 0)
}
