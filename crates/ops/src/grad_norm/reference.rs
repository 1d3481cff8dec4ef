use candle_core::{Result, Tensor};

/// The Euclidean norm of all gradients together.
///
/// # Shapes
/// Any → a scalar.
pub fn global_norm(gradients: &[Tensor]) -> Result<Tensor> {
    let squares = gradients.iter().map(|g| g.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
    Tensor::stack(&squares, 0)?.sum_all()?.sqrt()
}

/// What to multiply gradients of this norm by so that it is at most `clip_norm`: `min(1, clip_norm / norm)`,
/// with 1e-6 added to the norm as in PyTorch's `clip_grad_norm_`. A scalar on the norm's device: the host need
/// not wait for it.
///
/// # Shapes
/// A scalar → a scalar.
pub fn clip_factor(norm: &Tensor, clip_norm: f64) -> Result<Tensor> {
    ((norm + 1e-6)?.recip()? * clip_norm)?.minimum(1.0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_long_gradient_is_cut_to_length_and_a_short_one_left_alone() {
        let gradients =
            [Tensor::new(&[3f32, 0.], &Device::Cpu).unwrap(), Tensor::new(&[[4f32]], &Device::Cpu).unwrap()];
        let norm = global_norm(&gradients).unwrap();
        assert_eq!(norm.to_scalar::<f32>().unwrap(), 5.0);
        let factor = |clip| clip_factor(&norm, clip).unwrap().to_scalar::<f32>().unwrap();
        assert!((factor(1.0) - 0.2).abs() < 1e-6);
        assert_eq!(factor(10.0), 1.0);
    }
}
