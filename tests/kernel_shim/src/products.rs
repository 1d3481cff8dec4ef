//! Matrix products in plain loops: sums in `f32` in the order of k, one rounding when stored. As a library has several
//! algorithms, there are two ways: the whole sum in one order, or two halves of it that are added.

use wattle_ops::board::{DevicePtr, DeviceTensor, Elem, Epilogue, Gemm, Job, Matrix};
use wattle_ops::fp8;

use crate::arena::{Arena, slice};

/// The ways to compute a product.
pub(crate) const WAYS: [&str; 2] = ["whole", "halves"];

/// What a choice of a way is for.
pub(crate) fn job(gemm: &Gemm) -> Job {
    let Gemm { m, n, k, a, c, accumulate, batch, .. } = *gemm;
    let to = c.elem().suffix();
    Job::new(
        &format!("product to {to}"),
        a.elem(),
        &[("m", m), ("n", n), ("k", k), ("batch", batch), ("add", usize::from(accumulate))],
    )
    .moving(gemm.bytes())
    .computing(gemm.flops())
}

/// Computes it, in one of [`WAYS`].
pub(crate) fn multiply(arenas: &[Arena], gemm: &Gemm, way: &str) {
    refuse_odd_fp8(gemm);
    let half = if way == WAYS[1] { gemm.k / 2 } else { gemm.k };
    let &Gemm { m, n, k, c, batch, .. } = gemm;
    assert!(!c.transposed, "a result is not transposed");
    let scale = scale(arenas, &gemm.a) * scale(arenas, &gemm.b);
    for index in 0..batch {
        let a = read(arenas, gemm.a, [m, k], index);
        let b = read(arenas, gemm.b, [k, n], index);
        let mut out = vec![0f32; m * n];
        for (row, a) in out.chunks_exact_mut(n).zip(a.chunks_exact(k)) {
            let mut rest = vec![0f32; n];
            for (i, (&a, b)) in a.iter().zip(b.chunks_exact(n)).enumerate() {
                let sums = if i < half { &mut *row } else { &mut rest };
                sums.iter_mut().zip(b).for_each(|(out, &b)| *out += a * b);
            }
            if half < k {
                row.iter_mut().zip(&rest).for_each(|(out, rest)| *out += rest);
            }
            row.iter_mut().for_each(|out| *out *= gemm.alpha * scale);
        }
        if gemm.accumulate {
            let before = read(arenas, c, [m, n], index);
            out.iter_mut().zip(before).for_each(|(out, before)| *out += before);
        }
        finish(arenas, gemm, &mut out);
        write(arenas, c, [m, n], index, &out);
    }
}

fn finish(arenas: &[Arena], gemm: &Gemm, out: &mut [f32]) {
    let Gemm { m, n, k, c, .. } = *gemm;
    if gemm.epilogue == Epilogue::None {
        return;
    }
    assert!(gemm.batch == 1, "an epilogue is for one product");
    assert!(
        !gemm.accumulate || gemm.epilogue.may_be_added(),
        "this epilogue is for a product that is stored"
    );
    let beside = |tensor| Matrix { tensor, ..c };
    match gemm.epilogue {
        Epilogue::None => {}
        Epilogue::Bias(bias) => add_bias(arenas, gemm, bias, out),
        Epilogue::GeluTanh { bias, before } => {
            if let Some(bias) = bias {
                add_bias(arenas, gemm, bias, out);
            }
            assert!(before.elem() == c.elem() && c.row_stride.is_multiple_of(8), "as cuBLASLt has it");
            write(arenas, beside(before), [m, n], 0, out);
            out.iter_mut().for_each(|x| *x *= gate(*x));
        }
        Epilogue::GeluTanhSlope { before } => {
            assert!(before.elem() == c.elem() && c.row_stride.is_multiple_of(8), "as cuBLASLt has it");
            let before = read(arenas, beside(before), [m, n], 0);
            out.iter_mut().zip(before).for_each(|(out, x)| *out *= slope(x));
        }
        Epilogue::SumsOfA(sums) => {
            let a = read(arenas, gemm.a, [m, k], 0);
            let of_rows: Vec<f32> = a.chunks_exact(k).map(|row| row.iter().sum()).collect();
            write_sums(arenas, gemm, sums, &of_rows);
        }
        Epilogue::SumsOfB(sums) => {
            let mut of_columns = vec![0f32; n];
            for row in read(arenas, gemm.b, [k, n], 0).chunks_exact(n) {
                of_columns.iter_mut().zip(row).for_each(|(sum, b)| *sum += b);
            }
            write_sums(arenas, gemm, sums, &of_columns);
        }
    }
}

fn add_bias(arenas: &[Arena], gemm: &Gemm, bias: DeviceTensor, out: &mut [f32]) {
    let n = gemm.n;
    assert_eq!(bias.elem(), gemm.c.elem(), "a bias has the type of the result");
    let bias = read(arenas, Matrix::new(bias, n), [1, n], 0);
    out.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(&bias).for_each(|(out, bias)| *out += bias));
}

fn write_sums(arenas: &[Arena], gemm: &Gemm, to: DeviceTensor, sums: &[f32]) {
    assert_eq!(to.elem(), gemm.c.elem(), "sums have the type of the result");
    write(arenas, Matrix::new(to, sums.len()), [1, sums.len()], 0, sums);
}

/// What GELU's tanh form multiplies its argument by.
fn gate(x: f32) -> f32 {
    1.0 / (1.0 + (-1.595_769_2 * (x + 0.044_715 * x * x * x)).exp())
}

/// The derivative of GELU's tanh form.
fn slope(x: f32) -> f32 {
    let gate = gate(x);
    gate + x * gate * (1.0 - gate) * 1.595_769_2 * (1.0 + 3.0 * 0.044_715 * x * x)
}

/// A matrix of the batch as rows one after the other.
pub(crate) fn read(
    arenas: &[Arena],
    matrix: Matrix,
    [n_rows, n_columns]: [usize; 2],
    index: usize,
) -> Vec<f32> {
    let (stored_rows, stored_columns) =
        if matrix.transposed { (n_columns, n_rows) } else { (n_rows, n_columns) };
    let mut out = vec![0f32; n_rows * n_columns];
    for row in 0..stored_rows {
        let bytes = slice(arenas, start(matrix, index, row), stored_columns * matrix.elem().bytes());
        for (column, value) in
            bytes.chunks_exact(matrix.elem().bytes()).map(|bytes| decode(bytes, matrix.elem())).enumerate()
        {
            let at = if matrix.transposed { column * n_columns + row } else { row * n_columns + column };
            out[at] = value;
        }
    }
    out
}

/// Stores rows that lie one after the other as a matrix of the batch.
pub(crate) fn write(
    arenas: &[Arena],
    matrix: Matrix,
    [n_rows, n_columns]: [usize; 2],
    index: usize,
    values: &[f32],
) {
    for (row, values) in values.chunks_exact(n_columns).enumerate().take(n_rows) {
        let at = start(matrix, index, row);
        let bytes: Vec<u8> = values.iter().flat_map(|&value| encode(value, matrix.elem())).collect();
        // That it lies within the board's memory is found by looking it up.
        let place = slice(arenas, at, bytes.len()).as_ptr();
        // SAFETY: `place` is as long as `bytes`, in memory that kernels write to by address as well; no reference to
        // it is kept.
        unsafe { place.cast_mut().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}

fn start(matrix: Matrix, index: usize, row: usize) -> DevicePtr {
    matrix.tensor.add(index * matrix.batch_stride + row * matrix.row_stride).bytes()
}

/// What a matrix's elements are multiplied by.
fn scale(arenas: &[Arena], matrix: &Matrix) -> f32 {
    matrix.scale.map_or(1.0, |at| decode(slice(arenas, at.bytes(), 4), Elem::F32))
}

/// As strict as cuBLASLt is of factors in eight bits.
fn refuse_odd_fp8(gemm: &Gemm) {
    let Gemm { m, n, k, a, b, c, .. } = *gemm;
    assert!(!c.elem().is_fp8(), "results have more than eight bits");
    let fp8 = [a, b].map(|factor| factor.elem().is_fp8());
    if fp8 == [false; 2] {
        return assert!(a.scale.or(b.scale).is_none(), "scales are for eight bits");
    }
    assert_eq!(fp8, [true; 2], "both factors have eight bits, or none");
    assert!(!a.transposed && b.transposed, "factors in eight bits lie along the inner size");
    assert!([a.elem(), b.elem()] != [Elem::E5m2; 2], "e5m2 goes with e4m3 alone");
    assert!(fp8::fits(&[m, n, k, a.row_stride, b.row_stride]), "sizes in eight bits: {gemm:?}");
    assert!(
        [a, b].iter().all(|x| x.bytes().address().is_multiple_of(16)),
        "addresses of factors in eight bits"
    );
    assert!(a.scale.and(b.scale).is_some(), "factors in eight bits have scales");
}

fn decode(bytes: &[u8], elem: Elem) -> f32 {
    match (elem, bytes) {
        (Elem::F32, &[a, b, c, d]) => f32::from_ne_bytes([a, b, c, d]),
        (Elem::Bf16, &[a, b]) => f32::from_bits(u32::from(u16::from_ne_bytes([a, b])) << 16),
        (Elem::E4m3, &[code]) => fp8::Format::E4m3.decode(code),
        (Elem::E5m2, &[code]) => fp8::Format::E5m2.decode(code),
        _ => unreachable!("an element of {elem:?} has not {} bytes", bytes.len()),
    }
}

fn encode(value: f32, elem: Elem) -> Vec<u8> {
    match elem {
        Elem::F32 => value.to_ne_bytes().to_vec(),
        Elem::Bf16 => to_bf16(value).to_ne_bytes().to_vec(),
        Elem::E4m3 | Elem::E5m2 => unreachable!("no product stores eight bits"),
    }
}

/// The nearest bfloat16, ties to even.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}
