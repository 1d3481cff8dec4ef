//! Predictions for texts that grow, a token or a part at a time.
//!
//! A pass is a forward pass over rows of any texts: the tokens that are new in them. Its launches depend on the number
//! of rows alone, since which rows they are lies in device memory, so that they are recorded once for each number and
//! replayed. Numbers are rounded up to powers of two, and rows that belong to no text fill a pass up.
//!
//! Texts that grow by one token have passes of their own, whose products are made row by row: a text's predictions are
//! then the same to the bit with and without others beside it (up to 32, where the products are the library's). Prompts
//! go through the library's products, which may sum in another order for another number of rows.

use std::collections::HashMap;
use std::sync::Arc;

use wattle_ops::attention::Kind;
use wattle_ops::board::{Board, DevicePtr, Elem, HostMemory};
use wattle_ops::classifier::cpu as classifier;
use wattle_ops::decode::board::{self as decode, NO_SLOT, Shape};

use super::activations::{Attention, AttentionPlan, Passes};
use super::cache::{Cached, most_predictions};
use super::error::EngineError;
use super::fit::RESERVE;
use super::forward::MicroBatch;
use super::linear::Products;
use super::memory::Memory;
use super::reading::{self, Reading};
use super::recorded::{Recorded, record};
use super::shards::Shards;
use crate::engine::MemoryPlan;
use crate::engine::layout::Layout;
use crate::engine::network::{Network, Sizes};
use crate::parameter::Parameter;
use crate::window::Window;

/// Predicts next tokens of several texts on a board, with a cache of their keys and values.
pub struct BoardDecoder {
    reading: Reading,
    cached: Cached,
    options: DecoderOptions,
    /// Most tokens that a prediction looks back on.
    context: usize,
    windows: Vec<Window>,
    passes: HashMap<PassShape, Recorded>,
    /// Where logits are read to.
    logits: HostMemory,
}

/// How to decode on a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderOptions {
    /// Texts at once, at least 1.
    pub n_slots: usize,
    /// Tokens that each text has room for. Room for the model's context is always enough.
    pub room: usize,
    /// Most rows of one pass: a longer prompt comes in parts. It is at least the number of texts, rounded up to a power
    /// of two.
    pub most_rows: usize,
    /// Type of weights, activations and cache.
    pub elem: Elem,
}

/// What a pass's launches depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PassShape {
    /// Rows.
    n: usize,
    /// Rows that predict.
    n_predicting: usize,
    /// Whether those are some of the rows, and not all of them in their order.
    gathers: bool,
    /// Whether each row is the one new token of a text.
    steps: bool,
}

/// A token on its way through a pass.
#[derive(Clone, Copy, Debug)]
struct Row {
    token: u32,
    slot: u32,
    position: u32,
    /// Which of the texts that were asked for it predicts the next token of.
    predicts: Option<usize>,
}

impl BoardDecoder {
    /// A decoder of the network with these `parameters`, of which it takes a copy.
    ///
    /// # Errors
    /// [`EngineError::GenerationDoesNotFit`] before anything is allocated if there is too little memory;
    /// [`EngineError::SeesAhead`]; whatever the board says.
    pub(crate) fn new(
        board: Arc<dyn Board>,
        network: Network,
        layout: &Layout,
        parameters: &[Parameter],
        options: DecoderOptions,
    ) -> Result<Self, EngineError> {
        if network.attention_kinds().contains(&Kind::Full) {
            return Err(EngineError::SeesAhead);
        }
        let context = network.sizes.t;
        let options = options.within(context);
        let rotary =
            Network { sizes: Sizes { t: options.room, ..network.sizes }, ..network.clone() }.rotary();
        // Each row is a sequence of its own.
        let network = Network { sizes: Sizes { t: 1, ..network.sizes }, ..network };
        let passes = reading::options(options.most_rows, options.elem);
        let plan = options.attention(&network, context);
        let refusal = |needed, free| options.refusal(board.as_ref(), &network, layout, context, needed, free);
        let reading =
            Reading::new(Arc::clone(&board), network.clone(), layout, parameters, passes, plan, &refusal)?;
        let activations = &reading.memory.activations;
        activations.write_angles(board.as_ref(), rotary.as_ref())?;
        let Attention::Cached(cached) = activations.attention else { unreachable!("as it was planned") };
        let n_logits = most_predictions(options.n_slots) * network.sizes.v_padded();
        let (windows, passes) = (vec![Window::default(); options.n_slots], HashMap::new());
        Ok(Self { cached, options, context, windows, passes, logits: board.host_memory(n_logits)?, reading })
    }

    /// Brings new tokens of some texts into view, each with the slot of its text, and gives `each` the text's index
    /// among `texts` and the logits (v) for the token after. Beyond the context the window of a text slides to its last
    /// three quarters.
    ///
    /// # Errors
    /// If a text is longer than there is room for, a token is not the model's, or the board fails.
    ///
    /// # Panics
    /// If a slot is not there or comes twice, or a text has no new tokens.
    pub fn decode(
        &mut self,
        texts: &[(usize, &[u32])],
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        self.reading.check_tokens(texts.iter().flat_map(|(_, tokens)| *tokens))?;
        let (mut steps, mut prompts) = (Vec::new(), Vec::new());
        for (text_idx, &(slot, tokens)) in texts.iter().enumerate() {
            assert!(!tokens.is_empty(), "a text without new tokens");
            assert!(texts[..text_idx].iter().all(|(other, _)| *other != slot), "slot {slot} comes twice");
            let window = &mut self.windows[slot];
            window.push(tokens, self.context);
            if window.tokens().len() > self.options.room {
                return Err(EngineError::TextTooLong { got: window.tokens().len(), room: self.options.room });
            }
            let is_step = window.n_cached() > 0 && window.n_cached() + 1 == window.tokens().len();
            let rows = if is_step { &mut steps } else { &mut prompts };
            rows.extend(new_rows(window, slot, text_idx));
        }
        for (rows, are_steps) in [(prompts, false), (steps, true)] {
            rows.chunks(self.options.most_rows).try_for_each(|part| self.pass(part, are_steps, each))?;
        }
        for &(slot, _) in texts {
            let window = &mut self.windows[slot];
            window.set_cached(window.tokens().len());
        }
        Ok(())
    }

    /// Forgets the text in a slot: the next tokens there begin another.
    ///
    /// # Panics
    /// If the slot is not there.
    pub fn forget(&mut self, slot: usize) {
        self.windows[slot] = Window::default();
    }

    /// Takes out of view what follows the first `n` tokens in a slot's window. Their keys and values stay.
    ///
    /// # Panics
    /// If the slot is not there.
    pub fn rewind(&mut self, slot: usize, n: usize) {
        self.windows[slot].rewind(n);
    }

    /// Texts at once.
    pub fn n_slots(&self) -> usize {
        self.options.n_slots
    }

    /// Tokens that it can predict, v.
    pub fn vocab_size(&self) -> usize {
        self.reading.network.sizes.v
    }

    /// What it takes of the device's memory.
    pub fn memory(&self) -> MemoryPlan {
        self.reading.plan
    }

    /// What it is, for a person: device, type, how passes are launched.
    pub fn describe(&self) -> String {
        let launched = match self.passes.values().any(|pass| *pass == Recorded::Failed) {
            true => "launched one by one",
            false => "recorded and replayed",
        };
        format!("{} in {}, passes {launched}", self.reading.board.name(), self.options.elem.suffix())
    }

    /// A pass over some rows, and their predictions.
    fn pass(
        &mut self,
        rows: &[Row],
        are_steps: bool,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EngineError> {
        let predicting: Vec<_> = (0..).zip(rows).filter(|(_, row)| row.predicts.is_some()).collect();
        let shape = PassShape::of(rows.len(), predicting.len(), self.options.most_rows, are_steps);
        let filling = Row { token: 0, slot: NO_SLOT, position: 0, predicts: None };
        let all = || rows.iter().chain(std::iter::repeat(&filling)).take(shape.n);
        let [tokens, slots, positions]: [Vec<u32>; 3] = [
            all().map(|row| row.token).collect(),
            all().map(|row| row.slot).collect(),
            all().map(|row| row.position).collect(),
        ];
        let mut picked: Vec<u32> = predicting.iter().map(|(row_idx, _)| *row_idx).collect();
        picked.resize(shape.n_predicting, 0);
        self.cached.write(self.reading.board.as_ref(), [&tokens, &slots, &positions], &picked)?;
        self.launch(shape)?;
        let sizes = &self.reading.network.sizes;
        let (v, v_padded) = (sizes.v, sizes.v_padded());
        let logits = &mut self.logits[..predicting.len() * v_padded];
        if !logits.is_empty() {
            let from = self.cached.predictions().logits.bytes();
            self.reading.board.read(from, bytemuck::cast_slice_mut(logits))?;
        }
        if let Some(cap) = sizes.logit_cap {
            classifier::cap_logits(logits, cap);
        }
        for (logits, (_, row)) in logits.chunks_exact(v_padded).zip(&predicting) {
            each(row.predicts.expect("it was picked for that"), &logits[..v]);
        }
        Ok(())
    }

    /// Launches a pass: one by one at first, since libraries load on first use, then recorded, then replayed.
    fn launch(&mut self, shape: PassShape) -> Result<(), EngineError> {
        let board = Arc::clone(&self.reading.board);
        let known = match self.passes.get(&shape) {
            None => {
                self.issue(shape)?;
                Recorded::NotYet
            }
            Some(Recorded::NotYet) => match record(board.as_ref(), || self.issue(shape)) {
                Ok(number) => {
                    board.replay(number)?;
                    Recorded::As(number)
                }
                Err(error) => {
                    if !self.passes.values().any(|pass| *pass == Recorded::Failed) {
                        tracing::warn!(
                            "a pass cannot be recorded ({error}): its launches are made one by one"
                        );
                    }
                    self.issue(shape)?;
                    Recorded::Failed
                }
            },
            Some(&Recorded::As(number)) => return Ok(board.replay(number)?),
            Some(Recorded::Failed) => return self.issue(shape),
        };
        self.passes.insert(shape, known);
        Ok(())
    }

    fn issue(&self, shape: PassShape) -> Result<(), EngineError> {
        let PassShape { n, n_predicting, gathers, steps } = shape;
        let pass = MicroBatch { by_rows: steps, ..self.reading.pass(n) };
        pass.forward()?;
        if n_predicting == 0 {
            return Ok(());
        }
        let (predictions, mut x) =
            (self.cached.predictions(), self.reading.memory.activations.final_norm.out);
        if gathers {
            decode::gather(pass.board, predictions.x, x, predictions.rows, [n_predicting, pass.sizes().c])?;
            x = predictions.x;
        }
        let products = Products { n: n_predicting, ..pass.products() };
        Ok(products.fwd(predictions.logits.into(), x, &self.reading.network.board_head(), false)?)
    }
}

/// The tokens of a window that are not cached; the last predicts.
fn new_rows(window: &Window, slot: usize, text_idx: usize) -> impl Iterator<Item = Row> {
    let n = window.tokens().len();
    window.tokens().iter().enumerate().skip(window.n_cached()).map(move |(position, &token)| Row {
        token,
        slot: slot as u32,
        position: position as u32,
        predicts: (position + 1 == n).then_some(text_idx),
    })
}

impl PassShape {
    /// Of `n` rows, of which `n_predicting` predict.
    fn of(n: usize, n_predicting: usize, most_rows: usize, steps: bool) -> Self {
        let rounded = n.next_power_of_two().min(most_rows);
        let (n_predicting, gathers) = match n_predicting {
            0 => (0, false),
            _ if n_predicting == n => (rounded, false),
            _ => (n_predicting.next_power_of_two(), true),
        };
        Self { n: rounded, n_predicting, gathers, steps }
    }
}

impl DecoderOptions {
    /// The same for a model of this context: no more room than that, and rows for every text.
    fn within(self, context: usize) -> Self {
        assert!(self.n_slots > 0, "a decoder has at least one text");
        let most_rows = self.most_rows.max(most_predictions(self.n_slots));
        Self { room: self.room.clamp(1, context), most_rows, ..self }
    }

    fn attention(&self, network: &Network, context: usize) -> AttentionPlan {
        let &Sizes { n_heads, n_kv_heads, head_width: d, .. } = &network.sizes;
        let (&Self { n_slots, room, .. }, kind) = (self, Kind::Causal);
        AttentionPlan::Cached(Shape { n_heads, n_kv_heads, d, n_slots, room, context, kind })
    }

    /// What there is to say if `needed` bytes do not fit into those `free`.
    fn refusal(
        &self,
        board: &dyn Board,
        network: &Network,
        layout: &Layout,
        context: usize,
        needed: u64,
        free: u64,
    ) -> EngineError {
        let bytes = |n_slots: usize| {
            let fewer = Self { n_slots, ..*self };
            let passes = reading::options(self.most_rows, self.elem);
            let attention = fewer.attention(network, context);
            let (at, shards) = (DevicePtr::new(0), Shards::whole(layout));
            Memory::cut(at, network, layout, &shards, &passes, attention, Passes::Forward).1.total()
        };
        // More texts never take less.
        let largest = (1..self.n_slots).rev().find(|&n_slots| bytes(n_slots) + RESERVE <= free);
        let &Self { n_slots, room, .. } = self;
        EngineError::GenerationDoesNotFit { device: board.name(), needed, free, n_slots, room, largest }
    }
}
