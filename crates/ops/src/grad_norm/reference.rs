use candle_core::{Result, Tensor};

/// The Euclidean norm of all gradients together.
///
/// # Shapes
/// Any → a scalar.
pub fn global_norm(gradients: &[Tensor]) -> Result<Tensor> {
    let squares = gradients.iter().map(|g| g.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&squares, 0)?.sum_all()?.sqrt()
}
