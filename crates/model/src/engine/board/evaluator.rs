//! Losses of a model that is not trained.

use std::sync::Arc;

use wattle_ops::board::{Board, Elem};

use super::activations::{Attention, Passes};
use super::error::{AttentionMemory, EngineError};
use super::fit::Fit;
use super::reading::{self, Reading};
use super::{DeviceEngineOptions, Masks};
use crate::engine::layout::Layout;
use crate::engine::network::{Network, Sizes};
use crate::engine::{LossSum, MemoryPlan, Sequences};
use crate::parameter::Parameter;

/// Evaluates a network on a board: no gradients, no moments, and the activations of one block.
pub struct BoardEvaluator {
    reading: Reading,
    /// Most sequences at a time.
    most: usize,
    elem: Elem,
}

/// How to evaluate on a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluatorOptions {
    /// Most sequences at a time.
    pub batch_size: usize,
    /// Tokens of a sequence: at most the model's context.
    pub context: usize,
    /// Type of weights and activations.
    pub elem: Elem,
    /// What sequences say besides their tokens.
    pub masks: Masks,
}

impl BoardEvaluator {
    /// An evaluator of the network with these `parameters`, of which it takes a copy.
    ///
    /// # Errors
    /// [`EngineError::EvaluationDoesNotFit`] before anything is allocated if there is too little memory; whatever the
    /// board says.
    pub(crate) fn new(
        board: Arc<dyn Board>,
        network: Network,
        layout: &Layout,
        parameters: &[Parameter],
        options: EvaluatorOptions,
    ) -> Result<Self, EngineError> {
        let EvaluatorOptions { batch_size: most, context: t, elem, masks } = options;
        let network = Network { sizes: Sizes { t, ..network.sizes }, ..network };
        let passes = DeviceEngineOptions { masks, ..reading::options(most, elem) };
        let fit = Fit {
            board: board.as_ref(),
            network: &network,
            layout,
            options: &passes,
            passes: Passes::Forward,
        };
        let free = fit.free()?;
        fit.refuse_what_cannot_fit(free)?;
        let attention = fit.attention(free)?;
        let device = board.name();
        let refusal = |needed, free| EngineError::EvaluationDoesNotFit {
            device: device.clone(),
            needed,
            free,
            context: t,
            attention: Box::new(AttentionMemory::Little),
        };
        let (of_reading, rotary) = (network.clone(), network.rotary());
        let reading =
            Reading::new(Arc::clone(&board), of_reading, layout, parameters, passes, attention, &refusal)?;
        reading.memory.activations.write_angles(board.as_ref(), rotary.as_ref())?;
        Ok(Self { reading, most, elem })
    }

    /// The losses of some sequences.
    ///
    /// # Shapes
    /// At most as many sequences as were asked for, each of the context that was.
    ///
    /// # Errors
    /// If there are more, they have documents or weights that the evaluator was not told of, a token is not the model's, or
    /// the board fails.
    pub fn evaluate(&mut self, sequences: Sequences<'_>) -> Result<LossSum, EngineError> {
        let Sequences { inputs, targets, weights, documents } = sequences;
        let t = self.reading.network.sizes.t;
        let expected = self.most * t;
        if inputs.len() > expected || inputs.len() != targets.len() || !inputs.len().is_multiple_of(t) {
            return Err(EngineError::Batch { expected, got: inputs.len() });
        }
        if weights.is_some() && self.reading.memory.eval.weights.is_none() {
            return Err(EngineError::Masks { what: "weights of targets" });
        }
        if documents.is_some() && self.reading.memory.eval.documents.is_none() {
            return Err(EngineError::Masks { what: "documents" });
        }
        self.reading.check_tokens(inputs.iter().chain(targets))?;
        let board = self.reading.board.as_ref();
        self.reading.memory.eval.write(board, &[], sequences, inputs)?;
        let (pass, results) = (self.reading.pass(inputs.len() / t), &self.reading.memory.results);
        pass.forward()?;
        pass.losses(results.rows())?;
        results.sum_of_rows(board, targets.len())
    }

    /// What it takes of the device's memory.
    pub fn memory(&self) -> MemoryPlan {
        self.reading.plan
    }

    /// What it is, for a person: device, type, kind of attention.
    pub fn describe(&self) -> String {
        let attention = match self.reading.memory.activations.attention {
            Attention::Fused { .. } => "fused",
            Attention::Products { .. } => "by products",
            Attention::Cached(_) => unreachable!("whole sequences have no cache"),
        };
        format!("{} in {}, attention {attention}", self.reading.board.name(), self.elem.suffix())
    }
}
