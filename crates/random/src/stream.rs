//! Draws addressed by seed, purpose, step and element.

use crate::philox::philox4x32;

/// What a stream of numbers is for. Two purposes never share a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The initial value of the parameter with this index.
    Init {
        /// Position of the parameter in the model's list.
        parameter_idx: u32,
    },
    /// A dropout mask of the layer and site with this index.
    Dropout {
        /// Position of the dropout in the model, counted from the input.
        site_idx: u32,
    },
    /// The order in which training windows are visited.
    Order,
    /// The choices of a text generator.
    Corpus,
    /// Sampling of tokens from a model's predictions.
    Sampling,
    /// Rounding of an optimizer's moments.
    Rounding,
    /// Rounding of gradients after a micro-batch.
    GradientRounding,
}

impl Purpose {
    /// The counter word that keeps purposes apart: the top byte is the kind, the rest its index.
    ///
    /// # Panics
    /// If the index is 2²⁴ or more.
    pub fn word(self) -> u32 {
        let (kind, index) = match self {
            Purpose::Init { parameter_idx } => (1, parameter_idx),
            Purpose::Dropout { site_idx } => (2, site_idx),
            Purpose::Order => (3, 0),
            Purpose::Corpus => (4, 0),
            Purpose::Sampling => (5, 0),
            Purpose::Rounding => (6, 0),
            Purpose::GradientRounding => (7, 0),
        };
        assert!(index < 1 << 24, "at most 2^24 parameters or dropout sites, got index {index}");
        kind << 24 | index
    }
}

/// Random numbers of one purpose at one step: element `i` is always the same number.
///
/// The counter is `(element / 4, step, purpose)` and the key is the seed, so streams of different seeds,
/// purposes or steps do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    key: [u32; 2],
    purpose: u32,
    step: u32,
}

impl Stream {
    /// The stream of `purpose` at `step` under `seed`. `step` is an optimizer step for dropout, an epoch for
    /// order, a document for a corpus, and 0 where there is but one.
    ///
    /// # Panics
    /// If `step` does not fit 32 bits.
    pub fn new(seed: u64, purpose: Purpose, step: u64) -> Self {
        let step = u32::try_from(step).expect("fewer than 2^32 steps");
        Self { key: [seed as u32, (seed >> 32) as u32], purpose: purpose.word(), step }
    }

    /// A random 32-bit word.
    #[inline]
    pub fn word(&self, element: u64) -> u32 {
        self.block(element / 4)[(element % 4) as usize]
    }

    /// The random words of elements `4 · block` to `4 · block + 3`.
    #[inline]
    pub fn words(&self, block: u64) -> [u32; 4] {
        self.block(block)
    }

    /// A number in `[0, 1)` on a grid of 2⁻²⁴, exact in `f32`.
    #[inline]
    pub fn uniform(&self, element: u64) -> f32 {
        to_unit(self.word(element))
    }

    /// Fills `out` with uniform numbers, those of elements `first..first + out.len()`.
    pub fn fill_uniform(&self, first: u64, out: &mut [f32]) {
        self.fill(first, out, |words| words.map(to_unit));
    }

    /// Fills `out` with standard normal numbers, those of elements `first..first + out.len()`.
    ///
    /// Box-Muller in `f64`, rounded once, so that results do not hang on the platform's `f32` logarithm.
    pub fn fill_normal(&self, first: u64, out: &mut [f32]) {
        self.fill(first, out, |[a, b, c, d]| {
            let (x, y) = box_muller(a, b);
            let (z, w) = box_muller(c, d);
            [x, y, z, w]
        });
    }

    fn fill(&self, first: u64, out: &mut [f32], draw: impl Fn([u32; 4]) -> [f32; 4]) {
        let skip = (first % 4) as usize;
        let (head, whole) = out.split_at_mut(if skip == 0 { 0 } else { out.len().min(4 - skip) });
        if !head.is_empty() {
            head.copy_from_slice(&draw(self.block(first / 4))[skip..skip + head.len()]);
        }
        let mut blocks = whole.chunks_exact_mut(4);
        let mut block = first.div_ceil(4);
        for four in &mut blocks {
            four.copy_from_slice(&draw(self.block(block)));
            block += 1;
        }
        let tail = blocks.into_remainder();
        if !tail.is_empty() {
            tail.copy_from_slice(&draw(self.block(block))[..tail.len()]);
        }
    }

    #[inline]
    fn block(&self, block: u64) -> [u32; 4] {
        philox4x32([block as u32, (block >> 32) as u32, self.step, self.purpose], self.key)
    }
}

#[inline]
fn to_unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

fn box_muller(a: u32, b: u32) -> (f32, f32) {
    let scale = 1.0 / 4_294_967_296.0;
    let radius = (-2.0 * ((f64::from(a) + 0.5) * scale).ln()).sqrt();
    let angle = std::f64::consts::TAU * f64::from(b) * scale;
    ((radius * angle.cos()) as f32, (radius * angle.sin()) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_from_the_middle_gives_the_same_numbers() {
        let stream = Stream::new(7, Purpose::Dropout { site_idx: 3 }, 11);
        let mut whole = [0f32; 41];
        stream.fill_uniform(0, &mut whole);
        for first in 0..9 {
            let mut part = [0f32; 30];
            stream.fill_uniform(first, &mut part);
            assert_eq!(part, whole[first as usize..first as usize + 30]);
        }
        assert_eq!(whole[17], stream.uniform(17));
    }

    #[test]
    fn seeds_purposes_and_steps_do_not_share_numbers() {
        let base = Stream::new(1, Purpose::Order, 0).word(0);
        for other in [
            Stream::new(2, Purpose::Order, 0),
            Stream::new(1 << 32 | 1, Purpose::Order, 0),
            Stream::new(1, Purpose::Corpus, 0),
            Stream::new(1, Purpose::Order, 1),
        ] {
            assert_ne!(base, other.word(0));
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        const N: usize = 1 << 18;
        let mut x = vec![0f32; N];
        let moments = |x: &[f32]| {
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / N as f64;
            let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / N as f64;
            (mean, variance)
        };
        // Five standard errors of each estimate.
        let stream = Stream::new(42, Purpose::Init { parameter_idx: 0 }, 0);
        stream.fill_uniform(0, &mut x);
        let (mean, variance) = moments(&x);
        assert!((mean - 0.5).abs() < 5.0 * (1.0 / 12.0 / N as f64).sqrt(), "{mean}");
        assert!((variance - 1.0 / 12.0).abs() < 5.0 * (1.0 / 180.0 / N as f64).sqrt(), "{variance}");
        stream.fill_normal(0, &mut x);
        let (mean, variance) = moments(&x);
        assert!(mean.abs() < 5.0 / (N as f64).sqrt(), "{mean}");
        assert!((variance - 1.0).abs() < 5.0 * (2.0 / N as f64).sqrt(), "{variance}");
    }
}
