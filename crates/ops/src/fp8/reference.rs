//! The formats by their definition: every code's number in `f64`, and the nearest by search.

use super::{Format, NAN};

/// The number of a code, by the formula of its fields. `None` for what is no finite number.
pub fn number(format: Format, code: u8) -> Option<f64> {
    let (mantissa_bits, bias) = match format {
        Format::E4m3 => (3, 7),
        Format::E5m2 => (2, 15),
    };
    let exponent = i32::from(code >> mantissa_bits & (0x7f >> mantissa_bits));
    let fraction = f64::from(code & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let is_finite = match format {
        Format::E4m3 => code & 0x7f != 0x7f,
        Format::E5m2 => exponent != 31,
    };
    let size = match exponent {
        0 => fraction * 2f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2f64.powi(exponent - bias),
    };
    is_finite.then_some(if code & 0x80 == 0 { size } else { -size })
}

/// The nearest code, the even one of two as near. What is beyond the largest number becomes that.
pub fn nearest(format: Format, x: f32) -> u8 {
    if x.is_nan() {
        return NAN;
    }
    let size = f64::from(x.abs()).min(f64::from(format.largest()));
    let codes = (0..0x80u8).filter_map(|code| Some((code, (number(format, code)? - size).abs())));
    let (code, _) = codes
        .reduce(|best, next| match next.1.total_cmp(&best.1) {
            std::cmp::Ordering::Less => next,
            std::cmp::Ordering::Equal if next.0 % 2 == 0 => next,
            _ => best,
        })
        .expect("a format has numbers");
    code | if x.is_sign_negative() { 0x80 } else { 0 }
}
