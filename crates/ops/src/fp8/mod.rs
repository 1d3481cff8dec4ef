//! Numbers of eight bits, and tensors rounded to them with one scale each.
//!
//! ```text
//! scale = the least power of two with max |x| ≤ scale · largest          code = round(x / scale)
//! ```
//! The scale is that of the values at hand ("current scaling"), not of earlier steps: it needs no history, so a run
//! resumes to the bit from weights and moments alone, and no value is ever too large. That costs one more read of each
//! tensor. A power of two divides exactly, so the only rounding is the format's; it gives away less than one of the 18
//! binades of e4m3.
//!
//! Rounding is to the nearest, ties to even. A tensor with an infinity or a not-a-number has a not-a-number as its scale,
//! and so has every product made with it.
//!
//! [`mod@reference`] is the formats by search through their 256 codes; [`cpu`] rounds slices of `f32`; [`board`] writes codes,
//! and transposed ones, on a GPU.
//!
//! # References
//! Micikevicius et al., *FP8 Formats for Deep Learning*, 2022, tables 1 and 2 and section 3.

pub mod board;
pub mod cpu;
pub mod reference;

use crate::board::Elem;

/// A product's sizes are multiples of this: what FP8 kernels take.
pub const MULTIPLE: usize = 16;

/// A format of eight bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Four bits of exponent, three of mantissa, no infinity; up to 448. For activations and weights.
    E4m3,
    /// Five bits of exponent, two of mantissa; up to 57,344. For gradients.
    E5m2,
}

/// What [`Format::encode`] makes of what is no number.
pub const NAN: u8 = 0x7f;

impl Format {
    /// Both.
    pub const ALL: [Self; 2] = [Self::E4m3, Self::E5m2];

    /// Bits of the mantissa.
    const fn mantissa_bits(self) -> u32 {
        match self {
            Self::E4m3 => 3,
            Self::E5m2 => 2,
        }
    }

    /// What is added to exponents.
    const fn bias(self) -> u32 {
        match self {
            Self::E4m3 => 7,
            Self::E5m2 => 15,
        }
    }

    /// The code of the largest number.
    const fn largest_code(self) -> u32 {
        match self {
            Self::E4m3 => 0x7e,
            Self::E5m2 => 0x7b,
        }
    }

    /// The largest number.
    pub const fn largest(self) -> f32 {
        match self {
            Self::E4m3 => 448.0,
            Self::E5m2 => 57_344.0,
        }
    }

    /// The nearest code, ties to even. What is too large becomes the largest number, infinities too.
    #[inline]
    pub fn encode(self, x: f32) -> u8 {
        let (mantissa, bias) = (self.mantissa_bits(), self.bias());
        let (sign, size) = (x.to_bits() >> 31 << 7, x.to_bits() & 0x7fff_ffff);
        if size > f32::INFINITY.to_bits() {
            return NAN;
        }
        let dropped = 23 - mantissa;
        let code = if size >= (128 - bias) << 23 {
            let rounded = size + (1 << (dropped - 1)) - 1 + (size >> dropped & 1);
            ((rounded >> dropped) - ((127 - bias) << mantissa)).min(self.largest_code())
        } else {
            // Neighbours of the sum are as far apart as the format's numbers below its least normal one.
            let shift = f32::from_bits((128 - bias + dropped) << 23);
            (f32::from_bits(size) + shift).to_bits() - shift.to_bits()
        };
        (sign | code) as u8
    }

    /// The number of a code.
    #[inline]
    pub fn decode(self, code: u8) -> f32 {
        let (mantissa, bias) = (self.mantissa_bits(), self.bias());
        let (exponent, fraction) =
            (u32::from(code & 0x7f) >> mantissa, u32::from(code) & ((1 << mantissa) - 1));
        let size = match (self, code & 0x7f) {
            (Self::E4m3, 0x7f) | (Self::E5m2, 0x7d..) => f32::NAN,
            (Self::E5m2, 0x7c) => f32::INFINITY,
            _ if exponent == 0 => fraction as f32 * f32::from_bits((128 - bias - mantissa) << 23),
            _ => f32::from_bits((exponent + 127 - bias) << 23 | fraction << (23 - mantissa)),
        };
        if code >> 7 == 1 { -size } else { size }
    }

    /// The scale of a tensor whose largest magnitude has these bits: 1 where all is zero, not a number where that is not
    /// finite.
    pub fn scale(self, largest_bits: u32) -> f32 {
        let (exponent, fraction) = (largest_bits >> 23, largest_bits & 0x7f_ffff);
        if largest_bits == 0 {
            return 1.0;
        }
        if exponent == 0xff {
            return f32::NAN;
        }
        // The largest number of either format is 1.75 times a power of two, whose exponent this is.
        let of_largest = (self.largest().to_bits() >> 23) - 127;
        let over = u32::from(fraction > 0x60_0000);
        f32::from_bits((exponent + over).saturating_sub(of_largest).max(1) << 23)
    }
}

impl From<Format> for Elem {
    fn from(format: Format) -> Self {
        match format {
            Format::E4m3 => Self::E4m3,
            Format::E5m2 => Self::E5m2,
        }
    }
}

/// Whether a product of these sizes can be one of numbers of eight bits.
pub fn fits(sizes: &[usize]) -> bool {
    sizes.iter().all(|size| size.is_multiple_of(MULTIPLE))
}
