//! Exponential, logistic function and normal distribution as straight lines of arithmetic, which the compiler
//! can do for sixteen numbers at once. Errors are measured in the tests.

use crate::simd::Simd;

/// Below it `exp` would leave the normal numbers, above it overflow.
const EXP_RANGE: [f32; 2] = [-87.33, 88.37];

/// `eˣ`, within 2 units in the last place where x lies in [−87.33, 88.37]; held to that range, so that e⁻¹⁰⁰
/// is 1.2e-38 and e¹⁰⁰ is 2.4e38. Not a number stays so.
///
/// With x = n·ln 2 + r and |r| ≤ ln 2 / 2, eˣ = 2ⁿ·eʳ. Adding 1.5·2²³ rounds to the integer n and leaves it
/// in the low bits, so no conversion is needed (a saturating one does not become a vector instruction).
///
/// # References
/// The polynomial and the parts of ln 2 are those of Moshier's Cephes, `expf.c`.
#[inline(always)]
pub(crate) fn exp<S: Simd>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // Written so that a comparison with not-a-number keeps it.
    let x = if x < EXP_RANGE[0] { EXP_RANGE[0] } else { x };
    let x = if x > EXP_RANGE[1] { EXP_RANGE[1] } else { x };
    let shifted = S::mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = S::mul_add(n, -355.0 / 512.0, x);
    let r = S::mul_add(n, 2.121_944_4e-4, r);
    let p = S::mul_add(1.987_569_1e-4, r, 1.398_199_9e-3);
    let p = S::mul_add(p, r, 8.333_452e-3);
    let p = S::mul_add(p, r, 4.166_579_6e-2);
    let p = S::mul_add(p, r, 1.666_666_5e-1);
    let p = S::mul_add(p, r, 0.5);
    let e_r = S::mul_add(p, r * r, r) + 1.0;
    e_r * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

/// `1 / (1 + e⁻ˣ)`, within 3 units in the last place where it is above 1e-38.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<S>(-x))
}

/// `tanh x`, within 3 units in the last place: by a polynomial near 0, where `1 − 2/(e²ˣ + 1)` cancels.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(x: f32) -> f32 {
    const NEAR: f32 = 0.625;
    let a = x.abs();
    let s = x * x;
    let p = S::mul_add(-6.096_714e-3, s, 2.099_718e-2);
    let p = S::mul_add(p, s, -5.385_090_8e-2);
    let p = S::mul_add(p, s, 1.333_277e-1);
    let p = S::mul_add(p, s, -3.333_332_8e-1);
    let near = S::mul_add(p * s, x, x);
    let far = (1.0 - 2.0 / (exp::<S>(2.0 * a) + 1.0)).copysign(x);
    if a < NEAR { near } else { far }
}

/// The normal distribution function `Φ(x)`, within 1.2e-7, and `e^(−x²/2)`.
///
/// `Φ(−a) = e^(−a²/2) · t · P(t)` with `t = 1 / (1 + 0.33 a)`, the form of Abramowitz and Stegun 26.2.17. `P`
/// is of our own making: the polynomial of degree 6 that equals the function at the Chebyshev nodes of
/// 0 ≤ a ≤ 6, off by 2.3e-8 at most.
#[inline(always)]
pub(crate) fn normal_cdf<S: Simd>(x: f32) -> (f32, f32) {
    let a = x.abs();
    let t = 1.0 / S::mul_add(a, 0.33, 1.0);
    let e = exp::<S>(-0.5 * x * x);
    let p = S::mul_add(4.433_359e-2, t, -2.156_259e-1);
    let p = S::mul_add(p, t, 3.230_756_4e-1);
    let p = S::mul_add(p, t, -8.245_128e-2);
    let p = S::mul_add(p, t, 1.779_943_9e-1);
    let p = S::mul_add(p, t, 1.201_052e-1);
    let p = S::mul_add(p, t, 1.325_683_4e-1);
    let tail = p * t * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::dispatch;

    /// The largest error over the points, in units of `unit(expected)`.
    fn worst(points: impl Iterator<Item = f32>, f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
        let error = |x: f32| {
            let expected = exact(f64::from(x));
            let exponent = (expected as f32).to_bits() >> 23;
            let unit = f64::from(f32::from_bits(exponent << 23)) * f64::from(f32::EPSILON);
            (f64::from(f(x)) - expected).abs() / unit
        };
        points.map(error).fold(0.0, f64::max)
    }

    fn exp_here(x: f32) -> f32 {
        dispatch!(exp(x: f32) -> f32)
    }

    fn sigmoid_here(x: f32) -> f32 {
        dispatch!(sigmoid(x: f32) -> f32)
    }

    fn tanh_here(x: f32) -> f32 {
        dispatch!(tanh(x: f32) -> f32)
    }

    fn normal_cdf_here(x: f32) -> (f32, f32) {
        dispatch!(normal_cdf(x: f32) -> (f32, f32))
    }

    fn grid(from: f32, to: f32) -> impl Iterator<Item = f32> {
        let n = 500_000;
        (0..=n).map(move |i| from + (to - from) * i as f32 / n as f32)
    }

    #[test]
    fn exp_is_good_to_two_units() {
        let fused = worst(grid(-87.3, 88.3), exp_here, f64::exp);
        let separate = worst(grid(-87.3, 88.3), exp::<crate::simd::Baseline>, f64::exp);
        assert!(fused < 1.1, "{fused}");
        assert!(separate < 2.0, "{separate}");
        assert_eq!(exp_here(0.0), 1.0);
        assert!(exp_here(f32::NEG_INFINITY) < 1.2e-38 && exp_here(f32::INFINITY) > 2.3e38);
        assert!(exp_here(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_good_to_three_units() {
        let error = worst(grid(-87.0, 87.0), sigmoid_here, |x| 1.0 / (1.0 + (-x).exp()));
        assert!(error < 3.0, "{error}");
    }

    #[test]
    fn tanh_is_good_to_three_units() {
        for grid in [grid(-10.0, 10.0), grid(-1e-3, 1e-3), grid(0.5, 0.7)] {
            let error = worst(grid.filter(|&x| x != 0.0), tanh_here, f64::tanh);
            assert!(error < 3.0, "{error}");
        }
        assert_eq!([0.0, 100.0, f32::NEG_INFINITY].map(tanh_here), [0.0, 1.0, -1.0]);
        assert!(tanh_here(f32::NAN).is_nan());
    }

    #[test]
    fn normal_cdf_is_the_integral_of_the_density() {
        // Simpson's rule with step 1/100 has an error of 1e-10 here, and both halves start at Φ(0) = 1/2.
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        for sign in [1.0, -1.0] {
            let mut cdf = 0.5;
            for step in 0..1200 {
                let [a, b] = [step, step + 1].map(|step| sign * f64::from(step) / 100.0);
                cdf += sign / 600.0 * (density(a) + 4.0 * density((a + b) / 2.0) + density(b));
                let (got, e) = normal_cdf_here(b as f32);
                let at = f64::from(b as f32);
                // The grid's point is rounded to f32: its density times the difference.
                let expected = cdf + (at - b) * density(b);
                assert!((f64::from(got) - expected).abs() < 1.2e-7, "Φ({b}) = {got}, expected {expected}");
                assert!((f64::from(e) - (-0.5 * at * at).exp()).abs() < 2e-7, "at {b}: {e}");
            }
        }
    }
}
