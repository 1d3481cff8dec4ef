//! The engine: memory, steps and evaluations.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
use wattle_ops::Store;
use wattle_ops::adamw::Update;
use wattle_ops::board::select::{Measured, Selecting};
use wattle_ops::board::{Board, BoardError, DeviceTensor, Elem, HostMemory, Ptr, StepState};
use wattle_random::{Purpose, Stream};

use super::activations::{Attention, AttentionPlan, Passes};
use super::error::EngineError;
use super::fit::{Fit, RESERVE};
use super::forward::MicroBatch;
use super::fp8;
use super::inputs::{N_SLOTS, order_by_token};
use super::memory::Memory;
use super::recorded::{Recorded, record};
use super::results::{Divisors, Pending};
use super::shards::{Exchange, Shards};
use super::state::{self, FirstGradients, State};
use super::step::StepLaunches;
use super::timeline::{Anchor, Anchoring, DeviceSpan, MAX_EDGES, Timeline};
use super::{Counts, DeviceEngine, DeviceEngineOptions, FinishedSteps, StepInputs, StepResult};
use crate::engine::layout::Layout;
use crate::engine::network::Network;
use crate::engine::{FlatSnapshot, Fp8Options, LossSum, MemoryPlan, Sequences};
use crate::parameter::Parameter;

/// Trains a network on a board.
pub struct BoardEngine {
    board: Arc<dyn Board>,
    network: Network,
    layout: Layout,
    shards: Shards,
    options: DeviceEngineOptions,
    plan: MemoryPlan,
    memory: Memory,
    timeline: Timeline,
    /// The step that each slot was last used for, while its marks have not been read.
    in_flight: [Option<InFlight>; N_SLOTS],
    recorded: [Recorded; N_SLOTS],
    /// Whether a step was made, so that the device has all that it loads on first use.
    is_warm: bool,
    /// Parameters whose gradient was zero in the first step.
    zero_at_first: Vec<String>,
    /// Steps whose results have not been read.
    pending: Pending,
}

/// The marks from here on are for choosing kernels.
const SELECTING_MARK: usize = N_SLOTS * MAX_EDGES + 8;

/// Tokens to choose kernels with: all of the vocabulary, in no order.
fn some_tokens(n: usize, v: usize) -> Vec<u32> {
    let stream = Stream::new(0, Purpose::Sampling, 0);
    (0..n as u64).map(|i| stream.word(i) % v as u32).collect()
}

/// A step that was launched.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    step: u64,
    /// What its marks count from.
    anchor: Option<Anchor>,
}

impl BoardEngine {
    /// An engine for the network with these `parameters`, of which it takes a copy.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`] before anything is allocated if there is too little memory; whatever the board
    /// says.
    pub(crate) fn new(
        board: Arc<dyn Board>,
        network: Network,
        layout: Layout,
        parameters: &[Parameter],
        options: DeviceEngineOptions,
    ) -> Result<Self, EngineError> {
        fp8::refuse_what_has_none(board.as_ref(), &network, &options)?;
        let passes = Passes::Both;
        let fit =
            Fit { board: board.as_ref(), network: &network, layout: &layout, options: &options, passes };
        let free = fit.free()?;
        fit.refuse_what_cannot_fit(free)?;
        let attention = fit.attention(free)?;
        let is_fused = attention != AttentionPlan::Products;
        let plan = fit.plan(options.micro_batch, attention);
        if plan.total() + RESERVE > fit.free()? {
            return Err(fit.refusal(is_fused, free));
        }
        let base = board.allocate(plan.total() as usize).map_err(|error| match error {
            BoardError::OutOfMemory { .. } => fit.refusal(is_fused, free),
            other => other.into(),
        })?;
        let shards = Shards::of(board.as_ref(), &layout);
        let (memory, _) = Memory::cut(base, &network, &layout, &shards, &options, attention, passes);
        let timeline = Timeline::new(N_SLOTS * MAX_EDGES, shards.are_exchanged());
        let mut engine = Self {
            board,
            network,
            layout,
            shards,
            options,
            plan,
            memory,
            timeline,
            in_flight: [None; N_SLOTS],
            recorded: [Recorded::NotYet; N_SLOTS],
            is_warm: false,
            zero_at_first: Vec::new(),
            pending: Pending::default(),
        };
        engine.write_angles()?;
        engine.take(parameters)?;
        Ok(engine)
    }

    /// An engine for adapters of a network with the given weights, which lie as in `frozen`; the adapters' own `parameters`
    /// lie as in `layout`.
    ///
    /// # Errors
    /// As for [`BoardEngine::new`], or if products are to be in eight bits.
    pub(crate) fn adapted(
        board: Arc<dyn Board>,
        network: Network,
        (frozen, weights): (&Layout, &[Parameter]),
        layout: Layout,
        parameters: &[Parameter],
        options: DeviceEngineOptions,
    ) -> Result<Self, EngineError> {
        let engine = Self::new(board, network, layout, parameters, options)?;
        let to = engine.memory.state.weights();
        state::write_parameters(engine.board.as_ref(), to, frozen, weights)?;
        Ok(engine)
    }

    /// Refuses an engine that cannot fit. This is arithmetic alone: nothing is allocated, and no library makes a plan.
    ///
    /// # Errors
    /// [`EngineError::DoesNotFit`]; whatever the board says.
    pub(crate) fn refuse_what_cannot_fit(
        board: &dyn Board,
        network: &Network,
        layout: &Layout,
        options: &DeviceEngineOptions,
    ) -> Result<(), EngineError> {
        fp8::refuse_what_has_none(board, network, options)?;
        let fit = Fit { board, network, layout, options, passes: Passes::Both };
        fit.refuse_what_cannot_fit(fit.free()?)
    }

    /// Launches a step with a slot: recorded before, recorded now, or one by one.
    fn launch(&mut self, slot_idx: usize) -> Result<(), EngineError> {
        match self.recorded[slot_idx] {
            _ if !self.is_warm => self.first_step(slot_idx),
            Recorded::As(number) => Ok(self.board.replay(number)?),
            Recorded::NotYet => self.record(slot_idx),
            Recorded::Failed => self.launches(slot_idx).issue(),
        }
    }

    /// A step whose gradients are looked at before the update. It is launched one by one, since libraries load on first
    /// use.
    fn first_step(&mut self, slot_idx: usize) -> Result<(), EngineError> {
        let (board, state) = (self.board.as_ref(), &self.memory.state);
        let launches = self.launches(slot_idx);
        launches.begin()?;
        state::mark_gradients(board, state, self.layout.len())?;
        // Marks are zeros: what is added to needs no others.
        launches.gradients(launches.first_store()?, None)?;
        let FirstGradients { unreached, zero } = state::first_gradients(board, state, &self.layout)?;
        if !unreached.is_empty() {
            return Err(EngineError::Unreached { names: unreached });
        }
        if let Some(exchange) = launches.exchange() {
            exchange.sum_all(state.gradients)?;
        }
        launches.update()?;
        self.zero_at_first = zero;
        Ok(())
    }

    fn record(&mut self, slot_idx: usize) -> Result<(), EngineError> {
        let recorded = record(self.board.as_ref(), || self.launches(slot_idx).issue());
        // A step is recorded on all ranks or on none.
        let by_all = match self.board.collectives() {
            Some(collectives) => collectives.all_agree(recorded.is_ok())?,
            None => recorded.is_ok(),
        };
        match recorded {
            Ok(number) if by_all => {
                self.recorded[slot_idx] = Recorded::As(number);
                Ok(self.board.replay(number)?)
            }
            recorded => {
                if !self.recorded.contains(&Recorded::Failed) {
                    let why = recorded.err().map_or_else(|| "not on all ranks".to_owned(), |e| e.to_string());
                    tracing::warn!("the step cannot be recorded ({why}): its launches are made one by one");
                }
                self.recorded[slot_idx] = Recorded::Failed;
                self.launches(slot_idx).issue()
            }
        }
    }

    fn launches(&self, slot_idx: usize) -> StepLaunches<'_> {
        let Memory { state, fp8, slots, results, activations, muon, .. } = &self.memory;
        StepLaunches {
            board: self.board.as_ref(),
            network: &self.network,
            layout: &self.layout,
            shards: &self.shards,
            options: &self.options,
            state,
            fp8: fp8.as_ref(),
            slot: &slots[slot_idx],
            results,
            activations,
            muon: muon.as_ref(),
            first_edge: slot_idx * MAX_EDGES,
        }
    }

    /// Waits for the step that last used a slot, and reads its marks.
    fn reclaim(&mut self, slot_idx: usize) -> Result<(), EngineError> {
        match self.in_flight[slot_idx].take() {
            Some(InFlight { step, anchor: Some(anchor) }) => {
                Ok(self.timeline.read(self.board.as_ref(), step, anchor, slot_idx * MAX_EDGES)?)
            }
            // Without an anchor a mark has no time, but it can be waited for.
            Some(InFlight { anchor: None, .. }) => {
                let last = slot_idx * MAX_EDGES + self.timeline.last_edge();
                self.board.elapsed_ms(last, last)?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn step_state(&self, step: u64, learning_rate: f64, place: usize) -> StepState {
        let DeviceEngineOptions { hyperparameters, .. } = self.options;
        let update = Update { hyperparameters, learning_rate, step, gradient_factor: 1.0 };
        StepState::new(&update, place as u32)
    }

    /// `b` sequences without dropout, with what the slot for evaluations holds.
    fn evaluation<'a>(&'a self, board: &'a dyn Board, b: usize) -> MicroBatch<'a> {
        let Memory { state, fp8, eval, activations, .. } = &self.memory;
        let (network, options) = (&self.network, &self.options);
        let (slot, store) = (*eval, Store::Accumulate);
        let (fp8, dropped_from, trained_from, by_rows) = (fp8.as_ref(), None, None, false);
        let exchange = None;
        MicroBatch {
            board,
            network,
            options,
            state,
            fp8,
            slot,
            activations,
            dropped_from,
            trained_from,
            b,
            by_rows,
            store,
            exchange,
        }
    }

    /// Refuses tokens that the model does not have, and masks that there is no room for.
    fn check(&self, sequences: &Sequences<'_>) -> Result<(), EngineError> {
        let (masks, v) = (self.options.masks, self.network.sizes.v);
        if sequences.weights.is_some() && !masks.weights {
            return Err(EngineError::Masks { what: "weights of targets" });
        }
        if sequences.documents.is_some() && !masks.documents {
            return Err(EngineError::Masks { what: "documents" });
        }
        let mut tokens = sequences.inputs.iter().chain(sequences.targets);
        match tokens.find(|&&token| token as usize >= v) {
            Some(&token) => Err(EngineError::Token { token, n_vocab: v }),
            None => Ok(()),
        }
    }

    /// Each target's share of the batch's weight, where targets have weights, and what makes means of sums. A recorded
    /// step has the same arguments each time, so it cannot be told the weight of its batch: with shares, sums are means.
    fn shares(&self, sequences: &Sequences<'_>, counts: Counts) -> (Option<Vec<f32>>, Divisors) {
        let n_correct = counts.n_counted as f64;
        if !self.options.masks.weights {
            return (None, Divisors { loss: counts.weight, n_correct });
        }
        let share = |weight: f32| (f64::from(weight) / counts.weight) as f32;
        let shares = match sequences.weights {
            Some(weights) => weights.iter().map(|&weight| share(weight)).collect(),
            None => vec![share(1.0); sequences.targets.len()],
        };
        (Some(shares), Divisors { loss: 1.0, n_correct })
    }

    fn write_angles(&self) -> Result<(), EngineError> {
        let rotary = self.network.rotary();
        self.memory.activations.write_angles(self.board.as_ref(), rotary.as_ref())
    }

    /// What `read` makes of one of what is [`BoardEngine::learnt`], as a buffer of everything. Where there are several, all of them
    /// put it together in the memory of gradients, which are zero afterwards.
    fn whole_of<T>(
        &self,
        Learnt { own, is_whole, are_squares }: Learnt,
        read: impl FnOnce(DeviceTensor) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (board, gradients) = (self.board.as_ref(), self.memory.state.gradients.bytes());
        let Some(exchange) = Exchange::of(board, &self.shards).filter(|_| !is_whole) else {
            return read(own);
        };
        let whole = DeviceTensor::new(gradients, own.elem());
        match are_squares {
            true => exchange.collect_squares(board, whole, own)?,
            false => exchange.collect(board, whole, own)?,
        }
        let read = read(whole)?;
        board.zero(gradients, self.layout.len() * Elem::F32.bytes())?;
        Ok(read)
    }

    /// Both moments and the masters.
    fn learnt(&self) -> [Learnt; 3] {
        let State { masters, mean, mean_square, .. } = self.memory.state;
        let is_whole = !self.shards.are_several();
        [
            Learnt { own: mean, is_whole, are_squares: false },
            Learnt { own: mean_square, is_whole, are_squares: true },
            Learnt { own: masters.at.into(), is_whole: masters.are_whole, are_squares: false },
        ]
    }
}

/// A flat buffer of what is learnt.
#[derive(Clone, Copy, Debug)]
struct Learnt {
    own: DeviceTensor,
    /// Whether it is of everything, or of this rank's shards.
    is_whole: bool,
    /// Whether it has the elements alone that AdamW updates.
    are_squares: bool,
}

impl DeviceEngine for BoardEngine {
    fn step(&mut self, step: StepInputs<'_>) -> Result<(), EngineError> {
        let StepInputs { sequences, counts, step, learning_rate } = step;
        let (t, v) = (self.network.sizes.t, self.network.sizes.v);
        let expected = self.options.batch_size * t;
        if sequences.inputs.len() != expected || sequences.targets.len() != expected {
            return Err(EngineError::Batch { expected, got: sequences.inputs.len() });
        }
        self.check(&sequences)?;
        let place = self.pending.next()?;
        let slot_idx = (step % N_SLOTS as u64) as usize;
        let rows: Vec<_> = self.options.micro_batches().map(|b| b.start * t..b.end * t).collect();
        let order = order_by_token(sequences.inputs, &rows, v);
        let (shares, divisors) = self.shares(&sequences, counts);
        let sequences = Sequences { weights: shares.as_deref(), ..sequences };
        let state = self.step_state(step, learning_rate, place);
        self.reclaim(slot_idx)?;
        self.board.mark(slot_idx * MAX_EDGES)?;
        self.memory.slots[slot_idx].write(self.board.as_ref(), &state.to_bytes(), sequences, &order)?;
        self.launch(slot_idx)?;
        self.in_flight[slot_idx] = Some(InFlight { step, anchor: self.timeline.newest() });
        self.is_warm = true;
        self.pending.push(divisors);
        Ok(())
    }

    fn select(&mut self) -> Result<Vec<Measured>, EngineError> {
        let board = Arc::clone(&self.board);
        let selecting = Selecting::new(board.as_ref(), SELECTING_MARK);
        let (t, v) = (self.network.sizes.t, self.network.sizes.v);
        let tokens = some_tokens(self.options.batch_size * t, v);
        let rows: Vec<_> = self.options.micro_batches().map(|b| b.start * t..b.end * t).collect();
        let order = order_by_token(&tokens, &rows, v);
        let state = self.step_state(1, 0.0, 0);
        let sequences = Sequences { inputs: &tokens, targets: &tokens, weights: None, documents: None };
        self.memory.slots[0].write(board.as_ref(), &state.to_bytes(), sequences, &order)?;
        let gradients = self.memory.state.gradients.bytes();
        board.zero(gradients, self.layout.len() * Elem::F32.bytes())?;
        StepLaunches { board: &selecting, ..self.launches(0) }.every_shape()?;
        // Without dropout, for kernels that evaluation alone takes.
        let some = &tokens[..self.options.micro_batch.min(self.options.batch_size) * t];
        let sequences = Sequences { inputs: some, targets: some, ..sequences };
        self.memory.eval.write(board.as_ref(), &[], sequences, some)?;
        let evaluation = self.evaluation(&selecting, some.len() / t);
        evaluation.forward()?;
        evaluation.losses(self.memory.results.rows())?;
        board.synchronize()?;
        Ok(selecting.into_measured())
    }

    fn n_in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }

    fn poll(&mut self, host_ns: &dyn Fn() -> u64) -> Result<FinishedSteps, EngineError> {
        // Steps end in the order of their launches, and those in flight are the last that were launched.
        let n = self.pending.len().saturating_sub(self.n_in_flight());
        if n == 0 {
            return Ok(FinishedSteps::default());
        }
        let board = self.board.as_ref();
        let spans = self.timeline.anchor(board, host_ns, Anchoring::Beside)?;
        let places = self.pending.take(n);
        let results = self.memory.results.read(&places, |from, out| board.read_beside(from, out))?;
        Ok(FinishedSteps { spans, results })
    }

    fn drain(&mut self) -> Result<Vec<StepResult>, EngineError> {
        let board = self.board.as_ref();
        let places = self.pending.take(self.pending.len());
        self.memory.results.read(&places, |from, out| board.read(from, out))
    }

    fn evaluate(&mut self, sequences: Sequences<'_>) -> Result<LossSum, EngineError> {
        let Sequences { inputs, targets, .. } = sequences;
        let most = self.options.micro_batch * self.network.sizes.t;
        if inputs.len() > most || inputs.len() != targets.len() {
            return Err(EngineError::Batch { expected: most, got: inputs.len() });
        }
        self.check(&sequences)?;
        let Memory { eval, results, .. } = &self.memory;
        let board = self.board.as_ref();
        eval.write(board, &[], sequences, inputs)?;
        let micro_batch = self.evaluation(board, inputs.len() / self.network.sizes.t);
        micro_batch.forward()?;
        micro_batch.losses(results.rows())?;
        results.sum_of_rows(board, targets.len())
    }

    fn synchronize(&mut self, host_ns: &dyn Fn() -> u64) -> Result<Vec<DeviceSpan>, EngineError> {
        // In the order of the steps.
        let mut slots: Vec<_> = (0..N_SLOTS).filter(|&idx| self.in_flight[idx].is_some()).collect();
        slots.sort_by_key(|&idx| self.in_flight[idx].map(|in_flight| in_flight.step));
        slots.into_iter().try_for_each(|slot_idx| self.reclaim(slot_idx))?;
        Ok(self.timeline.anchor(self.board.as_ref(), host_ns, Anchoring::Synchronized)?)
    }

    fn publish(&self, parameters: &[Parameter]) -> Result<(), EngineError> {
        let [_, _, masters] = self.learnt();
        self.whole_of(masters, |masters| {
            state::read_parameters(self.board.as_ref(), Ptr::new(masters.bytes()), &self.layout, parameters)
        })
    }

    fn take(&mut self, parameters: &[Parameter]) -> Result<(), EngineError> {
        let (board, State { masters, working, .. }) = (self.board.as_ref(), self.memory.state);
        state::write_masters(board, masters, &self.layout, &self.shards, parameters)?;
        self.memory.results.unhalt(board)?;
        match masters.are_whole {
            true => self.launches(0).copy_masters(),
            false => state::write_parameters(board, working, &self.layout, parameters),
        }
    }

    fn gradient_tensors(&self) -> Result<Vec<Tensor>, EngineError> {
        state::read_tensors(self.board.as_ref(), self.memory.state.gradients, &self.layout)
    }

    fn zero_gradient_names(&self) -> &[String] {
        &self.zero_at_first
    }

    fn moments(&self) -> Result<Vec<(String, Tensor)>, EngineError> {
        let [mean, mean_square, _] = self.learnt();
        let mut moments = Vec::with_capacity(2 * self.layout.entries().len());
        for (which, buffer) in [mean, mean_square].into_iter().enumerate() {
            moments.extend(self.whole_of(buffer, |buffer| {
                state::read_moment(self.board.as_ref(), buffer, which, &self.layout)
            })?);
        }
        Ok(moments)
    }

    fn snapshot_len(&self) -> usize {
        FlatSnapshot::len_of_all(&self.layout)
    }

    fn snapshot(&self, mut memory: HostMemory) -> Result<FlatSnapshot, EngineError> {
        let (len, n_moments) = (self.layout.len(), self.layout.n_moments());
        let (mean, rest) = memory.split_at_mut(len);
        let (mean_square, masters) = rest.split_at_mut(n_moments - len);
        let parts = [mean, mean_square, &mut masters[..len]];
        for (buffer, out) in self.learnt().into_iter().zip(parts) {
            self.whole_of(buffer, |from| state::read_wide_to(self.board.as_ref(), from, out))?;
        }
        Ok(FlatSnapshot::new(&self.layout, memory))
    }

    fn join_snapshot(&self) -> Result<(), EngineError> {
        self.learnt().into_iter().try_for_each(|buffer| self.whole_of(buffer, |_| Ok(())))
    }

    fn set_moments(&mut self, moments: &HashMap<String, Tensor>) -> Result<(), EngineError> {
        state::write_moments(self.board.as_ref(), &self.memory.state, &self.layout, &self.shards, moments)
    }

    fn is_halted(&self) -> Result<bool, EngineError> {
        self.memory.results.is_halted(self.board.as_ref())
    }

    fn memory(&self) -> MemoryPlan {
        self.plan
    }

    fn describe(&self) -> String {
        let launched = match self.recorded {
            [Recorded::Failed, _] | [_, Recorded::Failed] => "launched one by one",
            _ => "recorded and replayed",
        };
        let attention = match self.memory.activations.attention {
            Attention::Fused { .. } => "fused",
            Attention::Products { .. } => "by products",
            Attention::Cached(_) => unreachable!("nothing trains on rows of a cache"),
        };
        let elem = self.options.elem.suffix();
        let products = match self.options.fp8 {
            Some(Fp8Options { head: true }) => ", products and head in fp8",
            Some(Fp8Options { head: false }) => ", products of blocks in fp8",
            None => "",
        };
        format!("{} in {elem}{products}, attention {attention}, steps {launched}", self.board.name())
    }
}
