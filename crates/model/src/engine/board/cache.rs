//! Keys and values of texts that are being generated, which rows a pass has, and what comes of it.

use wattle_ops::attention::Kind;
use wattle_ops::board::{Board, BoardError, DeviceTensor, Elem, Ptr};
use wattle_ops::decode::board::{self as decode, Cache, Rows, Scratch, Shape};

use super::cutter::Cutter;
use crate::engine::network::Network;

/// The cache of all layers, and where a pass is told of its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cached {
    /// But for what queries see, which each layer says.
    shape: Shape,
    /// Tokens, slots and positions of rows, one array after the other, each with room for as many as a pass may have;
    /// then which of the rows predict.
    words: Ptr<u32>,
    most_rows: usize,
    /// One layer after the other.
    keys: DeviceTensor,
    values: DeviceTensor,
    scratch: Scratch,
    predictions: Predictions,
}

/// Where the rows that predict end up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Predictions {
    /// Which of a pass's rows they are.
    pub(super) rows: Ptr<u32>,
    /// Those rows, normalized, (n, c).
    pub(super) x: DeviceTensor,
    /// (n, v), `f32` whatever the type of activations.
    pub(super) logits: Ptr<f32>,
}

/// Rows that may predict in one pass, of `n_slots` texts: those of a pass with one row a text.
pub(super) fn most_predictions(n_slots: usize) -> usize {
    n_slots.next_power_of_two()
}

impl Cached {
    /// Cuts room for passes of at most `most_rows`.
    pub(super) fn cut(
        cutter: &mut Cutter,
        shape: Shape,
        most_rows: usize,
        network: &Network,
        elem: Elem,
    ) -> Self {
        let len = network.n_layers() * shape.cache_len();
        let n_out = most_predictions(shape.n_slots);
        let words = cutter.take_of(3 * most_rows + n_out);
        Self {
            shape,
            words,
            most_rows,
            predictions: Predictions {
                rows: words.add(3 * most_rows),
                x: cutter.take(n_out * network.sizes.c, elem),
                logits: cutter.take_of(n_out * network.sizes.v_padded()),
            },
            keys: cutter.take(len, elem),
            values: cutter.take(len, elem),
            scratch: Scratch {
                partial: cutter.take_of(shape.partial_len(most_rows)),
                stats: cutter.take_of(shape.stats_len(most_rows)),
            },
        }
    }

    /// The first `n` rows.
    pub(super) fn rows(&self, n: usize) -> Rows {
        let [tokens, slots, positions] = [0, 1, 2].map(|i| self.words.add(i * self.most_rows));
        Rows { n, tokens, slots, positions }
    }

    /// Where rows that predict are told of, and where their logits are left.
    pub(super) fn predictions(&self) -> &Predictions {
        &self.predictions
    }

    /// Says what the rows of the next pass are: tokens, slots and positions, as many of each, and which of them predict.
    pub(super) fn write(
        &self,
        board: &dyn Board,
        rows: [&[u32]; 3],
        predicting: &[u32],
    ) -> Result<(), BoardError> {
        let mut words = vec![0u32; 3 * self.most_rows];
        for (place, array) in words.chunks_exact_mut(self.most_rows).zip(rows) {
            place[..array.len()].copy_from_slice(array);
        }
        words.extend_from_slice(predicting);
        board.write(self.words.bytes(), bytemuck::cast_slice(&words))
    }

    /// Stores the keys and values of `n` rows in a layer, and attends to all that each of them sees there.
    pub(super) fn attend(
        &self,
        board: &dyn Board,
        out: DeviceTensor,
        qkv: DeviceTensor,
        (layer_idx, kind): (usize, Kind),
        n: usize,
        angles: Option<[Ptr<f32>; 2]>,
    ) -> Result<(), BoardError> {
        let [keys, values] = [self.keys, self.values].map(|all| all.add(layer_idx * self.shape.cache_len()));
        let (rows, cache, shape) = (self.rows(n), Cache { keys, values }, Shape { kind, ..self.shape });
        decode::store(board, qkv, &rows, &cache, &shape, angles)?;
        decode::attend(board, out, qkv, &rows, &cache, &shape, &self.scratch)
    }
}
