use candle_core::{Result, Tensor};

/// `out = gate · σ(gate) · up`
///
/// # Shapes
/// Any, the same for both.
///
/// # References
/// Shazeer, *GLU Variants Improve Transformer*, 2020, equation 6 (with β = 1).
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    (gate / (gate.neg()?.exp()? + 1.0)?)? * up
}
