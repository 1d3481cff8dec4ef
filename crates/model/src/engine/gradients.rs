//! In which type gradients are accumulated.

use wattle_ops::board::Elem;

wattle_settings::choices! {
    /// A type of the gradients of blocks' matrices.
    pub enum GradientType (default F32) {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the exponent of `f32`: on a GPU half the memory. After each micro-batch, sums are rounded at random by
        /// `run.seed`, the step, the micro-batch and an element's place, so a resume is exact. One rank on a GPU.
        Bf16 = "bf16",
    }
}

impl GradientType {
    /// Type of an element.
    pub fn elem(self) -> Elem {
        match self {
            Self::F32 => Elem::F32,
            Self::Bf16 => Elem::Bf16,
        }
    }
}
