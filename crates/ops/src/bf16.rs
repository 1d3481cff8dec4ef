//! bfloat16 on a CPU: the upper half of an `f32`, by two roundings.
//!
//! Rounding at random keeps the mean: a number that lies a third of the way between two neighbours becomes the farther one
//! in a third of all cases. So a sum that grows by less than half the distance of neighbours grows all the same, where
//! rounding to the nearest would leave it as it is.
//!
//! # References
//! Zamirai et al., *Revisiting BFloat16 Training*, 2020, section 4.1.

use std::ops::Range;

use wattle_random::{Purpose, Stream};

/// The number.
#[inline]
pub fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// The nearest, ties to even.
#[inline]
pub fn nearest(x: f32) -> u16 {
    let bits = x.to_bits();
    match x.is_nan() {
        true => (bits >> 16) as u16 | 0x40,
        false => (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16,
    }
}

/// One of the two neighbours, the farther from zero if the part between them and `noise`, a random half of a word, come
/// to a whole. `noise` 0 rounds towards zero; what bfloat16 holds stays as it is.
#[inline]
pub fn at_random(x: f32, noise: u16) -> u16 {
    let bits = x.to_bits();
    match x.is_finite() {
        true => (bits.wrapping_add(u32::from(noise)) >> 16) as u16,
        false => nearest(x),
    }
}

/// The random numbers that moments are rounded with in one update: a word an element, its lower half for the mean, its
/// upper half for the mean of squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise(Stream);

impl Noise {
    /// Those of update `step` under `seed`.
    pub fn of_moments(seed: u64, step: u64) -> Self {
        Self(Stream::new(seed, Purpose::Rounding, step))
    }

    /// The counter word that tells them from other random numbers.
    pub fn purpose() -> u32 {
        Purpose::Rounding.word()
    }

    /// The words of some elements, counted from the start of the flat buffer.
    pub(crate) fn words(&self, elements: Range<usize>) -> impl Iterator<Item = u32> + use<> {
        let Self(stream) = *self;
        let blocks = elements.start as u64 / 4..(elements.end as u64).div_ceil(4);
        let skipped = elements.start % 4;
        blocks.flat_map(move |block| stream.words(block)).skip(skipped).take(elements.len())
    }
}

/// The random numbers that gradients are rounded with after one micro-batch: half a word an element, the lower one for the
/// elements of even places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GradientNoise {
    stream: Stream,
    first_sequence: usize,
}

/// Blocks of eight elements that a micro-batch has room for: more than any model has.
const BLOCKS_OF_MICRO_BATCH: u64 = 1 << 36;

impl GradientNoise {
    /// Those of update `step` under `seed`, after the micro-batch that begins with sequence `first_sequence` of the step's
    /// batch.
    pub fn of_micro_batch(seed: u64, step: u64, first_sequence: usize) -> Self {
        Self { stream: Stream::new(seed, Purpose::GradientRounding, step), first_sequence }
    }

    /// The counter word that tells them from other random numbers.
    pub fn purpose() -> u32 {
        Purpose::GradientRounding.word()
    }

    /// The block of Philox with the numbers of an element, counted from the start of the flat buffer, and its neighbours.
    pub(crate) fn block(first_sequence: usize, element: usize) -> u64 {
        first_sequence as u64 * BLOCKS_OF_MICRO_BATCH + element as u64 / 8
    }

    /// The numbers of some elements, counted from the start of the flat buffer.
    pub(crate) fn halves(&self, elements: Range<usize>) -> impl Iterator<Item = u16> + use<> {
        let Self { stream, first_sequence } = *self;
        let blocks = elements.start / 8..elements.end.div_ceil(8);
        let halves = blocks.flat_map(move |block| {
            let words = stream.words(Self::block(first_sequence, 8 * block));
            words.into_iter().flat_map(|word| [word as u16, (word >> 16) as u16])
        });
        halves.skip(elements.start % 8).take(elements.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_bfloat16_holds_stays_and_all_else_becomes_a_neighbour() {
        for bits in (0..=u16::MAX).step_by(7) {
            let x = widen(bits);
            if x.is_nan() {
                assert!(widen(nearest(x)).is_nan() && widen(at_random(x, 0xffff)).is_nan());
                continue;
            }
            assert_eq!((nearest(x), at_random(x, 0), at_random(x, 0xffff)), (bits, bits, bits), "{x:e}");
            let third = f32::from_bits(x.to_bits() | 0x5555);
            if third.is_finite() {
                assert_eq!(at_random(third, 0xffff - 0x5555), bits, "{third:e}");
                assert_eq!(at_random(third, 0xffff - 0x5554), bits + 1, "{third:e}");
                assert_eq!(nearest(third), bits);
            }
        }
        assert_eq!(widen(nearest(1.0 + 1.0 / 256.0)), 1.0, "a tie goes to the even one");
        assert_eq!(widen(nearest(1.0 + 3.0 / 256.0)), 1.0 + 4.0 / 256.0);
    }

    #[test]
    fn rounding_at_random_keeps_the_mean() {
        let x = 1.0 + 0.3 / 128.0;
        let noise = Noise::of_moments(3, 5);
        let n = 40_000;
        let sum: f64 = noise.words(0..n).map(|word| f64::from(widen(at_random(x, word as u16)))).sum();
        let mean = sum / n as f64;
        // The deviation of a mean of 40,000 is 0.46 / 200 of the distance of neighbours.
        assert!((mean - f64::from(x)).abs() < 4.0 * 0.0023 / 128.0, "{mean}");
    }

    #[test]
    fn an_elements_word_is_the_same_wherever_a_range_begins() {
        let noise = Noise::of_moments(7, 2);
        let whole: Vec<u32> = noise.words(0..50).collect();
        for first in 0..9 {
            assert_eq!(noise.words(first..40).collect::<Vec<_>>(), whole[first..40], "{first}");
        }
        assert_ne!(whole, Noise::of_moments(7, 3).words(0..50).collect::<Vec<_>>());
    }
}
