//! Rows of several texts on a board, each with its own position, and the cache of their keys and values.
//!
//! What a row gets depends on its text, its position and the sizes alone, to the bit: not on the rows beside it.

use crate::attention::Kind;
use crate::board::args::{args, pack_len, symbol};
use crate::board::{Board, BoardError, DeviceTensor, Launch, Ptr};

/// The place of a row that belongs to no text: it fills a launch up.
pub const NO_SLOT: u32 = u32::MAX;

/// Fewest positions of a span.
const MIN_SPAN: usize = 64;
/// Most spans of a text.
const MAX_SPANS: usize = 64;

/// The rows of one pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rows {
    /// How many, n.
    pub n: usize,
    /// (n), each in the table of tokens.
    pub tokens: Ptr<u32>,
    /// (n): the place of each row's text in the cache, or [`NO_SLOT`].
    pub slots: Ptr<u32>,
    /// (n): each row's position in its text, below the cache's room.
    pub positions: Ptr<u32>,
}

/// The sizes of a cache and of the attention that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and of values; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d: usize,
    /// Texts.
    pub n_slots: usize,
    /// Positions that there is room for in each text, at least 1.
    pub room: usize,
    /// Positions of a model: what is attended to is cut into spans by it, whatever the room.
    pub context: usize,
    /// Which keys a query sees.
    pub kind: Kind,
}

/// Keys and values of one layer, each (slots, h_kv, room, d).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cache {
    /// Keys, turned by their positions.
    pub keys: DeviceTensor,
    /// Values.
    pub values: DeviceTensor,
}

/// What lies between the two launches of [`attend`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scratch {
    /// [`Shape::partial_len`] floats.
    pub partial: Ptr<f32>,
    /// [`Shape::stats_len`] floats.
    pub stats: Ptr<f32>,
}

impl Shape {
    /// Elements of the keys of one layer, or of its values.
    pub fn cache_len(&self) -> usize {
        self.n_slots * self.n_kv_heads * self.room * self.d
    }

    /// Floats of the spans' sums of values, for `n` rows.
    pub fn partial_len(&self, n: usize) -> usize {
        n * self.n_heads * self.n_spans() * self.d
    }

    /// Floats of the spans' statistics, for `n` rows.
    pub fn stats_len(&self, n: usize) -> usize {
        2 * n * self.n_heads * self.n_spans()
    }

    /// Positions that one block attends to.
    fn span(&self) -> usize {
        self.context.div_ceil(MAX_SPANS).next_multiple_of(MIN_SPAN)
    }

    fn n_spans(&self) -> usize {
        self.room.div_ceil(self.span())
    }

    /// # Panics
    /// If the kind is full attention or a window of nothing.
    fn window(&self) -> usize {
        let window = self.kind.window(self.context);
        assert!(window > 0, "what is decoded sees no position after its own, and at least its own");
        window
    }
}

/// `out[r] = token_table[tokens[r]] + position_table[positions[r]]`; `position_table` may be absent.
///
/// # Shapes
/// `token_table` (v, c), `position_table` (≥ room, c) → `out` (n, c).
///
/// # Errors
/// If the launch fails.
pub fn embed(
    board: &dyn Board,
    out: DeviceTensor,
    rows: &Rows,
    token_table: DeviceTensor,
    position_table: Option<DeviceTensor>,
    c: usize,
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: &symbol("decode_embed", out.elem()),
        grid: [rows.n as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![out, rows.tokens, rows.positions, token_table, position_table, c as i32],
    })
}

/// `out[i] = x[rows[i]]`
///
/// # Shapes
/// `x` (≥ any of `rows`, c), `rows` (n) → `out` (n, c).
///
/// # Errors
/// If the launch fails.
pub fn gather(
    board: &dyn Board,
    out: DeviceTensor,
    x: DeviceTensor,
    rows: Ptr<u32>,
    [n, c]: [usize; 2],
) -> Result<(), BoardError> {
    board.launch(&Launch {
        kernel: &symbol("decode_gather", out.elem()),
        grid: [n as u32, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, rows, c as i32],
    })
}

/// Stores the rows' keys and values in the cache. With angles, queries are turned in place, and keys as they are stored.
///
/// # Shapes
/// `qkv` (n, (h + 2·h_kv)·d), of which queries are changed; `angles`, cosines and sines (≥ room, d/2).
///
/// # Errors
/// If the launch fails.
pub fn store(
    board: &dyn Board,
    qkv: DeviceTensor,
    rows: &Rows,
    cache: &Cache,
    shape: &Shape,
    angles: Option<[Ptr<f32>; 2]>,
) -> Result<(), BoardError> {
    let &Shape { n_heads, n_kv_heads, d, room, .. } = shape;
    // Without angles, queries are what they are.
    let first_head = if angles.is_some() { 0 } else { n_heads };
    let [cos, sin] = [0, 1].map(|i| angles.map(|angles| angles[i]));
    board.launch(&Launch {
        kernel: &symbol("decode_store", qkv.elem()),
        grid: [rows.n as u32, (n_heads + 2 * n_kv_heads - first_head) as u32, 1],
        block: [32, 1, 1],
        shared_bytes: 0,
        args: &args![
            qkv,
            cache.keys,
            cache.values,
            rows.slots,
            rows.positions,
            cos,
            sin,
            first_head as i32,
            n_heads as i32,
            n_kv_heads as i32,
            d as i32,
            room as i32,
        ],
    })
}

/// `out = softmax(q · kᵀ / √d) · v` of each row over the keys of its text in the cache that it sees, its own among them.
/// Positions are cut into spans, so that one row is many blocks; the spans of a row are added in their order.
///
/// # Shapes
/// `qkv` (n, (h + 2·h_kv)·d), of which queries are read → `out` (n, h·d), overwritten.
///
/// # Errors
/// If a launch fails.
///
/// # Panics
/// If the kind is full attention or a window of nothing.
pub fn attend(
    board: &dyn Board,
    out: DeviceTensor,
    qkv: DeviceTensor,
    rows: &Rows,
    cache: &Cache,
    shape: &Shape,
    scratch: &Scratch,
) -> Result<(), BoardError> {
    let &Shape { n_heads, n_kv_heads, d, room, .. } = shape;
    let &Rows { n, slots, positions, .. } = rows;
    let (span, n_spans, window) = (shape.span(), shape.n_spans(), shape.window());
    let scale = 1.0 / (d as f32).sqrt();
    board.launch(&Launch {
        kernel: &symbol("decode_attend", out.elem()),
        grid: [n_spans as u32, n_heads as u32, n as u32],
        block: [128, 1, 1],
        shared_bytes: ((d + span) * size_of::<f32>()) as u32,
        args: &args![
            scratch.partial,
            scratch.stats,
            qkv,
            cache.keys,
            cache.values,
            slots,
            positions,
            n_heads as i32,
            n_kv_heads as i32,
            d as i32,
            room as i32,
            window as i32,
            span as i32,
            scale,
        ],
    })?;
    board.launch(&Launch {
        kernel: &symbol("decode_combine", out.elem()),
        grid: [n_heads as u32, n as u32, 1],
        block: [64, 1, 1],
        shared_bytes: 0,
        args: &args![
            out,
            scratch.partial,
            scratch.stats,
            slots,
            positions,
            n_spans as i32,
            d as i32,
            window as i32,
            span as i32,
        ],
    })
}

/// A linear layer's weight and bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// (out, in), or (in, out).
    pub weight: DeviceTensor,
    /// (out)
    pub bias: Option<DeviceTensor>,
    /// Width of an argument.
    pub n_in: usize,
    /// Width of a result.
    pub n_out: usize,
    /// Whether the weight is stored (out, in), else (in, out).
    pub output_first: bool,
}

/// Rows that one block multiplies at most.
const MOST_ROWS_A_BLOCK: usize = 8;
/// Rows beyond which the weight would be read too often: four times are answered by a board's cache.
const MOST_ROWS: usize = 32;

/// Whether [`linear`] takes `n` rows: a power of two, at most 32.
pub fn takes(n: usize) -> bool {
    n.is_power_of_two() && n <= MOST_ROWS
}

/// `out = x·W + bias` of few rows. What a row gets is the same to the bit whatever their number.
///
/// # Shapes
/// `x` (n, in) → `out` (n, out), overwritten: of the type of `x`, or `f32` where the weight is stored (out, in).
///
/// # Errors
/// If the launch fails.
///
/// # Panics
/// If it does not take that many rows.
pub fn linear(
    board: &dyn Board,
    out: DeviceTensor,
    x: DeviceTensor,
    linear: &Linear,
    n: usize,
) -> Result<(), BoardError> {
    assert!(takes(n), "{n} rows: expected a power of two, at most {MOST_ROWS}");
    let &Linear { weight, bias, n_in, n_out, output_first } = linear;
    let rows = n.min(MOST_ROWS_A_BLOCK);
    let elem = x.elem();
    let widened = if out.elem() == elem { "" } else { "_to_f32" };
    let (order, columns, threads) =
        if output_first { ("out", 4, 128) } else { ("in", 2 * pack_len(elem), 256) };
    board.launch(&Launch {
        kernel: &format!("decode_linear_{order}_{rows}_{}{widened}", elem.suffix()),
        grid: [n_out.div_ceil(columns) as u32, (n / rows) as u32, 1],
        block: [threads, 1, 1],
        shared_bytes: 0,
        args: &args![out, x, weight, bias, n_in as i32, n_out as i32],
    })
}
