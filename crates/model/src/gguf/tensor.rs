//! Where a parameter lies in a GGUF file.

use candle_core::{Result, Tensor};

/// A parameter here, and the tensor that it is there.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its name here.
    pub(super) ours: String,
    /// Its name there.
    pub(super) theirs: String,
    /// Its shape here.
    pub(super) shape: Vec<usize>,
    /// How it is stored.
    pub(super) storage: Storage,
}

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// As it is, in `f32`: vectors, and tables that are only looked up.
    Exact,
    /// As it is, in the type that was asked for.
    Matrix,
    /// Transposed, in the type that was asked for: a weight (in, out) here is (out, in) there.
    Transposed,
}

impl Entry {
    /// Its shape there.
    pub(super) fn stored_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.storage == Storage::Transposed {
            shape.reverse();
        }
        shape
    }

    /// A tensor as it is there.
    pub(super) fn stored(&self, ours: &Tensor) -> Result<Tensor> {
        match self.storage {
            Storage::Exact | Storage::Matrix => Ok(ours.clone()),
            Storage::Transposed => ours.t()?.contiguous(),
        }
    }

    /// A tensor as it is here.
    pub(super) fn restored(&self, theirs: &Tensor) -> Result<Tensor> {
        match self.storage {
            Storage::Exact | Storage::Matrix => Ok(theirs.clone()),
            Storage::Transposed => theirs.t()?.contiguous(),
        }
    }
}
