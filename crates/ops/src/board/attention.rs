//! Attention by a library of the device's vendor.

use super::{BoardError, DevicePtr, DeviceTensor, Elem, Job, Ptr};
use crate::attention::Kind;

/// Self-attention in one kernel, forward and backward, without a matrix of scores in memory; all of it in bf16 but for
/// the sums. Scores are scaled by 1/√d.
pub trait FusedAttention {
    /// Makes plans for a pass over a shape, which may take seconds and allocates nothing on the device; to be called
    /// before a step is recorded. Returns the bytes of workspace that the pass needs. Later calls make no plan twice.
    ///
    /// Where a way was chosen for [`AttentionShape::job`], its plan alone is made, else those that `plans` says.
    ///
    /// # Errors
    /// If the library has no kernel for the shape or for the keys that its queries see; [`BoardError::NoAttention`] if it
    /// has none for documents; [`BoardError::NoWay`] if a way was chosen that it does not offer.
    fn prepare(&self, shape: &AttentionShape, pass: AttentionPass, plans: Plans)
    -> Result<usize, BoardError>;

    /// The ways to make a pass with so much workspace, and the job that a choice among them is for.
    ///
    /// # Errors
    /// As for [`FusedAttention::prepare`].
    fn ways(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        workspace_bytes: usize,
    ) -> Result<(Job, Vec<String>), BoardError>;

    /// About what [`FusedAttention::prepare`] will return for the first plan, by arithmetic: no plan is made.
    fn workspace_bytes(&self, _shape: &AttentionShape, _pass: AttentionPass) -> u64 {
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
        workspace: Workspace,
    ) -> Result<(), BoardError>;

    /// Overwrites the gradients of q, k and v, from what the forward pass read and wrote.
    ///
    /// # Errors
    /// As for [`FusedAttention::forward`].
    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: Workspace,
    ) -> Result<(), BoardError>;
}

/// A direction of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionPass {
    /// Output and statistics.
    Forward,
    /// Gradients.
    Backward,
}

/// Which plans are made for a pass for which none was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plans {
    /// The library's first.
    First,
    /// Several, to choose from by measuring. Those after the first need at most so many bytes of workspace.
    Several {
        /// Bytes.
        room: u64,
    },
}

/// Memory that one pass uses at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Where it is.
    pub at: DevicePtr,
    /// How much.
    pub bytes: usize,
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
    /// Scores that a matrix of them would have, b·h·t².
    pub fn n_scores(&self) -> u64 {
        let [b, h, t] = [self.batch, self.n_heads, self.time].map(|size| size as u64);
        b * h * t * t
    }

    /// The job of a pass: what a choice among plans is for. `order` is how gradients are summed.
    pub fn job(&self, pass: AttentionPass, order: &str) -> Job {
        let &Self {
            batch, time, n_heads, n_kv_heads, head_width, qkv_row_stride, out_row_stride, kind, ..
        } = self;
        let (op, n_products, order) = match pass {
            AttentionPass::Forward => ("attention_fwd", 2, String::new()),
            AttentionPass::Backward => ("attention_bwd", 5, format!(" order={order}")),
        };
        let kind = match kind {
            Kind::Causal => "causal".to_owned(),
            Kind::Full => "full".to_owned(),
            Kind::Window(window) => format!("window={window}"),
        };
        let text = format!(
            "{op} bf16 b={batch} t={time} h={n_heads} h_kv={n_kv_heads} d={head_width} rows={qkv_row_stride},\
             {out_row_stride} {kind}{order}"
        );
        let n_rows = batch * time;
        // q or its gradient, the output or its gradient, statistics; k, v or their gradients.
        let of_row =
            (2 * n_heads + 2 * n_kv_heads) * head_width * Elem::Bf16.bytes() + n_heads * size_of::<f32>();
        let n_times = if pass == AttentionPass::Forward { 1 } else { 2 };
        let n_seen: usize = (0..time).map(|row| self.kind.keys(row, time, None).len()).sum();
        Job::named(text)
            .moving(n_times * n_rows * of_row)
            .computing(n_products * 2 * batch * n_heads * n_seen * head_width)
    }

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
