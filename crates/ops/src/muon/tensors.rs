//! Muon over candle's variables, on whatever device they are: the reference's update of each in turn.

use candle_core::{Result, Tensor, Var};

use super::{Hyperparameters, Update, muon_update};

/// Muon over a list of matrices. It holds their momentum, in the order and type of the variables.
#[derive(Clone, Debug)]
pub struct Muon {
    hyperparameters: Hyperparameters,
    weight_decay: f64,
    momentum: Vec<Tensor>,
}

impl Muon {
    /// An optimizer of `variables`, each of two dimensions, that has made no update.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn new<'a>(
        hyperparameters: Hyperparameters,
        weight_decay: f64,
        variables: impl IntoIterator<Item = &'a Var>,
    ) -> Result<Self> {
        let momentum = variables.into_iter().map(|var| var.zeros_like()).collect::<Result<_>>()?;
        Ok(Self { hyperparameters, weight_decay, momentum })
    }

    /// Makes one update.
    ///
    /// # Shapes
    /// `variables` are those of [`Muon::new`], and `gradients` are like them, both in the same order; `factor` is a scalar
    /// that multiplies every gradient.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn step<'a>(
        &mut self,
        variables: impl IntoIterator<Item = &'a Var>,
        gradients: &[Tensor],
        factor: Option<&Tensor>,
        learning_rate: f64,
    ) -> Result<()> {
        let &mut Self { hyperparameters, weight_decay, .. } = self;
        let update = Update { hyperparameters, learning_rate, weight_decay, gradient_factor: 1.0 };
        for ((variable, gradient), momentum) in variables.into_iter().zip(gradients).zip(&mut self.momentum) {
            let gradient = match factor {
                Some(factor) => gradient.broadcast_mul(factor)?,
                None => gradient.clone(),
            };
            let value = variable.as_detached_tensor();
            let [value, next] = muon_update(&value, &gradient, momentum, &update)?;
            variable.set(&value)?;
            *momentum = next;
        }
        Ok(())
    }

    /// The momentum of each variable.
    pub fn momentum(&self) -> &[Tensor] {
        &self.momentum
    }

    /// Takes over momentum as [`Muon::momentum`] gives it.
    ///
    /// # Shapes
    /// Those of the variables, in their order: the caller has checked that.
    pub fn set_momentum(&mut self, momentum: Vec<Tensor>) {
        self.momentum = momentum;
    }
}
