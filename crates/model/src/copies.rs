//! Numbers in and out of tensors, on all threads and without a copy in between where they lie on the CPU.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, Var, bail};
use rayon::prelude::*;

/// Elements that one thread copies at once.
const BLOCK: usize = 1 << 18;

/// Copies on all threads.
pub(crate) fn copy(out: &mut [f32], from: &[f32]) {
    assert_eq!(out.len(), from.len(), "a copy is as long as what is copied");
    out.par_chunks_mut(BLOCK).zip(from.par_chunks(BLOCK)).for_each(|(out, from)| out.copy_from_slice(from));
}

/// What `take` makes of a tensor's numbers: where they lie, if that is on the CPU and in order.
pub(crate) fn with_values<T>(tensor: &Tensor, take: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) => Ok(take(&values[start..end])),
        _ => Ok(take(&tensor.flatten_all()?.to_vec1::<f32>()?)),
    }
}

/// Gives a variable other values, as many as it has, where it lies if that is on the CPU.
pub(crate) fn overwrite(var: &Var, values: &[f32]) -> Result<()> {
    match var.device().is_cpu() {
        true => var.inplace_op1(&Overwrite(values)),
        false => var.set(&Tensor::from_slice(values, var.dims(), var.device())?),
    }
}

struct Overwrite<'a>(&'a [f32]);

impl InplaceOp1 for Overwrite<'_> {
    fn name(&self) -> &'static str {
        "overwrite"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(values) = storage else { bail!("parameters are f32") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("a parameter lies in order") };
        copy(&mut values[start..end], self.0);
        Ok(())
    }
}
