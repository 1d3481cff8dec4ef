//! Named parameters and their initial values.

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;
use wattle_random::{Purpose, Stream};

/// A trainable tensor and its name, which is also its name in a file of weights.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its full name, such as `transformer.h.0.attn.c_attn.weight`.
    pub name: String,
    /// Its value, in `f32`.
    pub var: Var,
}

/// Elements that one thread draws at once; a multiple of the four that one block of random words makes.
const BLOCK: usize = 1 << 14;

/// Normal numbers: each is a function of its place, so threads share them out.
struct Draw {
    stream: Stream,
    standard_deviation: f32,
}

impl Draw {
    fn fill(&self, values: &mut [f32]) {
        values.par_chunks_mut(BLOCK).enumerate().for_each(|(block_idx, block)| {
            self.stream.fill_normal((block_idx * BLOCK) as u64, block);
            block.iter_mut().for_each(|value| *value *= self.standard_deviation);
        });
    }
}

/// Draws a parameter where it lies. Its memory is zeros that nothing has touched yet, so threads take its pages too.
impl InplaceOp1 for Draw {
    fn name(&self) -> &'static str {
        "draw"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { bail!("parameters are f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("a parameter lies in order") };
        self.fill(&mut values[start..end]);
        Ok(())
    }
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
        let draw = Draw { stream: Stream::new(seed, purpose, 0), standard_deviation };
        if self.device.is_cpu() {
            let var = self.zeros(name, shape)?;
            var.inplace_op1(&draw)?;
            return Ok(var);
        }
        let mut values = vec![0f32; shape.iter().product()];
        draw.fill(&mut values);
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
