//! AdamW over candle's variables, on whatever device they are: the reference's update of each in turn.

use candle_core::{Result, Tensor, Var};

use super::reference::clipped_update;
use super::{Hyperparameters, Update, decays};

/// AdamW over a list of variables. It holds their moments, in the order and type of the variables.
#[derive(Clone, Debug)]
pub struct AdamW {
    hyperparameters: Hyperparameters,
    moments: Vec<Moments>,
}

/// The moments of one variable, of its shape.
#[derive(Clone, Debug)]
pub struct Moments {
    /// m
    pub mean: Tensor,
    /// v
    pub mean_square: Tensor,
}

impl AdamW {
    /// An optimizer of `variables` that has made no update.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn new<'a>(
        hyperparameters: Hyperparameters,
        variables: impl IntoIterator<Item = &'a Var>,
    ) -> Result<Self> {
        let zeros = |var: &Var| Ok(Moments { mean: var.zeros_like()?, mean_square: var.zeros_like()? });
        let moments = variables.into_iter().map(zeros).collect::<Result<_>>()?;
        Ok(Self { hyperparameters, moments })
    }

    /// Makes update number `step`, counted from 1.
    ///
    /// # Shapes
    /// `variables` are those of [`AdamW::new`], and `gradients` are like them, both in the same order; `factor` is a
    /// scalar that multiplies every gradient.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn step<'a>(
        &mut self,
        variables: impl IntoIterator<Item = &'a Var>,
        gradients: &[Tensor],
        factor: Option<&Tensor>,
        step: u64,
        learning_rate: f64,
    ) -> Result<()> {
        let hyperparameters = self.hyperparameters;
        let update = Update { hyperparameters, learning_rate, step, gradient_factor: 1.0 };
        for ((variable, gradient), moments) in variables.into_iter().zip(gradients).zip(&mut self.moments) {
            let gradient = match factor {
                Some(factor) => gradient.broadcast_mul(factor)?,
                None => gradient.clone(),
            };
            let value = variable.as_detached_tensor();
            let Moments { mean, mean_square } = &*moments;
            let decays = decays(value.dims());
            let [value, mean, mean_square] =
                clipped_update(&value, &gradient, mean, mean_square, decays, &update)?;
            variable.set(&value)?;
            *moments = Moments { mean, mean_square };
        }
        Ok(())
    }

    /// The moments, one entry a variable.
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Takes over moments as [`AdamW::moments`] gives them.
    ///
    /// # Shapes
    /// Those of the variables, in their order: the caller has checked that.
    pub fn set_moments(&mut self, moments: Vec<Moments>) {
        self.moments = moments;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn it_follows_the_published_algorithm() {
        let (beta1, beta2, eps, weight_decay) = (0.9, 0.99, 1e-8, 0.5);
        let variable = |tensor: Result<Tensor>| Var::from_tensor(&tensor.unwrap()).unwrap();
        let variables = [
            variable(Tensor::new(&[[-0.31f32]], &Device::Cpu)),
            variable(Tensor::new(&[1.73f32], &Device::Cpu)),
        ];
        let value = |i: usize| f64::from(variables[i].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
        let mut optimizer =
            AdamW::new(Hyperparameters { beta1, beta2, eps, weight_decay }, &variables).unwrap();
        // The algorithm in f64, one number at a time; the vector does not decay.
        let mut expected = [(value(0), 0f64, 0f64), (value(1), 0.0, 0.0)];
        for step in 1..=20u64 {
            let learning_rate = 0.1 / step as f64;
            let gradient = |i: usize| (step as f64 * 0.7 + i as f64).sin();
            let gradients = [
                Tensor::new(&[[gradient(0) as f32]], &Device::Cpu).unwrap(),
                Tensor::new(&[gradient(1) as f32], &Device::Cpu).unwrap(),
            ];
            let factor = Tensor::new(0.5f32, &Device::Cpu).unwrap();
            optimizer.step(&variables, &gradients, Some(&factor), step, learning_rate).unwrap();
            for (i, (p, m, v)) in expected.iter_mut().enumerate() {
                let g = gradient(i) * 0.5;
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                let m_hat = *m / (1.0 - beta1.powi(step as i32));
                let v_hat = *v / (1.0 - beta2.powi(step as i32));
                let decay = if i == 0 { learning_rate * weight_decay } else { 0.0 };
                *p = *p * (1.0 - decay) - learning_rate * m_hat / (v_hat.sqrt() + eps);
                // Twenty updates, each rounded to f32 some ten times.
                assert!((*p - value(i)).abs() < 5e-6, "step {step} variable {i}: {p}, got {}", value(i));
            }
        }
    }
}
