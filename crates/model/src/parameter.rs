//! Named parameters and their initial values.

use candle_core::{DType, Device, Result, Tensor, Var};
use wattle_random::{Purpose, Stream};

/// A trainable tensor and its name, which is also its name in a file of weights.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its full name, such as `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Its value, in `f32`.
    pub var: Var,
}

/// Makes a model's parameters one after the other, each from its own stream of random numbers.
pub struct ParameterBuilder<'a> {
    /// `None` makes zeros.
    seed: Option<u64>,
    device: &'a Device,
    parameters: Vec<Parameter>,
}

impl<'a> ParameterBuilder<'a> {
    /// A builder whose random numbers are those of `seed`.
    pub fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed: Some(seed), device, parameters: Vec::new() }
    }

    /// A builder of zeros, for values that come from elsewhere.
    pub fn blank(device: &'a Device) -> Self {
        Self { seed: None, device, parameters: Vec::new() }
    }

    /// Where parameters are made.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// A parameter of normal numbers with mean 0.
    pub fn normal(&mut self, name: &str, shape: &[usize], standard_deviation: f32) -> Result<Var> {
        let Some(seed) = self.seed else { return self.zeros(name, shape) };
        let purpose = Purpose::Init { parameter_idx: self.parameters.len() as u32 };
        let mut values = vec![0f32; shape.iter().product()];
        Stream::new(seed, purpose, 0).fill_normal(0, &mut values);
        values.iter_mut().for_each(|value| *value *= standard_deviation);
        self.push(name, Tensor::from_vec(values, shape, self.device)?)
    }

    /// A parameter of zeros.
    pub fn zeros(&mut self, name: &str, shape: &[usize]) -> Result<Var> {
        // Not through a tensor, which would be copied: a CPU hands out zeros that take no memory until they are changed.
        let var = Var::zeros(shape, DType::F32, self.device)?;
        self.parameters.push(Parameter { name: name.to_owned(), var: var.clone() });
        Ok(var)
    }

    /// A parameter of ones.
    pub fn ones(&mut self, name: &str, shape: &[usize]) -> Result<Var> {
        if self.seed.is_none() {
            return self.zeros(name, shape);
        }
        self.push(name, Tensor::ones(shape, DType::F32, self.device)?)
    }

    /// All parameters, in the order in which they were made.
    pub fn finish(self) -> Vec<Parameter> {
        self.parameters
    }

    fn push(&mut self, name: &str, value: Tensor) -> Result<Var> {
        let var = Var::from_tensor(&value)?;
        self.parameters.push(Parameter { name: name.to_owned(), var: var.clone() });
        Ok(var)
    }
}
