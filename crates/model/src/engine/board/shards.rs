//! Which parts of the flat buffers this rank keeps, and what ranks exchange of them.
//!
//! Every rank has all weights as passes read them, and gradients of its own sequences. Each bucket of the layout is cut
//! into one equal part a rank. Of its parts a rank has the summed gradients, both moments and, where passes read another
//! type, the master weights; it makes their update, and gives the others the new weights.
//!
//! # References
//! Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, section 5.1.

use std::ops::Range;

use wattle_ops::board::{Board, BoardError, Collectives, DevicePtr, DeviceTensor, Ptr};

use crate::engine::Share;
use crate::engine::layout::{Bucket, Layout};

/// The rank that a board belongs to; the only one of a board alone.
pub fn share_of(board: &dyn Board) -> Share {
    board.collectives().map_or_else(Share::default, |all| Share { rank: all.rank(), world: all.world() })
}

/// The parts of the flat buffers that this rank keeps.
#[derive(Clone, Debug)]
pub(super) struct Shards {
    buckets: Vec<Bucket>,
    share: Share,
    /// Whether they are exchanged, be it by one rank alone.
    are_exchanged: bool,
}

/// One of the parts that this rank keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    /// Its elements in buffers of everything.
    pub(super) range: Range<usize>,
    /// Where it starts in buffers of this rank's parts alone, which lie there one behind the other.
    pub(super) start: usize,
}

impl Shards {
    /// All that `layout` has, in one part.
    pub(super) fn whole(layout: &Layout) -> Self {
        let all = Bucket { range: 0..layout.len(), first_block: None };
        Self { buckets: vec![all], share: Share::default(), are_exchanged: false }
    }

    /// The parts of the rank that `board` belongs to.
    pub(super) fn of(board: &dyn Board, layout: &Layout) -> Self {
        match board.collectives() {
            None => Self::whole(layout),
            Some(_) => {
                Self { buckets: layout.buckets().to_vec(), share: share_of(board), are_exchanged: true }
            }
        }
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

    /// This rank's parts, one of each bucket.
    pub(super) fn own(&self) -> impl Iterator<Item = Shard> {
        self.buckets.iter().scan(0, |start, bucket| {
            let len = self.part_len(bucket);
            let first = bucket.range.start + self.share.rank * len;
            let shard = Shard { range: first..first + len, start: *start };
            *start += len;
            Some(shard)
        })
    }

    /// Elements of this rank's parts.
    pub(super) fn own_len(&self) -> usize {
        self.buckets.iter().map(|bucket| self.part_len(bucket)).sum()
    }

    fn part_len(&self, bucket: &Bucket) -> usize {
        bucket.range.len() / self.share.world
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
        let complete: Vec<&Bucket> =
            self.shards.buckets.iter().filter(|bucket| is_complete(bucket)).collect();
        if complete.is_empty() {
            return Ok(());
        }
        self.collectives.fork()?;
        complete.into_iter().try_for_each(|bucket| {
            let part_len = self.shards.part_len(bucket);
            self.collectives.reduce_scatter(gradients.add(bucket.range.start), part_len)
        })
    }

    /// Begins to give all ranks the part of bucket `bucket_idx` that each has of `whole`.
    pub(super) fn gather(&self, whole: DeviceTensor, bucket_idx: usize) -> Result<(), BoardError> {
        let bucket = &self.shards.buckets[bucket_idx];
        let n_bytes = self.shards.part_len(bucket) * whole.elem().bytes();
        self.collectives.fork()?;
        self.collectives.all_gather(whole.add(bucket.range.start).bytes(), n_bytes)
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
        for Shard { range, start } in self.shards.own() {
            let (to, from) = (whole.add(range.start), own.add(start));
            board.copy(to.bytes(), from.bytes(), range.len() * own.elem().bytes())?;
        }
        (0..self.shards.buckets.len()).try_for_each(|bucket_idx| self.gather(whole, bucket_idx))?;
        self.join()
    }
}
