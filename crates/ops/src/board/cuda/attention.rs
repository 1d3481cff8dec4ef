//! cuDNN's attention on a board.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::cudnn::{CTensors, Cudnn, CudnnPlan};
use super::lock;
use super::stream::Stream;
use crate::board::{
    AttentionBackward, AttentionForward, AttentionPass, AttentionShape, BoardError, Choices, FusedAttention,
    Job, Plans, Workspace,
};

/// Plans of one pass over one shape that are made at most to choose from.
const MAX_PLANS: usize = 4;
/// No further plan is begun once those of a pass have taken so long: a start waits for them.
const PLANNING_TIME: Duration = Duration::from_secs(1);

/// Fused attention on one stream, with the plans that were made for each shape and pass.
pub(super) struct CudaAttention {
    stream: Arc<Stream>,
    choices: Arc<Choices>,
    deterministic: bool,
    state: Mutex<State>,
}

/// Plans go before what made them.
struct State {
    made: HashMap<(AttentionShape, AttentionPass), Vec<Made>>,
    cudnn: Cudnn,
}

/// A plan, and the name that cuDNN has for it.
struct Made {
    name: String,
    plan: CudnnPlan,
}

impl CudaAttention {
    /// Opens cuDNN; a context is bound.
    pub(super) fn open(
        stream: &Arc<Stream>,
        choices: &Arc<Choices>,
        deterministic: bool,
    ) -> Result<Self, BoardError> {
        let cudnn = Cudnn::open(stream.handle.as_ptr())?;
        let state = Mutex::new(State { made: HashMap::new(), cudnn });
        Ok(Self { stream: Arc::clone(stream), choices: Arc::clone(choices), deterministic, state })
    }

    /// cuDNN's version, as 91900.
    pub(super) fn version(&self) -> usize {
        lock(&self.state).cudnn.version()
    }

    fn job(&self, shape: &AttentionShape, pass: AttentionPass) -> Job {
        shape.job(pass, if self.deterministic { "fixed" } else { "any" })
    }

    fn run(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        tensors: &CTensors,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        shape.refuse_documents()?;
        self.stream.note_work();
        self.stream.context.bind()?;
        let mut state = lock(&self.state);
        let chosen = self.choices.of(&self.job(shape, pass));
        self.make(&mut state, shape, pass, chosen.as_deref(), Plans::First)?;
        let made = &state.made[&(*shape, pass)];
        let plan = match &chosen {
            Some(name) => made.iter().find(|made| made.name == *name),
            None => made.iter().find(|made| made.plan.workspace_bytes <= workspace.bytes).or(made.first()),
        };
        let Made { name, plan } = plan.expect("it was made before");
        if plan.workspace_bytes > workspace.bytes {
            return Err(BoardError::NoAttention(format!(
                "plan {name} needs {} bytes of workspace, {} were planned for it",
                plan.workspace_bytes, workspace.bytes
            )));
        }
        state.cudnn.run(plan, tensors, workspace.at)
    }

    /// Makes the chosen plan, or what `plans` says, unless it is there.
    fn make(
        &self,
        state: &mut State,
        shape: &AttentionShape,
        pass: AttentionPass,
        chosen: Option<&str>,
        plans: Plans,
    ) -> Result<(), BoardError> {
        let State { made, cudnn } = state;
        let made = made.entry((*shape, pass)).or_default();
        let is_there = match chosen {
            Some(name) => made.iter().any(|made| made.name == name),
            None => !made.is_empty(),
        };
        if is_there {
            return Ok(());
        }
        if self.stream.is_recording() {
            return Err(BoardError::NotRecordable("a plan for attention"));
        }
        let names = cudnn.names(shape, pass, self.deterministic)?;
        let plan = |name: &str| cudnn.plan(shape, pass, self.deterministic, name);
        if let Some(name) = chosen {
            if !names.iter().any(|offered| offered == name) {
                let (job, way) = (self.job(shape, pass).as_str().to_owned(), name.to_owned());
                return Err(BoardError::NoWay { job, way });
            }
            made.push(Made { name: name.to_owned(), plan: plan(name)? });
            return Ok(());
        }
        *made = several(&names, plans, plan)?;
        Ok(())
    }
}

/// The first of `names` that can be made, and further ones as `plans` says.
///
/// # Errors
/// Why the first cannot be made, if none can.
fn several(
    names: &[String],
    plans: Plans,
    plan: impl Fn(&str) -> Result<CudnnPlan, BoardError>,
) -> Result<Vec<Made>, BoardError> {
    let (mut made, mut refused) = (Vec::new(), None);
    let began = Instant::now();
    for name in names {
        match plan(name) {
            Ok(plan) => made.push(Made { name: name.clone(), plan }),
            Err(error) => refused = refused.or(Some(error)),
        }
        let is_enough = match plans {
            Plans::First => !made.is_empty(),
            Plans::Several { .. } => made.len() == MAX_PLANS || began.elapsed() > PLANNING_TIME,
        };
        if is_enough && !made.is_empty() {
            break;
        }
    }
    if let Plans::Several { room } = plans {
        let fits = |made: &Made| made.plan.workspace_bytes as u64 <= room;
        let mut is_first = true;
        made.retain(|made| std::mem::take(&mut is_first) || fits(made));
    }
    match (made.is_empty(), refused) {
        (false, _) => Ok(made),
        (true, Some(error)) => Err(error),
        (true, None) => Err(BoardError::NoAttention("cuDNN has no plan for this shape".to_owned())),
    }
}

impl FusedAttention for CudaAttention {
    fn prepare(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        plans: Plans,
    ) -> Result<usize, BoardError> {
        shape.refuse_documents()?;
        self.stream.context.bind()?;
        let mut state = lock(&self.state);
        let chosen = self.choices.of(&self.job(shape, pass));
        self.make(&mut state, shape, pass, chosen.as_deref(), plans)?;
        let made = &state.made[&(*shape, pass)];
        let is_chosen = |made: &&Made| chosen.as_ref().is_none_or(|name| made.name == *name);
        Ok(made.iter().filter(is_chosen).map(|made| made.plan.workspace_bytes).max().unwrap_or(0))
    }

    fn ways(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        workspace_bytes: usize,
    ) -> Result<(Job, Vec<String>), BoardError> {
        shape.refuse_documents()?;
        self.stream.context.bind()?;
        let (job, mut state) = (self.job(shape, pass), lock(&self.state));
        self.make(&mut state, shape, pass, self.choices.of(&job).as_deref(), Plans::First)?;
        let fits = |made: &&Made| made.plan.workspace_bytes <= workspace_bytes;
        let names = state.made[&(*shape, pass)].iter().filter(fits).map(|made| made.name.clone()).collect();
        Ok((job, names))
    }

    /// In a fixed order, the backward pass keeps a bf16 number for each score (cuDNN 9.19, measured on an H100); in
    /// any order, and forward, next to nothing.
    fn workspace_bytes(&self, shape: &AttentionShape, pass: AttentionPass) -> u64 {
        match pass {
            AttentionPass::Backward if self.deterministic => 2 * shape.n_scores(),
            _ => 0,
        }
    }

    fn forward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionForward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        self.run(shape, AttentionPass::Forward, &tensors.into(), workspace)
    }

    fn backward(
        &self,
        shape: &AttentionShape,
        tensors: &AttentionBackward,
        workspace: Workspace,
    ) -> Result<(), BoardError> {
        self.run(shape, AttentionPass::Backward, &tensors.into(), workspace)
    }
}
