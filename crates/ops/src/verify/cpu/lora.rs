//! What a low-rank adapter adds to a linear layer.

use candle_core::Result;

use super::sum_tolerance;
use crate::lora::cpu::{Factors, bwd_factors_par, bwd_x, fwd, merge};
use crate::lora::{Shape, low_rank};
use crate::verify::numbers::{gradients, normal, values, var};
use crate::verify::{Check, Subject};

/// (n, in, out, r): around strips and vectors, a rank of one, and an adapter of GPT-2's.
const TABLE: [[usize; 4]; 5] =
    [[9, 7, 41, 1], [16, 33, 17, 2], [40, 600, 31, 5], [65, 15, 130, 16], [128, 768, 768, 8]];
/// What the product of the factors is multiplied by.
const SCALE: f32 = 0.5;
/// Columns of the layer's result before and behind those of the adapter.
const BESIDE: [usize; 2] = [3, 5];

pub(super) fn checks() -> Result<Vec<Check>> {
    let mut all = Vec::new();
    for sizes in TABLE {
        all.extend(check(sizes)?);
    }
    Ok(all)
}

fn check([n, n_in, n_out, rank]: [usize; 4]) -> Result<Vec<Check>> {
    let row = BESIDE[0] + n_out + BESIDE[1];
    let shape = Shape { n_in, n_out, rank, first: BESIDE[0], row };
    let subject = Subject::f32("lora", format!("({n}, {n_in}, {n_out}), rank {rank}"));
    let (x, a, b) = (normal(0, n * n_in), normal(1, rank * n_in), normal(2, n_out * rank));
    let grad_out = normal(3, n * row);
    let (x_var, a_var, b_var) = (var(&x, &[1, n, n_in])?, var(&a, &[rank, n_in])?, var(&b, &[n_out, rank])?);
    let expected = low_rank(&x_var, &a_var, &b_var, f64::from(SCALE))?;
    let of_columns: Vec<f32> =
        grad_out.chunks(row).flat_map(|row| &row[BESIDE[0]..][..n_out]).copied().collect();
    let [grad_x, grad_a, grad_b] = gradients(&expected, &of_columns, [&x_var, &a_var, &b_var])?;

    let factors = Factors { a: &a, b: &b, scale: SCALE };
    let mut low = vec![f32::NAN; n * rank];
    // What lies between the factors is a sum of `n_in` terms.
    let deep = |k: usize| (n_in as f64).sqrt() * sum_tolerance(k) + (k as f64).sqrt() * sum_tolerance(n_in);
    let wide = |k: usize| (n_out as f64).sqrt() * sum_tolerance(k) + (k as f64).sqrt() * sum_tolerance(n_out);
    let mut out = vec![1.0; n * row];
    fwd(&mut out, &x, &factors, &shape, &mut low);
    let mut added = vec![1.0; n * row];
    for (row, expected) in added.chunks_mut(row).zip(values(&expected)?.chunks(n_out)) {
        row[BESIDE[0]..][..n_out].iter_mut().zip(expected).for_each(|(out, expected)| *out += expected);
    }
    let mut checks = vec![subject.compare("out", &out, &added, deep(rank))];

    let mut got = vec![0.0; n * n_in];
    bwd_x(&mut got, &grad_out, &factors, &shape, &mut low);
    checks.push(subject.compare("grad_x", &got, &grad_x, wide(rank)));

    let (mut got_a, mut got_b) = (vec![0.0; rank * n_in], vec![0.0; n_out * rank]);
    bwd_factors_par([&mut got_a, &mut got_b], &grad_out, &x, &factors, &shape, &mut low);
    checks.push(subject.compare("grad_a", &got_a, &grad_a, wide(n)));
    checks.push(subject.compare("grad_b", &got_b, &grad_b, deep(n)));

    for output_first in [true, false] {
        let mut merged = vec![0.0; n_in * n_out];
        merge(&mut merged, &factors, &shape, output_first);
        let product = (b_var.matmul(&a_var)? * f64::from(SCALE))?;
        let product = if output_first { product } else { product.t()?.contiguous()? };
        let name = if output_first { "merged" } else { "merged, input first" };
        checks.push(subject.compare(name, &merged, &values(&product)?, sum_tolerance(rank)));
    }
    Ok(checks)
}
