//! What a step leaves in device memory, as kernels and the host share it.

/// What is known of a step's gradient, as `kernels/common.cuh` has it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct GradNorm {
    /// Its norm, before clipping.
    pub norm: f64,
    /// What clipping multiplies it by.
    pub factor: f32,
    /// Whether the run is halted: 0 at first, and never again once it is not.
    pub halted: u32,
}

impl GradNorm {
    /// Bytes that it takes.
    pub const BYTES: usize = size_of::<Self>();

    /// From the device's memory.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, factor @ .., i, j, k, l] = *bytes;
        Self {
            norm: f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            factor: f32::from_ne_bytes(factor),
            halted: u32::from_ne_bytes([i, j, k, l]),
        }
    }
}

/// What one step said.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct StepResult {
    /// Sum of losses in nats.
    pub loss: f64,
    /// Tokens that were the model's first choice.
    pub n_correct: u32,
    /// Norm of the gradient, before clipping.
    pub grad_norm: f32,
}

impl StepResult {
    /// Bytes that it takes.
    pub const BYTES: usize = size_of::<Self>();

    /// As it lies in the ring.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word = |first: usize| [bytes[first], bytes[first + 1], bytes[first + 2], bytes[first + 3]];
        let [a, b, c, d] = word(0);
        let [e, f, g, h] = word(4);
        Self {
            loss: f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            n_correct: u32::from_ne_bytes(word(8)),
            grad_norm: f32::from_ne_bytes(word(12)),
        }
    }
}
