//! What a checkpoint wants of an optimizer, whichever tier it belongs to.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Result, Tensor};
use wattle_model::engine::FlatState;
use wattle_model::hugging_face::write_safetensors;
use wattle_model::{DeviceEngine, EngineError, ModelError, Parameter};

use crate::adamw::AdamW;

/// Moments as named tensors: `<parameter>.exp_avg` and `<parameter>.exp_avg_sq`, PyTorch's names. A checkpoint
/// of one engine tier can be read by another.
pub trait OptimizerState {
    /// Writes the moments to a safetensors file.
    ///
    /// # Errors
    /// If the file cannot be written; what was written of it is left for the caller to remove.
    fn write_state(&self, parameters: &[Parameter], path: &Path) -> std::result::Result<(), ModelError>;

    /// Takes over moments as [`OptimizerState::write_state`] writes them.
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
    fn write_state(&self, parameters: &[Parameter], path: &Path) -> std::result::Result<(), ModelError> {
        write_safetensors(path, &self.state(parameters))
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
    fn write_state(&self, _parameters: &[Parameter], path: &Path) -> std::result::Result<(), ModelError> {
        self.write_moments(path)
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
    fn write_state(&self, _parameters: &[Parameter], path: &Path) -> std::result::Result<(), ModelError> {
        write_safetensors(path, &self.moments().map_err(tensor_error)?)
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
