//! Attention by a library of the device's vendor.

use super::{BoardError, DevicePtr, DeviceTensor, Ptr};
use crate::attention::Kind;

/// Self-attention in one kernel, forward and backward, without a matrix of scores in memory; all of it in bf16 but for
/// the sums. Scores are scaled by 1/√d.
pub trait FusedAttention {
    /// Makes the plans for a shape, which may take seconds and allocates nothing on the device; to be called before a
    /// step is recorded. Returns the bytes of workspace that each pass needs. Later calls make nothing.
    ///
    /// # Errors
    /// If the library has no kernel for the shape or for the keys that its queries see; [`BoardError::NoAttention`] if it
    /// has none for documents.
    fn prepare(&self, shape: &AttentionShape) -> Result<usize, BoardError>;

    /// About what [`FusedAttention::prepare`] will return for a shape, by arithmetic: no plan is made.
    fn workspace_bytes(&self, _shape: &AttentionShape) -> u64 {
        0
    }

    /// Writes `out` and `stats`. `workspace` is as large as [`FusedAttention::prepare`] asked.
    ///
    /// # Errors
    /// If the library fails.
    fn forward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionForward,
        workspace: DevicePtr,
    ) -> Result<(), BoardError>;

    /// Overwrites the gradients of q, k and v, from what the forward pass read and wrote.
    ///
    /// # Errors
    /// As for [`FusedAttention::forward`].
    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: DevicePtr,
    ) -> Result<(), BoardError>;
}

/// Sizes of an attention, and how its tensors lie.
///
/// # Shapes
/// q, out (b, t, h, d); k, v (b, t, h_kv, d). Heads lie side by side, the rows of one sequence after those of the one
/// before; q, k and v may be parts of one row, as (b, t, (h + 2·h_kv)·d). The gradients lie as what they are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Sequences, b.
    pub batch: usize,
    /// Length of each, t.
    pub time: usize,
    /// Heads of queries, h.
    pub n_heads: usize,
    /// Heads of keys and values, h_kv, of which h is a multiple.
    pub n_kv_heads: usize,
    /// Width of a head, d.
    pub head_width: usize,
    /// Elements from one row of q, k or v to the next.
    pub qkv_row_stride: usize,
    /// Elements from one row of the output to the next.
    pub out_row_stride: usize,
    /// Which keys a query sees.
    pub kind: Kind,
    /// Whether a sequence holds several documents, of which each query sees its own alone.
    pub has_documents: bool,
}

impl AttentionShape {
    /// Refuses sequences of several documents, which no tensor of a forward or backward pass describes.
    ///
    /// # Errors
    /// [`BoardError::NoAttention`] if there are documents.
    pub fn refuse_documents(&self) -> Result<(), BoardError> {
        if !self.has_documents {
            return Ok(());
        }
        let why = "it does not keep documents of one sequence apart; use attention by products";
        Err(BoardError::NoAttention(why.to_owned()))
    }
}

/// What a forward pass reads and writes, each at a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionForward {
    /// Queries.
    pub q: DeviceTensor,
    /// Keys.
    pub k: DeviceTensor,
    /// Values.
    pub v: DeviceTensor,
    /// Written: the output.
    pub out: DeviceTensor,
    /// Written: the logarithm of each row's sum of exponentials, (b, h, t).
    pub stats: Ptr<f32>,
}

/// What a backward pass reads and writes, each at a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionBackward {
    /// What the forward pass read and wrote.
    pub forward: AttentionForward,
    /// Gradient of the output.
    pub grad_out: DeviceTensor,
    /// Written: gradient of the queries.
    pub grad_q: DeviceTensor,
    /// Written: gradient of the keys.
    pub grad_k: DeviceTensor,
    /// Written: gradient of the values.
    pub grad_v: DeviceTensor,
}
