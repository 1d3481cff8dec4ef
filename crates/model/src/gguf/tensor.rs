//! Where a parameter lies in a GGUF file.

use candle_core::{Result, Tensor};

/// A parameter here, and the tensor that it is there.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Its name here.
    pub(crate) ours: String,
    /// Its name there.
    pub(crate) theirs: String,
    /// Its shape here.
    pub(crate) shape: Vec<usize>,
    /// How it is stored.
    pub(crate) storage: Storage,
}

/// A tensor that is no parameter: its name there, and values that follow from the configuration.
pub(crate) type Constant = (&'static str, Vec<f32>);

/// How a tensor is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// As it is, in `f32`: vectors, and tables that are only looked up.
    Exact,
    /// As it is, in the type that was asked for.
    Matrix,
    /// Transposed, in the type that was asked for: a weight (in, out) here is (out, in) there.
    Transposed,
    /// In the type that was asked for, with the rows of each head in another order: those that rotary positions
    /// turn together are half a head apart here, and neighbours there.
    Interleaved {
        /// Heads, one below the other.
        n_heads: usize,
    },
}

impl Entry {
    /// Its shape there.
    pub(crate) fn stored_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.storage == Storage::Transposed {
            shape.reverse();
        }
        shape
    }

    /// A tensor as it is there.
    pub(crate) fn stored(&self, ours: &Tensor) -> Result<Tensor> {
        match self.storage {
            Storage::Exact | Storage::Matrix => Ok(ours.clone()),
            Storage::Transposed => ours.t()?.contiguous(),
            Storage::Interleaved { n_heads } => swapped(ours, [n_heads, 2, self.pairs(n_heads)]),
        }
    }

    /// A tensor as it is here.
    pub(crate) fn restored(&self, theirs: &Tensor) -> Result<Tensor> {
        match self.storage {
            Storage::Exact | Storage::Matrix => Ok(theirs.clone()),
            Storage::Transposed => theirs.t()?.contiguous(),
            Storage::Interleaved { n_heads } => swapped(theirs, [n_heads, self.pairs(n_heads), 2]),
        }
    }

    /// Pairs of rows of a head.
    fn pairs(&self, n_heads: usize) -> usize {
        self.shape[0] / n_heads / 2
    }
}

/// A matrix whose rows, counted by three digits of as many values as `digits` says, have the last two digits swapped.
fn swapped(matrix: &Tensor, digits: [usize; 3]) -> Result<Tensor> {
    let (n_rows, n_columns) = matrix.dims2()?;
    let [heads, outer, inner] = digits;
    matrix.reshape((heads, outer, inner, n_columns))?.transpose(1, 2)?.reshape((n_rows, n_columns))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn pairs_are_neighbours_there_and_come_back() {
        let entry = Entry {
            ours: String::new(),
            theirs: String::new(),
            shape: vec![12, 2],
            storage: Storage::Interleaved { n_heads: 2 },
        };
        let rows: Vec<u32> = (0..12).collect();
        let ours = Tensor::new(rows, &Device::Cpu).unwrap().reshape((12, 1)).unwrap().repeat((1, 2)).unwrap();
        let stored = entry.stored(&ours).unwrap();
        let first: Vec<u32> = stored.to_vec2::<u32>().unwrap().iter().map(|row| row[1]).collect();
        assert_eq!(first, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        let restored = entry.restored(&stored).unwrap();
        assert_eq!(restored.to_vec2::<u32>().unwrap(), ours.to_vec2::<u32>().unwrap());
        assert_eq!(entry.stored_shape(), [12, 2]);
    }
}
