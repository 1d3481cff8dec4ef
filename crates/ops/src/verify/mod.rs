//! Every operation on this machine against its reference in `f64`.
//!
//! - [`numbers`]: what to compute with, and gradients of references by autograd
//! - [`cpu`]: the kernels of a CPU, one operation a file
//! - [`board`]: the kernels of a GPU against those of the CPU
//!
//! Standard normal numbers go through a kernel and, in `f64`, through the operation's reference; gradients come
//! from candle's autograd over the reference. A tolerance is what rounding alone explains.

pub mod board;
pub mod cpu;
pub mod numbers;

use crate::board::Elem;

/// What one output of one operation was found to be worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The operation's stem, as its folder is called.
    pub op: &'static str,
    /// What was compared: `out`, or a gradient by its name (`grad_x`, `grad_weight`, …).
    pub output: &'static str,
    /// Type that it was computed in.
    pub elem: Elem,
    /// The shape, for a person.
    pub shape: String,
    /// Largest difference from the reference.
    pub largest_error: f64,
    /// The same in units in the last place of `elem` at the size of the output's largest element; at 1 where all
    /// elements cancel to nothing.
    pub largest_ulps: f64,
    /// Largest difference that is allowed.
    pub tolerance: f64,
}

/// What is being checked: an operation, the type that it computes in, and a shape.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The operation's stem.
    pub op: &'static str,
    /// Type that it computes in.
    pub elem: Elem,
    /// The shape, for a person.
    pub shape: String,
}

impl Check {
    /// Whether it is as good as it has to be; what is not a number is not.
    pub fn holds(&self) -> bool {
        self.largest_error <= self.tolerance
    }
}

impl Subject {
    /// An operation in `f32`.
    pub fn f32(op: &'static str, shape: impl Into<String>) -> Self {
        Self { op, elem: Elem::F32, shape: shape.into() }
    }

    /// Holds what a kernel gave against what its reference gives.
    ///
    /// # Panics
    /// If they are not of the same length.
    pub fn compare(&self, output: &'static str, got: &[f32], expected: &[f64], tolerance: f64) -> Check {
        assert_eq!(got.len(), expected.len(), "{} of {}", output, self.op);
        let largest = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
        #[cfg(test)]
        let got = &tests::sabotaged(got, largest)[..];
        let errors = got.iter().zip(expected).map(|(&got, &expected)| (f64::from(got) - expected).abs());
        // Not-a-number stays, whatever comes after it.
        let largest_error =
            errors.fold(0f64, |max, error| if error <= max || max.is_nan() { max } else { error });
        // Where nothing but cancellation is left, errors are those of terms of size 1.
        let size = if largest < tolerance { 1.0 } else { largest };
        Check {
            op: self.op,
            output,
            elem: self.elem,
            shape: self.shape.clone(),
            largest_error,
            largest_ulps: largest_error / unit(self.elem, size),
            tolerance,
        }
    }
}

/// The distance between neighbouring numbers of the size of `x`.
fn unit(elem: Elem, x: f64) -> f64 {
    let epsilon = match elem {
        Elem::F32 => f64::from(f32::EPSILON),
        Elem::Bf16 => 2f64.powi(-7),
        Elem::E4m3 => 2f64.powi(-3),
        Elem::E5m2 => 2f64.powi(-2),
    };
    let size = x.max(f64::from(f32::MIN_POSITIVE));
    size.log2().floor().exp2() * epsilon
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static SABOTAGE: Cell<bool> = const { Cell::new(false) };
    }

    /// What a kernel would give that is wrong in one element, by a hundredth of the largest, or of 1 where the
    /// largest is what cancellation leaves.
    pub(super) fn sabotaged(got: &[f32], largest: f64) -> Vec<f32> {
        let mut got = got.to_vec();
        if SABOTAGE.get() {
            let middle = got.len() / 2;
            let size = if largest < 0.1 { 1.0 } else { largest };
            got[middle] += (size * 0.01) as f32;
        }
        got
    }

    #[test]
    fn every_check_holds_here_and_none_when_one_element_is_wrong_by_a_hundredth() {
        let right = cpu::checks().unwrap();
        let failed: Vec<_> = right.iter().filter(|check| !check.holds()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        SABOTAGE.set(true);
        let wrong = cpu::checks().unwrap();
        SABOTAGE.set(false);
        let passed: Vec<_> = wrong.iter().filter(|check| check.holds()).collect();
        assert!(passed.is_empty(), "not noticed: {passed:#?}");
        assert_eq!(wrong.len(), right.len());
    }

    #[test]
    fn errors_are_counted_in_units_of_the_largest_element() {
        let subject = Subject::f32("op", "");
        let check = subject.compare("out", &[1.0, -5.0], &[1.0, -5.0 + 4.0 * 2f64.powi(-23)], 1e-6);
        assert_eq!((check.largest_error, check.largest_ulps), (4.0 * 2f64.powi(-23), 1.0));
        assert!(check.holds());
        assert!(!subject.compare("out", &[f32::NAN, 0.0], &[0.0, 0.0], 1.0).holds());
        assert!(!subject.compare("out", &[0.0, f32::INFINITY], &[0.0, 0.0], 1.0).holds());
    }
}
