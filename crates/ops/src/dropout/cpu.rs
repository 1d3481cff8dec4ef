//! Dropout of rows of `f32`, in place.

use super::Dropout;

/// Numbers drawn at once, on the stack.
const LEN: usize = 256;

impl Dropout {
    /// The factors of elements `first..first + mask.len()`, counted from the start of the whole batch: 0 with
    /// the probability, `1 / (1 − probability)` otherwise.
    pub fn fill_mask(&self, first: u64, mask: &mut [f32]) {
        self.stream.fill_uniform(first, mask);
        let (probability, scale) = (self.probability, 1.0 / (1.0 - self.probability));
        for u in mask {
            *u = if *u >= probability { scale } else { 0.0 };
        }
    }
}

/// `x = x · mask`, with the mask of the sequences that `x` holds.
///
/// # Shapes
/// `x` (b, …), `per_sequence` elements of each sequence.
///
/// # Panics
/// If `x` is not whole sequences.
pub fn fwd(x: &mut [f32], per_sequence: usize, dropout: &Dropout) {
    assert_eq!(x.len() % per_sequence, 0, "whole sequences of {per_sequence} elements");
    if dropout.probability == 0.0 {
        return;
    }
    let first = (dropout.first_sequence * per_sequence) as u64;
    let mut mask = [0f32; LEN];
    for (part_idx, part) in x.chunks_mut(LEN).enumerate() {
        let mask = &mut mask[..part.len()];
        dropout.fill_mask(first + (part_idx * LEN) as u64, mask);
        for (x, &mask) in part.iter_mut().zip(&*mask) {
            *x *= mask;
        }
    }
}

/// `grad = grad · mask`: what is dropped gets no gradient, the rest is scaled as its value was.
///
/// # Shapes
/// As for [`fwd`]: on entry the gradient of its result, on return that of its argument.
///
/// # Panics
/// As for [`fwd`].
pub fn bwd(grad: &mut [f32], per_sequence: usize, dropout: &Dropout) {
    fwd(grad, per_sequence, dropout);
}
