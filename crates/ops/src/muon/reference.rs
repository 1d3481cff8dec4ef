use candle_core::{Result, Tensor};

use super::{COEFFICIENTS, EPS, Hyperparameters, Update};

/// The next value and momentum of a matrix.
///
/// # Shapes
/// (rows, columns), the same for all.
///
/// # Errors
/// If a tensor operation fails.
pub fn muon_update(
    value: &Tensor,
    gradient: &Tensor,
    momentum: &Tensor,
    update: &Update,
) -> Result<[Tensor; 2]> {
    let &Update { hyperparameters: Hyperparameters { momentum: mu, nesterov, ns_steps }, .. } = update;
    let (n_rows, n_columns) = value.dims2()?;
    let gradient = (gradient * f64::from(update.gradient_factor))?;
    let mix = |momentum: &Tensor| (momentum * mu)? + (&gradient * (1.0 - mu))?;
    let momentum = mix(momentum)?;
    let direction = if nesterov { mix(&momentum)? } else { momentum.clone() };
    let step = (orthogonalized(&direction, ns_steps)? * update.adjusted_rate(n_rows, n_columns))?;
    let value = ((value * update.decay())? - step)?;
    Ok([value, momentum])
}

/// A matrix with the singular vectors of `matrix` and singular values near 1.
fn orthogonalized(matrix: &Tensor, n_steps: usize) -> Result<Tensor> {
    let (n_rows, n_columns) = matrix.dims2()?;
    let is_tall = n_rows > n_columns;
    let [a, b, c] = COEFFICIENTS;
    let norm = matrix.sqr()?.sum_all()?.sqrt()?.maximum(EPS)?;
    let mut x = matrix.broadcast_div(&norm)?;
    if is_tall {
        x = x.t()?.contiguous()?;
    }
    for _ in 0..n_steps {
        let gram = x.matmul(&x.t()?.contiguous()?)?;
        let factor = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        x = ((&x * a)? + factor.matmul(&x)?)?;
    }
    if is_tall { x.t()?.contiguous() } else { Ok(x) }
}
