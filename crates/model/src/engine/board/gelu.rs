//! GELU between the two products of a feed-forward half: by a kernel of its own, or in the products' epilogues.
//!
//! By a kernel, `Hidden::before` is kept without the bias, which the kernel adds; an epilogue keeps it with the bias. So
//! the backward pass asks which way the forward pass of its shape took, and has a choice of its own behind an epilogue.

use wattle_ops::Activation;
use wattle_ops::activation::board::{self as activation, Input};
use wattle_ops::board::{BoardError, DeviceTensor, Job, Way};

use super::activations::Hidden;
use super::forward::MicroBatch;
use crate::engine::network::Linear;

/// Rows of what an epilogue keeps start at multiples of so many elements.
const EPILOGUE_MULTIPLE: usize = 8;
/// The ways of the forward pass.
const FORWARD: [&str; 2] = ["plain", "epilogue"];

impl MicroBatch<'_> {
    /// `after = f(x·W + bias)`
    pub(super) fn activate(
        &self,
        kind: Activation,
        x: DeviceTensor,
        hidden: &Hidden,
        linear: &Linear,
    ) -> Result<(), BoardError> {
        let products = self.products();
        let plain = || {
            products.fwd(hidden.before, x, linear, false)?;
            activation::fwd(self.board, kind, hidden.after, &self.hidden_rows(hidden, linear))
        };
        if !self.has_epilogue(kind, linear) {
            return plain();
        }
        let epilogue = || products.fwd_gelu(hidden.after, hidden.before, x, linear);
        let [of_plain, of_epilogue] = FORWARD;
        let ways = [Way::new(of_plain, &plain), Way::new(of_epilogue, &epilogue)];
        self.board.choose(&self.gelu_job("gelu_fwd", linear), &ways)
    }

    /// `grad_before = (grad_out·Wᵀ) · f′(before)`, with the bias of the first product, `mlp_in`, and the weight of the
    /// second.
    pub(super) fn activate_backward(
        &self,
        kind: Activation,
        grad_before: DeviceTensor,
        grad_out: DeviceTensor,
        hidden: &Hidden,
        [mlp_in, mlp_out]: [&Linear; 2],
    ) -> Result<(), BoardError> {
        let products = self.products();
        let apart = |input: &Input| {
            products.bwd_x(grad_before, grad_out, mlp_out, wattle_ops::Store::Overwrite)?;
            activation::bwd(self.board, kind, grad_before, input)
        };
        let rows = self.hidden_rows(hidden, mlp_in);
        if !self.has_epilogue(kind, mlp_in) || !self.keeps_biased(mlp_in)? {
            return apart(&rows);
        }
        let plain = || apart(&Input { bias: None, ..rows });
        if products.has_adapters(mlp_out) {
            return plain();
        }
        let epilogue = || products.bwd_x_gelu(grad_before, grad_out, mlp_out, hidden.before);
        let ways = [Way::new("plain", &plain), Way::new("slope_epilogue", &epilogue)];
        self.board.choose(&self.gelu_job("gelu_bwd", mlp_in), &ways)
    }

    /// Whether the forward pass of this shape left `Hidden::before` with the bias.
    fn keeps_biased(&self, mlp_in: &Linear) -> Result<bool, BoardError> {
        let nothing = || Ok(());
        let ways = FORWARD.map(|name| Way::new(name, &nothing));
        let way = self.board.choices().pick(&self.gelu_job("gelu_fwd", mlp_in), &ways)?;
        Ok(way.name == FORWARD[1])
    }

    fn gelu_job(&self, op: &str, mlp_in: &Linear) -> Job {
        let &Linear { n_in, n_out, bias, .. } = mlp_in;
        let sizes = [("n", self.n()), ("in", n_in), ("out", n_out), ("bias", usize::from(bias.is_some()))];
        let elem = self.options.elem;
        // The product reads one side and the weights, and two tensors of the other side are written or read.
        let bytes = (self.n() * (n_in + 2 * n_out) + n_in * n_out) * elem.bytes();
        Job::new(op, elem, &sizes).moving(bytes).computing(2 * self.n() * n_in * n_out)
    }

    /// Products in eight bits have none, and to others adapters add before the nonlinearity.
    fn has_epilogue(&self, kind: Activation, mlp_in: &Linear) -> bool {
        let is_plain = self.fp8.is_none() && !self.products().has_adapters(mlp_in);
        is_plain && kind == Activation::GeluTanh && mlp_in.n_out.is_multiple_of(EPILOGUE_MULTIPLE)
    }
}
