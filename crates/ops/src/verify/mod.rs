//! Every operation on this machine against its reference in `f64`.

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
    /// The same in units in the last place of `elem` at the size of the output's largest element.
    pub largest_ulps: f64,
    /// Largest difference that is allowed.
    pub tolerance: f64,
}

impl Check {
    /// Whether it is as good as it has to be; what is not a number is not.
    pub fn holds(&self) -> bool {
        self.largest_error <= self.tolerance
    }
}
