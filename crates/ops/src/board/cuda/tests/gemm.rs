//! Products on a device against plain loops, to the bit: factors are multiples of 1/8, so that every sum is exact.

use super::{
    Board, CudaBoard, CudaOptions, DeviceTensor, Elem, Epilogue, Gemm, Matrix, board, decode, encode, read,
};

/// A matrix, its values as stored, and how it is read.
struct Stored {
    values: Vec<f64>,
    matrix: Matrix,
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn products_of_every_kind_are_exact() {
    let board = board();
    let mut n_products = 0;
    for (factors, result) in [(Elem::F32, Elem::F32), (Elem::Bf16, Elem::F32), (Elem::Bf16, Elem::Bf16)] {
        for case in 0..64 {
            let bit = |i: usize| case >> i & 1 == 1;
            let batch = if bit(3) { 3 } else { 1 };
            let sizes = if bit(5) { [64, 128, 192] } else { [24, 40, 56] };
            let [m, n, k] = sizes;
            let gap = if bit(4) { 8 } else { 0 };
            let a = stored(&board, 1, [m, k], batch, gap, factors, bit(0));
            let b = stored(&board, 2, [k, n], batch, gap, factors, bit(1));
            let c = stored(&board, 3, [m, n], batch, gap, result, false);
            let gemm = Gemm {
                m,
                n,
                k,
                a: a.matrix,
                b: b.matrix,
                c: c.matrix,
                alpha: 0.5,
                accumulate: bit(2),
                batch,
                epilogue: Epilogue::None,
            };
            board.gemm(&gemm).unwrap();
            let expected = expected(&gemm, &a, &b, &c);
            assert_eq!(values_at(&board, &c), expected, "{gemm:?}");
            n_products += 1;
            // By every algorithm that cuBLASLt advises.
            let (job, ways) = board.product_ways(&gemm).unwrap().unwrap();
            for way in ways.iter().filter(|_| !gemm.accumulate) {
                board.choices().set(&job, way);
                board.gemm(&gemm).unwrap();
                assert_eq!(values_at(&board, &c), expected, "{gemm:?} by {way}");
            }
        }
    }
    assert_eq!(n_products, 192);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn tf32_is_exact_for_numbers_that_fit_it_and_odd_sizes_are_taken() {
    let board = CudaBoard::open(0, &CudaOptions { tf32: true, ..CudaOptions::default() }).unwrap();
    let [m, n, k] = [9, 7, 41];
    let a = stored(&board, 1, [m, k], 1, 0, Elem::F32, false);
    let b = stored(&board, 2, [k, n], 1, 0, Elem::F32, true);
    let c = stored(&board, 3, [m, n], 1, 0, Elem::F32, false);
    let gemm = product([m, n, k], &a, &b, &c, Epilogue::None);
    board.gemm(&gemm).unwrap();
    assert_eq!(values_at(&board, &c), expected(&gemm, &a, &b, &c));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn epilogues_add_the_bias_and_keep_what_gelu_is_taken_of() {
    let board = board();
    let [m, n, k] = [64, 128, 32];
    let a = stored(&board, 1, [m, k], 1, 0, Elem::Bf16, false);
    let b = stored(&board, 2, [k, n], 1, 0, Elem::Bf16, false);
    let c = stored(&board, 3, [m, n], 1, 0, Elem::Bf16, false);
    let bias = stored(&board, 4, [1, n], 1, 0, Elem::Bf16, false);
    let before = stored(&board, 5, [m, n], 1, 0, Elem::Bf16, false);
    let plain = product([m, n, k], &a, &b, &c, Epilogue::None);
    let sums = expected(&Gemm { c: f32_of(c.matrix), ..plain }, &a, &b, &c);
    let biased: Vec<f64> = sums.iter().enumerate().map(|(i, sum)| sum + bias.values[i % n]).collect();

    board.gemm(&Gemm { epilogue: Epilogue::Bias(bias.matrix.tensor), ..plain }).unwrap();
    assert_eq!(values_at(&board, &c), rounded(&biased));

    let epilogue = Epilogue::GeluTanh { bias: Some(bias.matrix.tensor), before: before.matrix.tensor };
    board.gemm(&Gemm { epilogue, ..plain }).unwrap();
    assert_eq!(values_at(&board, &before), rounded(&biased));
    for (got, x) in values_at(&board, &c).into_iter().zip(biased) {
        let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
        let gelu = 0.5 * x * (1.0 + inner.tanh());
        // bf16 has 8 bits: half a unit in the last place, and as much for the library's tanh.
        assert!((got - gelu).abs() <= gelu.abs() / 128.0 + 1e-3, "gelu({x}): {got} for {gelu}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_product_is_part_of_a_recorded_step() {
    let board = board();
    let a = stored(&board, 1, [64, 64], 1, 0, Elem::Bf16, false);
    let b = stored(&board, 2, [64, 64], 1, 0, Elem::Bf16, false);
    let c = stored(&board, 3, [64, 64], 1, 0, Elem::F32, false);
    let gemm = Gemm { accumulate: true, ..product([64; 3], &a, &b, &c, Epilogue::None) };
    board.begin_record().unwrap();
    board.gemm(&gemm).unwrap();
    let step = board.end_record().unwrap();
    assert_eq!(values_at(&board, &c), c.values, "recording is not doing");
    let mut c = c;
    for _ in 0..3 {
        board.replay(step).unwrap();
        c.values = expected(&gemm, &a, &b, &c);
    }
    assert_eq!(values_at(&board, &c), c.values);
}

fn product([m, n, k]: [usize; 3], a: &Stored, b: &Stored, c: &Stored, epilogue: Epilogue) -> Gemm {
    let (a, b, c) = (a.matrix, b.matrix, c.matrix);
    Gemm { m, n, k, a, b, c, alpha: 1.0, accumulate: false, batch: 1, epilogue }
}

/// `batch` matrices of `[rows, columns]` on the device, with a gap behind each stored row.
fn stored(
    board: &CudaBoard,
    seed: usize,
    [rows, columns]: [usize; 2],
    batch: usize,
    gap: usize,
    elem: Elem,
    transposed: bool,
) -> Stored {
    let (stored_rows, stored_columns) = if transposed { (columns, rows) } else { (rows, columns) };
    let row_stride = stored_columns + gap;
    let batch_stride = stored_rows * row_stride + 2 * gap;
    let eighths = |i: usize| ((i * 7919 + seed * 104_729) % 17) as f64 / 8.0 - 1.0;
    let values: Vec<f64> = (0..batch * batch_stride).map(eighths).collect();
    let ptr = board.allocate(values.len() * elem.bytes()).unwrap();
    board.write(ptr, &encode(&values, elem)).unwrap();
    let matrix = Matrix::new(DeviceTensor::new(ptr, elem), row_stride).batched(batch_stride);
    Stored { values, matrix: if transposed { matrix.transposed() } else { matrix } }
}

/// What memory of `c` holds after the product, gaps untouched.
fn expected(gemm: &Gemm, a: &Stored, b: &Stored, c: &Stored) -> Vec<f64> {
    let at = |x: &Stored, batch: usize, row: usize, column: usize| {
        let (row, column) = if x.matrix.transposed { (column, row) } else { (row, column) };
        batch * x.matrix.batch_stride + row * x.matrix.row_stride + column
    };
    let mut out = c.values.clone();
    for batch in 0..gemm.batch {
        for (i, j) in (0..gemm.m).flat_map(|i| (0..gemm.n).map(move |j| (i, j))) {
            let term = |l| a.values[at(a, batch, i, l)] * b.values[at(b, batch, l, j)];
            let sum: f64 = (0..gemm.k).map(term).sum();
            let place = at(c, batch, i, j);
            let before = if gemm.accumulate { out[place] } else { 0.0 };
            out[place] = before + f64::from(gemm.alpha) * sum;
        }
    }
    if gemm.c.elem() == Elem::Bf16 { rounded(&out) } else { out }
}

fn rounded(values: &[f64]) -> Vec<f64> {
    decode(&encode(values, Elem::Bf16), Elem::Bf16)
}

fn f32_of(matrix: Matrix) -> Matrix {
    Matrix { tensor: DeviceTensor::new(matrix.bytes(), Elem::F32), ..matrix }
}

fn values_at(board: &CudaBoard, x: &Stored) -> Vec<f64> {
    let (ptr, elem) = (x.matrix.bytes(), x.matrix.elem());
    decode(&read(board, ptr, x.values.len() * elem.bytes()), elem)
}
