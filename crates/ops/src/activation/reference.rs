use candle_core::{Result, Tensor};

/// `x · Φ(x)` with the normal distribution function `Φ(x) = (1 + erf(x/√2)) / 2`.
///
/// Written out: candle's own rounds the constants of its backward to six digits.
///
/// # References
/// Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016, section 2.
pub(super) fn gelu(x: &Tensor) -> Result<Tensor> {
    (x * 0.5)? * (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?.affine(1.0, 1.0)?
}

/// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`
///
/// Written out: candle's own takes a power in its backward, which is several times slower.
///
/// # References
/// Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016, section 2.
pub(super) fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let scale = (2.0 / std::f64::consts::PI).sqrt();
    let inner = (x * (x.sqr()? * (0.044715 * scale))?.affine(1.0, scale)?)?;
    (x * 0.5)? * inner.tanh()?.affine(1.0, 1.0)?
}

pub(super) fn relu(x: &Tensor) -> Result<Tensor> {
    x.relu()
}

/// `max(x, 0)²`
///
/// # References
/// So et al., *Primer: Searching for Efficient Transformers for Language Modeling*, 2021, section 4.2.
pub(super) fn relu2(x: &Tensor) -> Result<Tensor> {
    x.relu()?.sqr()
}
