//! Which part of the flat buffers each of several processes keeps.
//!
//! Every process has all weights, and gradients of its own sequences; of the moments it has those of its part alone.

use std::ops::Range;

use wattle_ops::grad_norm::cpu::block_len;

use super::layout::{Layout, within};
use super::owners::owned;
use super::ranges::Ranges;

/// One of the processes that train a model together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which one, from 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
}

impl Default for Share {
    /// One process that has all.
    fn default() -> Self {
        Self { rank: 0, world: 1 }
    }
}

/// A flat buffer cut into one part a rank.
///
/// What AdamW updates is cut by the blocks over which squares are summed for the norm of the gradients, into neighbouring
/// blocks for each rank. A matrix that Muon updates belongs to one rank whole. Squares of a block are summed by the rank that
/// has its first element, which is lent those that others have: so the norm has the same bits for any number of ranks.
///
/// # References
/// Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, section 5.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    len: usize,
    share: Share,
    parts: Vec<Part>,
}

/// The part of a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// What it updates: whole matrices of Muon's, and whole blocks of the rest. Empty where there are more ranks than either.
    pub updated: Ranges,
    /// The blocks whose squares it sums, in their order.
    pub blocks: Vec<usize>,
    /// The elements of those.
    pub in_blocks: Ranges,
}

/// Neighbouring elements that one rank updates.
struct Piece {
    range: Range<usize>,
    owner: usize,
}

impl Split {
    /// The parts of a buffer of `len` elements, all of which AdamW updates.
    pub fn new(len: usize, share: Share) -> Self {
        let pieces = pieces_of_rest(len, &[0..len], share.world);
        Self::of_pieces(len, share, pieces)
    }

    /// The parts of a buffer with the places of `layout`, which has no gaps.
    pub(crate) fn of_layout(layout: &Layout, share: Share) -> Self {
        let len = layout.len();
        let of_muon = owned(layout, share.world);
        let of_muon = of_muon.map(|(entry, owner)| Piece { range: entry.range.clone(), owner });
        let mut pieces = pieces_of_rest(len, &layout.mean_squares().parts(&(0..len)), share.world);
        pieces.extend(of_muon);
        Self::of_pieces(len, share, pieces)
    }

    fn of_pieces(len: usize, share: Share, mut pieces: Vec<Piece>) -> Self {
        pieces.sort_by_key(|piece| piece.range.start);
        let (block_len, n_blocks) = (block_len(len), len.div_ceil(block_len(len)));
        let summer = |block: usize| {
            let after = pieces.partition_point(|piece| piece.range.start <= block.saturating_mul(block_len));
            pieces[after - 1].owner
        };
        let summers: Vec<usize> = (0..n_blocks).map(summer).collect();
        let part = |rank: usize| {
            let own = pieces.iter().filter(|piece| piece.owner == rank).map(|piece| piece.range.clone());
            let blocks: Vec<usize> = (0..n_blocks).filter(|&block| summers[block] == rank).collect();
            let in_blocks = Ranges::of(blocks.iter().map(|&block| block_range(len, block)));
            Part { updated: Ranges::of(own), blocks, in_blocks }
        };
        Self { len, share, parts: (0..share.world).map(part).collect() }
    }

    /// Ranks.
    pub fn world(&self) -> usize {
        self.share.world
    }

    /// This process's part.
    pub fn own(&self) -> &Part {
        self.part(self.share.rank)
    }

    /// The part of `rank`.
    pub fn part(&self, rank: usize) -> &Part {
        &self.parts[rank]
    }

    /// The parts of all ranks, in their order.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What the rank `from` updates in blocks whose squares another, `to`, sums.
    pub fn lent(&self, from: usize, to: usize) -> Ranges {
        match from == to {
            true => Ranges::default(),
            false => self.part(from).updated.shared_with(&self.part(to).in_blocks),
        }
    }

    /// The largest number of elements that a rank updates.
    pub fn longest(&self) -> usize {
        self.parts.iter().map(|part| part.updated.len()).max().unwrap_or(0)
    }

    /// Elements of a block; the buffer's last may have fewer.
    pub fn block_len(&self) -> usize {
        block_len(self.len)
    }

    /// Number of blocks.
    pub fn n_blocks(&self) -> usize {
        self.len.div_ceil(self.block_len())
    }
}

/// What lies in `rest` of a buffer of `len` elements, cut at the bounds of blocks, as many pieces for each of `world` ranks.
fn pieces_of_rest(len: usize, rest: &[Range<usize>], world: usize) -> Vec<Piece> {
    let n_blocks = len.div_ceil(block_len(len));
    let in_block = |block: usize| rest.iter().map(move |part| within(&block_range(len, block), part));
    let pieces: Vec<Range<usize>> =
        (0..n_blocks).flat_map(in_block).filter(|piece| !piece.is_empty()).collect();
    let start_of = |rank: usize| rank * pieces.len() / world;
    let of_rank = |rank: usize| {
        pieces[start_of(rank)..start_of(rank + 1)].iter().map(move |piece| (piece.clone(), rank))
    };
    (0..world).flat_map(of_rank).map(|(range, owner)| Piece { range, owner }).collect()
}

/// Elements of a block of a buffer of `len`.
fn block_range(len: usize, block: usize) -> Range<usize> {
    let start_of = |block: usize| block.saturating_mul(block_len(len)).min(len);
    start_of(block)..start_of(block + 1)
}

#[cfg(test)]
mod tests {
    use wattle_ops::muon::Hyperparameters;

    use super::*;
    use crate::engine::layout::Placement;
    use crate::moments::MatrixUpdate;

    #[test]
    fn parts_are_whole_blocks_and_cover_the_buffer() {
        for len in [1, 4_095, 4_096, 4_097, 100_000, 1 << 20, 3_000_001] {
            for world in [1, 2, 3, 4, 8, 64, 300] {
                let split = Split::new(len, Share { rank: 0, world });
                let mut end = 0;
                for (rank, part) in split.parts().iter().enumerate() {
                    assert!(part.updated.iter().count() <= 1, "{len} elements over {world} ranks");
                    for range in part.updated.iter() {
                        assert_eq!(range.start, end, "{len} elements over {world} ranks");
                        assert!(range.start.is_multiple_of(split.block_len()));
                        end = range.end;
                    }
                    assert_eq!(part.in_blocks, part.updated);
                    assert_eq!(part.blocks.len(), part.updated.len().div_ceil(split.block_len()));
                    assert!((0..world).all(|other| split.lent(rank, other).is_empty()));
                }
                assert_eq!(end, len);
            }
        }
    }

    #[test]
    fn parts_of_a_large_buffer_are_alike() {
        let split = Split::new(124_000_000, Share { rank: 3, world: 8 });
        assert_eq!(split.own().blocks, (96..128).collect::<Vec<_>>());
        assert_eq!(split.longest(), 32 * split.block_len());
    }

    /// Two tables, and blocks of two matrices and a vector.
    fn layout(n_blocks: usize) -> Layout {
        let mut shapes = vec![("table".to_owned(), vec![300, 64])];
        for block in 0..n_blocks {
            shapes.push((format!("h.{block}.a"), vec![64, 192]));
            shapes.push((format!("h.{block}.b"), vec![64, 51]));
            shapes.push((format!("h.{block}.bias"), vec![64]));
        }
        shapes.push(("head".to_owned(), vec![300, 64]));
        let hyperparameters = Hyperparameters { momentum: 0.95, nesterov: true, ns_steps: 5 };
        Layout::of_shapes(shapes, &Placement::FLAT).updated_by(MatrixUpdate::Muon(hyperparameters))
    }

    #[test]
    fn a_matrix_has_one_owner_and_every_element_one_rank() {
        for (n_blocks, world) in [(1, 1), (1, 4), (3, 2), (9, 4), (9, 8), (2, 300)] {
            let layout = layout(n_blocks);
            let split = Split::of_layout(&layout, Share { rank: 0, world });
            let what = format!("{n_blocks} blocks over {world} ranks");
            for entry in layout.orthogonalized() {
                let owners = split.parts().iter().filter(|part| part.updated.contains(&entry.range));
                assert_eq!(owners.count(), 1, "{what}: {}", entry.name);
            }
            let of = |ranges: fn(&Part) -> &Ranges| -> (usize, Ranges) {
                let all = split.parts().iter().map(ranges);
                let n = all.clone().map(Ranges::len).sum();
                (n, Ranges::of(all.flat_map(Ranges::iter).cloned()))
            };
            let whole = Ranges::of([0..layout.len()]);
            assert_eq!(of(|part| &part.updated), (layout.len(), whole.clone()), "{what}");
            assert_eq!(of(|part| &part.in_blocks), (layout.len(), whole), "{what}");
            let mut blocks: Vec<usize> = split.parts().iter().flat_map(|part| part.blocks.clone()).collect();
            blocks.sort_unstable();
            assert_eq!(blocks, (0..split.n_blocks()).collect::<Vec<_>>(), "{what}");
            for (rank, part) in split.parts().iter().enumerate() {
                let lent =
                    (0..world).flat_map(|from| split.lent(from, rank).iter().cloned().collect::<Vec<_>>());
                let own = part.updated.shared_with(&part.in_blocks);
                assert_eq!(Ranges::of(lent.chain(own.iter().cloned())), part.in_blocks, "{what}");
            }
        }
    }

    #[test]
    fn what_adamw_updates_is_shared_out_evenly_beside_matrices() {
        let layout = layout(9);
        let split = Split::of_layout(&layout, Share { rank: 0, world: 4 });
        let [before, after] = layout.mean_squares().parts(&(0..layout.len()));
        let rest = Ranges::of([before, after]);
        let lens: Vec<usize> =
            split.parts().iter().map(|part| part.updated.shared_with(&rest).len()).collect();
        assert!(lens.iter().all(|len| len.abs_diff(rest.len() / 4) <= split.block_len()), "{lens:?}");
    }
}
