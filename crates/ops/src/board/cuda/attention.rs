//! cuDNN's attention on a board.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::arena::Arenas;
use super::lock;
use super::stream::Stream;
use crate::attention::cudnn::{CTensors, Cudnn, CudnnPlan, Pass};
use crate::board::{
    AttentionBackward, AttentionForward, AttentionShape, BoardError, DevicePtr, FusedAttention,
};

/// Fused attention on one stream, with one plan for each shape and pass.
pub(super) struct CudaAttention {
    stream: Arc<Stream>,
    arenas: Arc<Mutex<Arenas>>,
    deterministic: bool,
    state: Mutex<State>,
}

/// Plans go before what made them.
struct State {
    plans: HashMap<(AttentionShape, Pass), CudnnPlan>,
    cudnn: Cudnn,
    /// One for all plans, since they run one after the other.
    workspace: DevicePtr,
    workspace_bytes: usize,
}

impl CudaAttention {
    /// Opens cuDNN; a context is bound.
    pub(super) fn open(
        stream: &Arc<Stream>,
        arenas: &Arc<Mutex<Arenas>>,
        deterministic: bool,
    ) -> Result<Self, BoardError> {
        let cudnn = Cudnn::open(stream.handle.as_ptr())?;
        let state = State { plans: HashMap::new(), cudnn, workspace: DevicePtr::NULL, workspace_bytes: 0 };
        Ok(Self {
            stream: Arc::clone(stream),
            arenas: Arc::clone(arenas),
            deterministic,
            state: Mutex::new(state),
        })
    }

    /// cuDNN's version, as 91900.
    pub(super) fn version(&self) -> usize {
        lock(&self.state).cudnn.version()
    }

    fn run(&self, shape: &AttentionShape, pass: Pass, tensors: &CTensors) -> Result<(), BoardError> {
        shape.refuse_documents()?;
        self.stream.note_work();
        self.stream.context.bind()?;
        let mut state = lock(&self.state);
        self.plan(&mut state, shape, pass)?;
        let plan = &state.plans[&(*shape, pass)];
        state.cudnn.run(plan, tensors, state.workspace)
    }

    /// Makes the plan unless it is there, with a workspace that is large enough. A smaller one stays: steps that are
    /// recorded use it.
    fn plan(&self, state: &mut State, shape: &AttentionShape, pass: Pass) -> Result<(), BoardError> {
        if state.plans.contains_key(&(*shape, pass)) {
            return Ok(());
        }
        if self.stream.is_recording() {
            return Err(BoardError::NotRecordable("a plan for attention"));
        }
        let plan = state.cudnn.plan(shape, pass, self.deterministic)?;
        if plan.workspace_bytes > state.workspace_bytes {
            state.workspace = lock(&self.arenas).allocate(plan.workspace_bytes, &self.stream)?;
            state.workspace_bytes = plan.workspace_bytes;
        }
        state.plans.insert((*shape, pass), plan);
        Ok(())
    }
}

impl FusedAttention for CudaAttention {
    fn prepare(&self, shape: &AttentionShape) -> Result<(), BoardError> {
        shape.refuse_documents()?;
        self.stream.context.bind()?;
        let mut state = lock(&self.state);
        self.plan(&mut state, shape, Pass::Forward)?;
        self.plan(&mut state, shape, Pass::Backward)
    }

    /// In a fixed order, the backward pass keeps a bf16 number for each score (cuDNN 9.19, measured on an H100); in
    /// any order, next to nothing.
    fn workspace_bytes(&self, shape: &AttentionShape) -> u64 {
        let AttentionShape { batch, time, n_heads, .. } = *shape;
        let scores = (batch * n_heads) as u64 * (time * time) as u64;
        if self.deterministic { scores * 2 } else { 0 }
    }

    fn forward(&self, shape: &AttentionShape, tensors: &AttentionForward) -> Result<(), BoardError> {
        self.run(shape, Pass::Forward, &tensors.into())
    }

    fn backward(&self, shape: &AttentionShape, tensors: &AttentionBackward) -> Result<(), BoardError> {
        self.run(shape, Pass::Backward, &tensors.into())
    }
}
