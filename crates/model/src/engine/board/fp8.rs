//! Products in eight bits: which layers have them, and where their codes lie.
//!
//! Weights are rounded after each update, from the masters, both ways round. A layer's argument is rounded as its product
//! is made, and once more on the way back, with the largest magnitude that was found on the way there; the gradient of
//! its result is rounded when its weight's gradient is made, and that of its argument reads the same codes.

use std::collections::HashMap;

use wattle_ops::Store;
use wattle_ops::board::{Board, BoardError, DeviceTensor, Elem, Epilogue, Gemm, Matrix, Ptr};
use wattle_ops::fp8::Format;
use wattle_ops::fp8::board::{self as fp8, Codes, Scale};

use super::DeviceEngineOptions;
use super::cutter::Cutter;
use super::error::EngineError;
use crate::engine::network::{Linear, Network};

/// Everything in eight bits.
#[derive(Debug)]
pub(super) struct Fp8 {
    /// By where a layer's weight lies in a flat buffer.
    layers: HashMap<usize, Layer>,
    /// Of a layer's argument, and later of the gradient of its result.
    rows: Ptr<u8>,
    /// Of a layer's argument, transposed.
    x: Ptr<u8>,
    /// Of the gradient of a layer's result, transposed.
    grad_out: Ptr<u8>,
    grad_scale: Scale,
}

/// One layer's weight, and the scale of its argument.
#[derive(Clone, Copy, Debug)]
struct Layer {
    linear: Linear,
    /// As the weight is stored.
    straight: Ptr<u8>,
    transposed: Ptr<u8>,
    scale: Scale,
    x_scale: Scale,
}

/// Which layers have products in eight bits.
fn layers(network: &Network, options: &DeviceEngineOptions) -> Vec<Linear> {
    let Some(precision) = options.fp8 else { return Vec::new() };
    let blocks = network.blocks.iter();
    let of_blocks = blocks.flat_map(|block| block.linears().map(|linear| *linear));
    of_blocks.chain(precision.head.then(|| network.board_head())).collect()
}

/// Refuses a board without such products, and sizes that they do not have.
pub(super) fn refuse_what_has_none(
    board: &dyn Board,
    network: &Network,
    options: &DeviceEngineOptions,
) -> Result<(), EngineError> {
    if options.fp8.is_none() {
        return Ok(());
    }
    if network.adapters.is_some() {
        let why = "adapters have no products in eight bits".to_owned();
        return Err(EngineError::NoFp8 { why });
    }
    board.fp8().map_err(|error| EngineError::NoFp8 { why: error.to_string() })?;
    Ok(network.refuse_fp8_sizes()?)
}

impl Fp8 {
    /// Cuts what weights take: `None` where nothing is in eight bits.
    pub(super) fn cut_weights(
        cutter: &mut Cutter,
        network: &Network,
        options: &DeviceEngineOptions,
    ) -> Option<Self> {
        options.fp8?;
        let scale =
            |cutter: &mut Cutter| Scale { parts: cutter.take_of(fp8::MAX_PARTS), scale: cutter.take_of(1) };
        let layer = |linear: Linear| {
            let len = linear.n_in * linear.n_out;
            let layer = Layer {
                linear,
                straight: cutter.take_of(len),
                transposed: cutter.take_of(len),
                scale: scale(cutter),
                x_scale: scale(cutter),
            };
            (linear.weight, layer)
        };
        let layers = layers(network, options).into_iter().map(layer).collect();
        let nowhere = || Ptr::new(wattle_ops::board::DevicePtr::new(0));
        Some(Self { layers, rows: nowhere(), x: nowhere(), grad_out: nowhere(), grad_scale: scale(cutter) })
    }

    /// Cuts room for the codes of one layer's argument and gradient, of `n` rows in blocks and `head_rows` in the head.
    pub(super) fn cut_scratch(&mut self, cutter: &mut Cutter, network: &Network, [n, head_rows]: [usize; 2]) {
        let rows = |linear: &Linear| if linear.weight == network.head { head_rows } else { n };
        let layers = || self.layers.values().map(|layer| &layer.linear);
        let most = |width: fn(&Linear) -> usize| layers().map(|linear| rows(linear) * width(linear)).max();
        let x = most(|linear| linear.n_in).unwrap_or(0);
        let grad_out = most(|linear| linear.n_out).unwrap_or(0);
        self.rows = cutter.take_of(x.max(grad_out));
        self.x = cutter.take_of(x);
        self.grad_out = cutter.take_of(grad_out);
    }

    /// Rounds all weights anew.
    pub(super) fn quantize_weights(&self, board: &dyn Board, masters: Ptr<f32>) -> Result<(), BoardError> {
        // In the order of their places, so that every process launches the same.
        let mut layers: Vec<_> = self.layers.values().collect();
        layers.sort_by_key(|layer| layer.linear.weight);
        layers.into_iter().try_for_each(|layer| layer.quantize_weight(board, masters))
    }

    /// The layer of `linear`, if its products are in eight bits.
    pub(super) fn of<'a>(&'a self, board: &'a dyn Board, linear: &Linear, n: usize) -> Option<Layer8<'a>> {
        self.layers.get(&linear.weight).map(|layer| Layer8 { board, fp8: self, layer, n })
    }
}

impl Layer {
    fn quantize_weight(&self, board: &dyn Board, masters: Ptr<f32>) -> Result<(), BoardError> {
        let Linear { weight, n_in, n_out, output_first, .. } = self.linear;
        let shape = if output_first { [n_out, n_in] } else { [n_in, n_out] };
        let from = DeviceTensor::from(masters.add(weight));
        let codes = Codes { rows: Some(e4m3(self.straight)), transposed: Some(e4m3(self.transposed)) };
        fp8::largest(board, self.scale, from, n_in * n_out)?;
        fp8::quantize(board, Format::E4m3, codes, self.scale, from, shape)
    }

    /// The weight as (out, in).
    fn out_by_in(&self) -> Matrix {
        let codes = if self.linear.output_first { self.straight } else { self.transposed };
        Matrix::new(e4m3(codes), self.linear.n_in).scaled(self.scale.scale)
    }

    /// The weight as (in, out).
    fn in_by_out(&self) -> Matrix {
        let codes = if self.linear.output_first { self.transposed } else { self.straight };
        Matrix::new(e4m3(codes), self.linear.n_out).scaled(self.scale.scale)
    }
}

/// The products of one layer, of `n` rows.
#[derive(Clone, Copy)]
pub(super) struct Layer8<'a> {
    board: &'a dyn Board,
    fp8: &'a Fp8,
    layer: &'a Layer,
    n: usize,
}

impl Layer8<'_> {
    /// `out = x·W`, and what `epilogue` adds.
    ///
    /// # Shapes
    /// `x` (n, in) → `out` (n, out), overwritten.
    pub(super) fn fwd(
        &self,
        out: DeviceTensor,
        x: DeviceTensor,
        epilogue: Epilogue,
    ) -> Result<(), BoardError> {
        let Linear { n_in, n_out, .. } = self.layer.linear;
        let (scale, rows) = (self.layer.x_scale, e4m3(self.fp8.rows));
        fp8::largest(self.board, scale, x, self.n * n_in)?;
        let codes = Codes { rows: Some(rows), transposed: None };
        fp8::quantize(self.board, Format::E4m3, codes, scale, x, [self.n, n_in])?;
        self.board.gemm(&Gemm {
            m: self.n,
            n: n_out,
            k: n_in,
            a: Matrix::new(rows, n_in).scaled(scale.scale),
            b: self.layer.out_by_in().transposed(),
            c: Matrix::new(out, n_out),
            alpha: 1.0,
            accumulate: false,
            batch: 1,
            epilogue,
        })
    }

    /// `grad_W = or += xᵀ·grad_out`, with the `x` of the last [`Layer8::fwd`] of this layer.
    ///
    /// # Shapes
    /// `grad_out` (n, out), `x` (n, in) → `grad_weight` as the weight is stored.
    pub(super) fn bwd_weight(
        &self,
        grad_weight: Ptr<f32>,
        grad_out: DeviceTensor,
        x: DeviceTensor,
        store: Store,
    ) -> Result<(), BoardError> {
        let Linear { n_in, n_out, output_first, .. } = self.layer.linear;
        let (n, x_scale, grad_scale) = (self.n, self.layer.x_scale, self.fp8.grad_scale);
        let (x_codes, grad_codes) = (e4m3(self.fp8.x), e5m2(self.fp8.grad_out));
        let codes = Codes { rows: None, transposed: Some(x_codes) };
        fp8::quantize(self.board, Format::E4m3, codes, x_scale, x, [n, n_in])?;
        fp8::largest(self.board, grad_scale, grad_out, n * n_out)?;
        let codes = Codes { rows: Some(e5m2(self.fp8.rows)), transposed: Some(grad_codes) };
        fp8::quantize(self.board, Format::E5m2, codes, grad_scale, grad_out, [n, n_out])?;
        let x = Matrix::new(x_codes, n).scaled(x_scale.scale);
        let grad_out = Matrix::new(grad_codes, n).scaled(grad_scale.scale);
        let (m, width, a, b) =
            if output_first { (n_out, n_in, grad_out, x) } else { (n_in, n_out, x, grad_out) };
        self.board.gemm(&Gemm {
            m,
            n: width,
            k: n,
            a,
            b: b.transposed(),
            c: Matrix::new(grad_weight, width),
            alpha: 1.0,
            accumulate: store == Store::Accumulate,
            batch: 1,
            epilogue: Epilogue::None,
        })
    }

    /// `grad_x = or += grad_out·Wᵀ`, with the codes of `grad_out` that [`Layer8::bwd_weight`] of this layer left.
    ///
    /// # Shapes
    /// `grad_x` (n, in).
    pub(super) fn bwd_x(&self, grad_x: DeviceTensor, store: Store) -> Result<(), BoardError> {
        let Linear { n_in, n_out, .. } = self.layer.linear;
        self.board.gemm(&Gemm {
            m: self.n,
            n: n_in,
            k: n_out,
            a: Matrix::new(e5m2(self.fp8.rows), n_out).scaled(self.fp8.grad_scale.scale),
            b: self.layer.in_by_out().transposed(),
            c: Matrix::new(grad_x, n_in),
            alpha: 1.0,
            accumulate: store == Store::Accumulate,
            batch: 1,
            epilogue: Epilogue::None,
        })
    }
}

fn e4m3(codes: Ptr<u8>) -> DeviceTensor {
    DeviceTensor::new(codes.bytes(), Elem::E4m3)
}

fn e5m2(codes: Ptr<u8>) -> DeviceTensor {
    DeviceTensor::new(codes.bytes(), Elem::E5m2)
}
