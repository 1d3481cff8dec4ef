//! cuDNN's attention on a board.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::cudnn::{CTensors, Cudnn, CudnnPlan, Pass};
use super::lock;
use super::stream::Stream;
use crate::board::{
    AttentionBackward, AttentionForward, AttentionShape, BoardError, DevicePtr, FusedAttention,
};

/// Fused attention on one stream, with one plan for each shape and pass.
pub(super) struct CudaAttention {
    stream: Arc<Stream>,
    deterministic: bool,
    state: Mutex<State>,
}

/// Plans go before what made them.
struct State {
    plans: HashMap<(AttentionShape, Pass), CudnnPlan>,
    cudnn: Cudnn,
}

impl CudaAttention {
    /// Opens cuDNN; a context is bound.
    pub(super) fn open(stream: &Arc<Stream>, deterministic: bool) -> Result<Self, BoardError> {
        let cudnn = Cudnn::open(stream.handle.as_ptr())?;
        let state = Mutex::new(State { plans: HashMap::new(), cudnn });
        Ok(Self { stream: Arc::clone(stream), deterministic, state })
    }

    /// cuDNN's version, as 91900.
    pub(super) fn version(&self) -> usize {
        lock(&self.state).cudnn.version()
    }

    fn run(
        &self,
        shape: &AttentionShape,
        pass: Pass,
        tensors: &CTensors,
        workspace: DevicePtr,
    ) -> Result<(), BoardError> {
        shape.refuse_documents()?;
        self.stream.note_work();
        self.stream.context.bind()?;
        let mut state = lock(&self.state);
        self.plan(&mut state, shape, pass)?;
        let plan = &state.plans[&(*shape, pass)];
        state.cudnn.run(plan, tensors, workspace)
    }

    /// Makes the plan unless it is there, and says how much workspace it needs.
    fn plan(&self, state: &mut State, shape: &AttentionShape, pass: Pass) -> Result<usize, BoardError> {
        if let Some(plan) = state.plans.get(&(*shape, pass)) {
            return Ok(plan.workspace_bytes);
        }
        if self.stream.is_recording() {
            return Err(BoardError::NotRecordable("a plan for attention"));
        }
        let plan = state.cudnn.plan(shape, pass, self.deterministic)?;
        let workspace_bytes = plan.workspace_bytes;
        state.plans.insert((*shape, pass), plan);
        Ok(workspace_bytes)
    }
}

impl FusedAttention for CudaAttention {
    fn prepare(&self, shape: &AttentionShape) -> Result<usize, BoardError> {
        shape.refuse_documents()?;
        self.stream.context.bind()?;
        let mut state = lock(&self.state);
        let forward = self.plan(&mut state, shape, Pass::Forward)?;
        Ok(forward.max(self.plan(&mut state, shape, Pass::Backward)?))
    }

    /// In a fixed order, the backward pass keeps a bf16 number for each score (cuDNN 9.19, measured on an H100); in
    /// any order, next to nothing.
    fn workspace_bytes(&self, shape: &AttentionShape) -> u64 {
        let AttentionShape { batch, time, n_heads, .. } = *shape;
        let scores = (batch * n_heads) as u64 * (time * time) as u64;
        if self.deterministic { scores * 2 } else { 0 }
    }

    fn forward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionForward,
        workspace: DevicePtr,
    ) -> Result<(), BoardError> {
        self.run(shape, Pass::Forward, &tensors.into(), workspace)
    }

    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: DevicePtr,
    ) -> Result<(), BoardError> {
        self.run(shape, Pass::Backward, &tensors.into(), workspace)
    }
}
