//! What a checkpoint wants of an optimizer, whichever tier it belongs to.

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use wattle_model::engine::FlatState;
use wattle_model::{DeviceEngine, EngineError, Parameter};

use crate::adamw::AdamW;

/// Moments as named tensors: `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, PyTorch's names. A checkpoint
/// of one engine tier can be read by another.
pub trait OptimizerState {
    /// The moments.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn state(&self, parameters: &[Parameter]) -> Result<Vec<(String, Tensor)>>;

    /// Takes over moments as [`OptimizerState::state`] gives them.
    ///
    /// # Errors
    /// The outer if a tensor operation fails; the inner names what is missing or of another shape, and nothing
    /// is changed then.
    fn set_state(
        &mut self,
        parameters: &[Parameter],
        state: &HashMap<String, Tensor>,
    ) -> Result<std::result::Result<(), Vec<String>>>;
}

impl OptimizerState for AdamW {
    fn state(&self, parameters: &[Parameter]) -> Result<Vec<(String, Tensor)>> {
        Ok(self.state(parameters))
    }

    fn set_state(
        &mut self,
        parameters: &[Parameter],
        state: &HashMap<String, Tensor>,
    ) -> Result<std::result::Result<(), Vec<String>>> {
        Ok(self.set_state(parameters, state))
    }
}

impl OptimizerState for FlatState {
    fn state(&self, _parameters: &[Parameter]) -> Result<Vec<(String, Tensor)>> {
        self.moments()
    }

    fn set_state(
        &mut self,
        _parameters: &[Parameter],
        state: &HashMap<String, Tensor>,
    ) -> Result<std::result::Result<(), Vec<String>>> {
        self.set_moments(state)
    }
}

impl OptimizerState for Box<dyn DeviceEngine> {
    fn state(&self, _parameters: &[Parameter]) -> Result<Vec<(String, Tensor)>> {
        self.moments().map_err(tensor_error)
    }

    fn set_state(
        &mut self,
        _parameters: &[Parameter],
        state: &HashMap<String, Tensor>,
    ) -> Result<std::result::Result<(), Vec<String>>> {
        self.set_moments(state).map_err(tensor_error)
    }
}

fn tensor_error(error: EngineError) -> candle_core::Error {
    match error {
        EngineError::Tensor(error) => error,
        other => candle_core::Error::wrap(other),
    }
}
