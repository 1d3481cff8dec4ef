//! Which parts of the flat buffers this rank keeps, and what ranks exchange of them.
//!
//! Every rank has all weights as passes read them, and gradients of its own sequences. Each bucket of the layout is cut
//! into one equal part a rank; the matrices that Muon updates belong to one rank each, whole. Of its parts a rank has the
//! summed gradients, the moments and, where passes read another type, the master weights; it makes their update, and gives
//! the others the new weights.
//!
//! # References
//! Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, section 5.1.

use std::ops::Range;

use wattle_ops::board::{Board, BoardError, Collectives, DevicePtr, DeviceTensor, Owned, Ptr};

use crate::engine::Share;
use crate::engine::layout::{BOARD_ALIGNMENT, Bucket, Entry, Layout, MeanSquares};
use crate::engine::owners::owned;

/// The rank that a board belongs to; the only one of a board alone.
pub fn share_of(board: &dyn Board) -> Share {
    board.collectives().map_or_else(Share::default, |all| Share { rank: all.rank(), world: all.world() })
}

/// The parts of the flat buffers that this rank keeps.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    buckets: Vec<CutBucket>,
    share: Share,
    /// Whether they are exchanged, be it by one rank alone.
    are_exchanged: bool,
    mean_squares: MeanSquares,
    /// This rank's, of each bucket.
    own: Vec<Vec<Shard>>,
    lens: OwnLens,
}

/// A bucket, and what each rank keeps of it.
#[derive(Clone, Debug)]
struct CutBucket {
    bucket: Bucket,
    parts: Vec<Part>,
}

/// Neighbouring elements that one rank keeps.
#[derive(Clone, Debug)]
struct Part {
    range: Range<usize>,
    owner: usize,
    /// Rows and columns, where Muon updates them.
    matrix: Option<[usize; 2]>,
}

/// One of the parts that this rank keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    /// Its elements in buffers of everything.
    pub(super) range: Range<usize>,
    /// Where it starts in buffers of this rank's parts alone. They lie there one behind the other; of one rank, as in
    /// buffers of everything.
    pub(super) start: usize,
    /// What updates it.
    pub(super) updated_by: UpdatedBy,
}

/// What updates a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UpdatedBy {
    /// AdamW, which keeps a second moment. This rank's start there in a buffer of them.
    AdamW {
        /// Where.
        squares: usize,
    },
    /// Muon.
    Muon {
        /// Rows and columns.
        shape: [usize; 2],
    },
}

/// Elements of buffers of this rank's parts.
#[derive(Clone, Copy, Debug, Default)]
struct OwnLens {
    all: usize,
    squares: usize,
}

impl Shards {
    /// All that `layout` has.
    pub(super) fn whole(layout: &Layout) -> Self {
        let all = Bucket { range: 0..layout.len(), first_block: None };
        let matrices = layout.orthogonalized().map(|entry| matrix_of(entry, 0));
        let rest = layout.mean_squares().parts(&all.range);
        let rest = rest.into_iter().map(|range| Part { range, owner: 0, matrix: None });
        let parts = rest.filter(|part| !part.range.is_empty()).chain(matrices).collect();
        Self::cut(layout, vec![CutBucket { bucket: all, parts }], Share::default(), false)
    }

    /// The parts of the rank that `board` belongs to.
    pub(super) fn of(board: &dyn Board, layout: &Layout) -> Self {
        if board.collectives().is_none() {
            return Self::whole(layout);
        }
        let share = share_of(board);
        let matrices: Vec<Part> =
            owned(layout, share.world).map(|(entry, owner)| matrix_of(entry, owner)).collect();
        let cut = |bucket: &Bucket| {
            let is_within = |part: &&Part| bucket.range.contains(&part.range.start);
            let within: Vec<Part> = matrices.iter().filter(is_within).cloned().collect();
            let parts = if within.is_empty() { even_parts(bucket, share.world) } else { within };
            CutBucket { bucket: bucket.clone(), parts }
        };
        Self::cut(layout, layout.buckets().iter().map(cut).collect(), share, true)
    }

    fn cut(layout: &Layout, buckets: Vec<CutBucket>, share: Share, are_exchanged: bool) -> Self {
        let mean_squares = layout.mean_squares().clone();
        let mut lens = OwnLens::default();
        let mut shard = |part: &Part| {
            let squares = mean_squares.range(&part.range);
            let (start, start_of_squares) = match share.world {
                1 => (part.range.start, squares.start),
                _ => (lens.all, lens.squares),
            };
            lens.all += part.range.len().next_multiple_of(BOARD_ALIGNMENT);
            lens.squares += squares.len();
            let updated_by = match part.matrix {
                Some(shape) => UpdatedBy::Muon { shape },
                None => UpdatedBy::AdamW { squares: start_of_squares },
            };
            Shard { range: part.range.clone(), start, updated_by }
        };
        let own = buckets
            .iter()
            .map(|cut| cut.parts.iter().filter(|part| part.owner == share.rank).map(&mut shard).collect())
            .collect();
        if share.world == 1 {
            let all = 0..layout.len();
            lens = OwnLens { all: all.len(), squares: mean_squares.range(&all).len() };
        }
        Self { buckets, share, are_exchanged, mean_squares, own, lens }
    }

    /// Which of how many ranks this one is.
    pub(super) fn share(&self) -> Share {
        self.share
    }

    /// Whether the board has collectives: with one rank too, they cost what they cost.
    pub(super) fn are_exchanged(&self) -> bool {
        self.are_exchanged
    }

    /// Whether there are other ranks.
    pub(super) fn are_several(&self) -> bool {
        self.share.world > 1
    }

    /// This rank's parts.
    pub(super) fn own(&self) -> impl Iterator<Item = &Shard> {
        self.own.iter().flatten()
    }

    /// This rank's parts of each bucket.
    pub(super) fn own_by_bucket(&self) -> impl Iterator<Item = &[Shard]> {
        self.own.iter().map(Vec::as_slice)
    }

    /// Numbers of elements of each of the parts of `rank`.
    pub(super) fn lens_of(&self, rank: usize) -> impl Iterator<Item = usize> {
        let parts = self.buckets.iter().flat_map(|cut| &cut.parts);
        parts.filter(move |part| part.owner == rank).map(|part| part.range.len())
    }

    /// Elements of buffers of this rank's parts.
    pub(super) fn own_len(&self) -> usize {
        self.lens.all
    }

    /// Elements of this rank's parts that have a second moment.
    pub(super) fn own_squares_len(&self) -> usize {
        self.lens.squares
    }
}

fn matrix_of(entry: &Entry, owner: usize) -> Part {
    Part { range: entry.range.clone(), owner, matrix: Some(entry.matrix()) }
}

/// One equal part of `bucket` for each of `world` ranks.
fn even_parts(bucket: &Bucket, world: usize) -> Vec<Part> {
    let len = bucket.range.len() / world;
    let start_of = |rank: usize| bucket.range.start + rank * len;
    (0..world)
        .map(|owner| Part { range: start_of(owner)..start_of(owner + 1), owner, matrix: None })
        .collect()
}

impl CutBucket {
    /// Whether it is cut into equal parts, in the order of ranks.
    fn is_even(&self) -> bool {
        self.parts.iter().all(|part| part.matrix.is_none())
    }

    /// Elements of an equal part.
    fn part_len(&self) -> usize {
        self.parts[0].range.len()
    }

    /// Its parts in a buffer of everything.
    fn owned(&self, whole: DeviceTensor) -> Vec<Owned> {
        let part = |part: &Part| Owned {
            at: whole.add(part.range.start).bytes(),
            n_bytes: part.range.len() * whole.elem().bytes(),
            owner: part.owner,
        };
        self.parts.iter().map(part).collect()
    }
}

/// What ranks exchange. All ranks do the same, in the same order.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    collectives: &'a dyn Collectives,
    shards: &'a Shards,
}

impl<'a> Exchange<'a> {
    /// Between the ranks of `board`; `None` for a board alone.
    pub(super) fn of(board: &'a dyn Board, shards: &'a Shards) -> Option<Self> {
        board.collectives().map(|collectives| Self { collectives, shards })
    }

    /// Begins to sum the gradients that are complete once the backward pass is through block `layer_idx`; those of the
    /// blocks above have been begun before.
    pub(super) fn sum_block(&self, gradients: Ptr<f32>, layer_idx: usize) -> Result<(), BoardError> {
        self.sum(gradients, |bucket| bucket.first_block == Some(layer_idx))
    }

    /// Begins to sum the gradients that are complete at the end of the backward pass alone.
    pub(super) fn sum_rest(&self, gradients: Ptr<f32>) -> Result<(), BoardError> {
        self.sum(gradients, |bucket| bucket.first_block.is_none())
    }

    /// Begins to sum all gradients.
    pub(super) fn sum_all(&self, gradients: Ptr<f32>) -> Result<(), BoardError> {
        self.sum(gradients, |_| true)
    }

    fn sum(&self, gradients: Ptr<f32>, is_complete: impl Fn(&Bucket) -> bool) -> Result<(), BoardError> {
        let is_complete = |cut: &&CutBucket| is_complete(&cut.bucket);
        let complete: Vec<&CutBucket> = self.shards.buckets.iter().filter(is_complete).collect();
        if complete.is_empty() {
            return Ok(());
        }
        self.collectives.fork()?;
        complete.into_iter().try_for_each(|cut| match cut.is_even() {
            true => self.collectives.reduce_scatter(gradients.add(cut.bucket.range.start), cut.part_len()),
            false => self.collectives.reduce(&cut.owned(gradients.into())),
        })
    }

    /// Begins to give all ranks the parts of bucket `bucket_idx` that each has of `whole`.
    pub(super) fn gather(&self, whole: DeviceTensor, bucket_idx: usize) -> Result<(), BoardError> {
        let cut = &self.shards.buckets[bucket_idx];
        self.collectives.fork()?;
        match cut.is_even() {
            true => self.gather_even(cut, whole.add(cut.bucket.range.start)),
            false => self.collectives.broadcast(&cut.owned(whole)),
        }
    }

    /// The same, of a bucket of equal parts that starts at `at`.
    fn gather_even(&self, cut: &CutBucket, at: DeviceTensor) -> Result<(), BoardError> {
        self.collectives.all_gather(at.bytes(), cut.part_len() * at.elem().bytes())
    }

    /// Gives all ranks the row of each: `rows` has one of `n_bytes` a rank.
    pub(super) fn gather_rows(&self, rows: DevicePtr, n_bytes: usize) -> Result<(), BoardError> {
        self.collectives.fork()?;
        self.collectives.all_gather(rows, n_bytes)?;
        self.join()
    }

    /// What follows waits for all that was begun.
    pub(super) fn join(&self) -> Result<(), BoardError> {
        self.collectives.join()
    }

    /// Puts this rank's parts `own` to their places in `whole`, and gives all ranks those of the others.
    pub(super) fn collect(
        &self,
        board: &dyn Board,
        whole: DeviceTensor,
        own: DeviceTensor,
    ) -> Result<(), BoardError> {
        for Shard { range, start, .. } in self.shards.own() {
            let (to, from) = (whole.add(range.start), own.add(*start));
            board.copy(to.bytes(), from.bytes(), range.len() * own.elem().bytes())?;
        }
        (0..self.shards.buckets.len()).try_for_each(|bucket_idx| self.gather(whole, bucket_idx))?;
        self.join()
    }

    /// As [`Exchange::collect`], of second moments, which matrices of Muon's have none of.
    pub(super) fn collect_squares(
        &self,
        board: &dyn Board,
        whole: DeviceTensor,
        own: DeviceTensor,
    ) -> Result<(), BoardError> {
        let place = |range: &Range<usize>| whole.add(self.shards.mean_squares.range(range).start);
        for Shard { range, updated_by, .. } in self.shards.own() {
            if let UpdatedBy::AdamW { squares } = *updated_by {
                let (to, from) = (place(range), own.add(squares));
                board.copy(to.bytes(), from.bytes(), range.len() * own.elem().bytes())?;
            }
        }
        self.collectives.fork()?;
        let mut even = self.shards.buckets.iter().filter(|cut| cut.is_even());
        even.try_for_each(|cut| self.gather_even(cut, place(&cut.bucket.range)))?;
        self.join()
    }
}
