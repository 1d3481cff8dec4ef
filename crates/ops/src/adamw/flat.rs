//! AdamW over candle's variables as one: the reference's update of all of them, laid one after the other.
//!
//! On a device a launch costs more than what it computes for a variable of some thousand numbers. The update of each in
//! turn is some fifteen launches a variable; this one is seventeen for all, and four copies a variable. Every element is
//! computed as by [`AdamW`](super::AdamW), so the bits are the same.

use candle_core::{DType, Device, Result, Tensor, Var};

use super::reference::{MomentsAndStep, moments_and_step};
use super::{Hyperparameters, Moments, Update, decays};

/// AdamW over a list of variables of one type. It holds their moments.
#[derive(Clone, Debug)]
pub struct FlatAdamW {
    hyperparameters: Hyperparameters,
    /// Where each variable lies, in their order: those that decay come first.
    places: Vec<Place>,
    n_decaying: usize,
    mean: Tensor,
    mean_square: Tensor,
}

#[derive(Clone, Debug)]
struct Place {
    start: usize,
    dims: Vec<usize>,
}

impl Place {
    fn len(&self) -> usize {
        self.dims.iter().product()
    }
}

impl FlatAdamW {
    /// An optimizer of `variables` that has made no update; `None` if they are not of one type on one device.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn new<'a>(
        hyperparameters: Hyperparameters,
        variables: impl IntoIterator<Item = &'a Var>,
    ) -> Result<Option<Self>> {
        let variables: Vec<&Var> = variables.into_iter().collect();
        let kind = |var: &Var| (var.dtype(), var.device().location());
        let Some(first) = variables.first() else { return Ok(None) };
        if variables.iter().any(|var| kind(var) != kind(first)) {
            return Ok(None);
        }
        let mut n = 0;
        let mut starts = vec![0; variables.len()];
        let mut n_decaying = 0;
        for is_decaying in [true, false] {
            for (var, start) in variables.iter().zip(&mut starts) {
                if decays(var.dims()) == is_decaying {
                    *start = n;
                    n += var.elem_count();
                }
            }
            n_decaying = if is_decaying { n } else { n_decaying };
        }
        let place = |(var, start): (&&Var, usize)| Place { start, dims: var.dims().to_vec() };
        let places = variables.iter().zip(starts).map(place).collect();
        let zeros = || Tensor::zeros(n, first.dtype(), first.device());
        Ok(Some(Self { hyperparameters, places, n_decaying, mean: zeros()?, mean_square: zeros()? }))
    }

    /// Tensors of the variables' shapes, in their order, as one (n).
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn flatten(&self, tensors: &[Tensor]) -> Result<Tensor> {
        let mut pieces: Vec<_> = self.places.iter().zip(tensors).collect();
        pieces.sort_by_key(|(place, _)| place.start);
        let pieces =
            pieces.into_iter().map(|(_, tensor)| tensor.flatten_all()).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&pieces, 0)
    }

    /// Makes update number `step`, counted from 1.
    ///
    /// # Shapes
    /// `variables` are those of [`FlatAdamW::new`], in their order, and `gradient` (n) is what [`FlatAdamW::flatten`] made
    /// of theirs; `factor` is a scalar that multiplies every gradient.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn step<'a>(
        &mut self,
        variables: impl IntoIterator<Item = &'a Var>,
        gradient: &Tensor,
        factor: Option<&Tensor>,
        step: u64,
        learning_rate: f64,
    ) -> Result<()> {
        let hyperparameters = self.hyperparameters;
        let update = Update { hyperparameters, learning_rate, step, gradient_factor: 1.0 };
        let gradient = match factor {
            Some(factor) => gradient.broadcast_mul(factor)?,
            None => gradient.clone(),
        };
        let variables: Vec<&Var> = variables.into_iter().collect();
        let values: Vec<Tensor> = variables.iter().map(|var| var.as_detached_tensor()).collect();
        let values = self.flatten(&values)?;
        let MomentsAndStep { mean, mean_square, step } =
            moments_and_step(&gradient, &self.mean, &self.mean_square, &update)?;
        // The values of variables that decay, and of the others.
        let parts = [(0, self.n_decaying, true), (self.n_decaying, values.dim(0)? - self.n_decaying, false)];
        let mut after = Vec::new();
        for (start, len, is_decaying) in parts {
            let part = |x: &Tensor| x.narrow(0, start, len);
            after.push(match len {
                0 => None,
                _ => Some(((part(&values)? * update.decay(is_decaying))? - part(&step)?)?),
            });
        }
        for (var, place) in variables.into_iter().zip(&self.places) {
            let (part, before) = if place.start < self.n_decaying { (0, 0) } else { (1, self.n_decaying) };
            let part = after[part].as_ref().expect("a variable lies in a part that has elements");
            var.set(&part.narrow(0, place.start - before, place.len())?.reshape(place.dims.as_slice())?)?;
        }
        (self.mean, self.mean_square) = (mean, mean_square);
        Ok(())
    }

    /// The moments, one entry a variable, on the CPU.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn moments(&self) -> Result<Vec<Moments>> {
        // One read of each; pieces of a tensor on a device would each bring all of it along.
        let [mean, mean_square] = [&self.mean, &self.mean_square].map(|flat| flat.to_device(&Device::Cpu));
        let (mean, mean_square) = (mean?, mean_square?);
        let of = |place: &Place| {
            let piece = |flat: &Tensor| {
                let piece = flat.narrow(0, place.start, place.len())?.force_contiguous()?;
                piece.reshape(place.dims.as_slice())
            };
            Ok(Moments { mean: piece(&mean)?, mean_square: piece(&mean_square)? })
        };
        self.places.iter().map(of).collect()
    }

    /// Takes over moments as [`FlatAdamW::moments`] gives them, wherever they lie.
    ///
    /// # Shapes
    /// Those of the variables, in their order: the caller has checked that.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn set_moments(&mut self, moments: Vec<Moments>) -> Result<()> {
        let (means, squares): (Vec<_>, Vec<_>) =
            moments.into_iter().map(|Moments { mean, mean_square }| (mean, mean_square)).unzip();
        let (device, dtype): (Device, DType) = (self.mean.device().clone(), self.mean.dtype());
        let there = |flat: Tensor| flat.to_dtype(dtype)?.to_device(&device);
        (self.mean, self.mean_square) = (there(self.flatten(&means)?)?, there(self.flatten(&squares)?)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::AdamW;

    #[test]
    fn it_is_the_update_of_each_in_turn_to_the_bit() {
        let hyperparameters = Hyperparameters { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.3 };
        let value = |i: usize, dims: &[usize]| {
            let n: usize = dims.iter().product();
            let values: Vec<f32> = (0..n).map(|k| ((i * 31 + k * 7) as f32).sin()).collect();
            Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
        };
        let all_dims: [&[usize]; 5] = [&[3], &[2, 3], &[1], &[4, 1, 2], &[5]];
        let variables = || -> Vec<Var> {
            let var = |(i, dims): (usize, &&[usize])| Var::from_tensor(&value(i, dims)).unwrap();
            all_dims.iter().enumerate().map(var).collect()
        };
        let bits = |tensor: &Tensor| -> Vec<u32> {
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
        };
        let (each, together) = (variables(), variables());
        let mut in_turn = AdamW::new(hyperparameters, &each).unwrap();
        let mut flat = FlatAdamW::new(hyperparameters, &together).unwrap().unwrap();
        for step in 1..=6 {
            let gradients: Vec<Tensor> =
                all_dims.iter().enumerate().map(|(i, dims)| value(100 * step as usize + i, dims)).collect();
            let factor = (step % 2 == 0).then(|| Tensor::new(0.37f32, &Device::Cpu).unwrap());
            in_turn.step(&each, &gradients, factor.as_ref(), step, 0.02).unwrap();
            let gradient = flat.flatten(&gradients).unwrap();
            flat.step(&together, &gradient, factor.as_ref(), step, 0.02).unwrap();
            if step == 3 {
                // Through a checkpoint.
                let moments = flat.moments().unwrap();
                flat = FlatAdamW::new(hyperparameters, &together).unwrap().unwrap();
                flat.set_moments(moments).unwrap();
            }
            for (a, b) in each.iter().zip(&together) {
                assert_eq!(bits(a), bits(b), "step {step}");
            }
            for (a, b) in in_turn.moments().iter().zip(flat.moments().unwrap()) {
                assert_eq!(a.mean.dims(), b.mean.dims());
                assert_eq!([bits(&a.mean), bits(&a.mean_square)], [bits(&b.mean), bits(&b.mean_square)]);
            }
        }
    }

    #[test]
    fn variables_of_several_types_are_not_laid_together() {
        let var = |dtype| Var::zeros((2, 2), dtype, &Device::Cpu).unwrap();
        let hyperparameters = Hyperparameters { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
        assert!(FlatAdamW::new(hyperparameters, &[var(DType::F32), var(DType::F64)]).unwrap().is_none());
        assert!(FlatAdamW::new(hyperparameters, &[]).unwrap().is_none());
        // None of which decays.
        let bias = Var::ones(3, DType::F32, &Device::Cpu).unwrap();
        let mut flat = FlatAdamW::new(hyperparameters, [&bias]).unwrap().unwrap();
        let gradient = flat.flatten(&[bias.as_detached_tensor()]).unwrap();
        flat.step([&bias], &gradient, None, 1, 0.5).unwrap();
        assert!(bias.to_vec1::<f32>().unwrap()[0] < 0.51);
    }
}
