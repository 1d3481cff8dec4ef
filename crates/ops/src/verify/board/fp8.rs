//! Tensors of eight-bit numbers, to the bit, and their products. A board that has no such numbers has no such product.

use super::bench::Bench;
use crate::board::{BoardError, DeviceTensor, Elem, Epilogue, Gemm, Matrix, Ptr};
use crate::fp8::board::{Codes, MAX_PARTS, Scale, largest, quantize};
use crate::fp8::{Format, cpu};
use crate::verify::Check;

/// One tile in part, several, and of more elements than one part has.
const SHAPES: [[usize; 2]; 4] = [[16, 16], [64, 128], [80, 208], [144, 1040]];

pub(super) fn checks(bench: &mut Bench<'_>) -> Result<Vec<Check>, BoardError> {
    let mut all = Vec::new();
    for format in Format::ALL {
        for shape in SHAPES {
            all.extend(codes(bench, format, shape)?);
        }
        all.extend(product(bench, format, [48, 80, 64])?);
    }
    Ok(all)
}

/// A tensor in eight bits, and where its parts are.
struct Quantized {
    rounded: Vec<f32>,
    scale_value: f32,
    scale: Ptr<f32>,
    rows: DeviceTensor,
    transposed: DeviceTensor,
}

/// Normal numbers over many sizes, some of them below the format's least, quantized both ways.
fn quantized(
    bench: &mut Bench<'_>,
    idx: u32,
    format: Format,
    [rows, columns]: [usize; 2],
) -> Result<Quantized, BoardError> {
    let n = rows * columns;
    let (mut x, _) = bench.normal(idx, n)?;
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= 2f32.powi(-(i as i32 % 29)));
    let x_ptr = bench.put(&x)?;
    let elem = Elem::from(format);
    let scale = Scale { parts: bench.room_of(MAX_PARTS)?, scale: bench.room_of(1)? };
    let [straight, transposed] = [bench.room_of::<u8>(n)?, bench.room_of::<u8>(n)?];
    let [straight, transposed] = [straight, transposed].map(|at| DeviceTensor::new(at.bytes(), elem));
    largest(bench.board, scale, x_ptr, n)?;
    let codes = Codes { rows: Some(straight), transposed: Some(transposed) };
    quantize(bench.board, format, codes, scale, x_ptr, [rows, columns])?;
    let mut rounded = vec![0.0; n];
    let scale_value = cpu::round_par(&mut rounded, &x, format);
    Ok(Quantized { rounded, scale_value, scale: scale.scale, rows: straight, transposed })
}

fn codes(
    bench: &mut Bench<'_>,
    format: Format,
    [rows, columns]: [usize; 2],
) -> Result<Vec<Check>, BoardError> {
    bench.clear();
    let got = quantized(bench, 0, format, [rows, columns])?;
    let subject = bench.subject("fp8", format!("({rows}, {columns}) in {}", Elem::from(format).suffix()));
    let numbers: Vec<f32> = got.rounded.iter().map(|x| x / got.scale_value).collect();
    let transposed: Vec<f32> =
        (0..rows * columns).map(|at| numbers[at % rows * columns + at / rows]).collect();
    let exact = |output, tensor, expected: &[f32]| {
        let values = bench.get(tensor, expected.len())?;
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        Ok::<_, BoardError>(subject.compare(output, &values, &expected, 0.0))
    };
    let scale = bench.get_f32(got.scale, 1)?;
    Ok(vec![
        exact("out", got.rows, &numbers)?,
        exact("transposed", got.transposed, &transposed)?,
        subject.compare("scale", &scale, &[f64::from(got.scale_value)], 0.0),
    ])
}

/// A weight's gradient: factors that lie along the inner size, one of them in e4m3, added to `f32`.
fn product(
    bench: &mut Bench<'_>,
    format: Format,
    [m, n, k]: [usize; 3],
) -> Result<Option<Check>, BoardError> {
    bench.clear();
    let a = quantized(bench, 1, Format::E4m3, [k, m])?;
    let b = quantized(bench, 2, format, [k, n])?;
    let out = bench.put_f32(&vec![0.5; m * n])?;
    let gemm = Gemm {
        m,
        n,
        k,
        a: Matrix::new(a.transposed, k).scaled(a.scale),
        b: Matrix::new(b.transposed, k).transposed().scaled(b.scale),
        c: Matrix::new(out, n),
        alpha: 1.0,
        accumulate: true,
        batch: 1,
        epilogue: Epilogue::None,
    };
    if bench.board.fp8().is_err() {
        return Ok(None);
    }
    bench.board.gemm(&gemm)?;
    let term = |at: usize, l: usize| a.rounded[l * m + at / n] * b.rounded[l * n + at % n];
    let expected: Vec<f32> = (0..m * n).map(|at| 0.5 + (0..k).map(|l| term(at, l)).sum::<f32>()).collect();
    let shape = format!("({m}, {k})·({k}, {n}), e4m3 by {}", Elem::from(format).suffix());
    let subject = bench.subject("fp8", shape);
    Ok(Some(bench.check_f32(&subject, "grad_weight", out, &expected, k)?))
}
