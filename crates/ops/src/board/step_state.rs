//! What differs from step to step, as it lies in device memory for a recorded step to read.

/// The numbers of one step. `kernels/common.cuh` reads the same layout.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct StepState {
    /// Which update it is, counted from 1.
    pub step: u32,
    /// Where in the ring of results its own go.
    pub slot: u32,
    /// Learning rate over the correction of the mean, `η / (1 − β₁ᵗ)`.
    pub rate: f32,
    /// `1 / (1 − β₂ᵗ)`
    pub inverse_square_correction: f32,
    /// What a decaying weight is multiplied by, `1 − η λ`.
    pub decay: f32,
    /// Learning rate, η.
    pub learning_rate: f32,
}

impl StepState {
    /// Bytes that it takes.
    pub const BYTES: usize = size_of::<Self>();

    /// The numbers of an update; each is rounded once, as on the CPU.
    pub fn new(update: &crate::adamw::Update, slot: u32) -> Self {
        Self {
            step: u32::try_from(update.step).expect("fewer than 2^32 steps"),
            slot,
            rate: (update.learning_rate / update.mean_correction()) as f32,
            inverse_square_correction: (1.0 / update.square_correction()) as f32,
            decay: update.decay(true) as f32,
            learning_rate: update.learning_rate as f32,
        }
    }

    /// As they lie in memory.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [
            self.step,
            self.slot,
            self.rate.to_bits(),
            self.inverse_square_correction.to_bits(),
            self.decay.to_bits(),
            self.learning_rate.to_bits(),
        ];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}
