//! What an engine takes of memory.

/// Bytes by kind. The model's own tensors, into which weights are published, are not among them, nor the few
/// hundred KiB that a matrix product takes on each thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimizer's moments: AdamW's two, of matrices that Muon updates one.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// Gradients of activations, and what is needed for a moment alone.
    pub scratch: u64,
}

impl MemoryPlan {
    /// All together.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.gradients, self.moments, self.activations, self.scratch];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}
