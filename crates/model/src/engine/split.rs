//! Which part of the flat buffers each of several processes keeps.
//!
//! Every process has all weights, and gradients of its own sequences; of the moments it has those of its part alone.

use std::ops::Range;

use wattle_ops::grad_norm::cpu::block_len;

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

/// A flat buffer cut into one part a rank. Each part is whole blocks, over which squares are summed for the norm of the
/// gradients, so that the norm has the same bits for any number of ranks.
///
/// # References
/// Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter Models*, 2020, section 5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    len: usize,
    share: Share,
}

impl Split {
    /// The parts of a buffer of `len` elements.
    pub fn new(len: usize, share: Share) -> Self {
        Self { len, share }
    }

    /// Ranks.
    pub fn world(&self) -> usize {
        self.share.world
    }

    /// This process's part; empty where a small buffer has fewer blocks than there are ranks.
    pub fn own(&self) -> Range<usize> {
        self.part(self.share.rank)
    }

    /// The part of `rank`.
    pub fn part(&self, rank: usize) -> Range<usize> {
        let blocks = self.blocks(rank);
        let end_of = |block: usize| block.saturating_mul(self.block_len()).min(self.len);
        end_of(blocks.start)..end_of(blocks.end)
    }

    /// Blocks of the part of `rank`.
    pub fn blocks(&self, rank: usize) -> Range<usize> {
        let n_blocks = self.len.div_ceil(self.block_len());
        let start_of = |rank: usize| rank * n_blocks / self.share.world;
        start_of(rank)..start_of(rank + 1)
    }

    /// The largest number of elements of any part.
    pub fn longest(&self) -> usize {
        (0..self.share.world).map(|rank| self.part(rank).len()).max().unwrap_or(0)
    }

    /// Elements of a block; the buffer's last may have fewer.
    pub fn block_len(&self) -> usize {
        block_len(self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_blocks_and_cover_the_buffer() {
        for len in [1, 4_095, 4_096, 4_097, 100_000, 1 << 20, 3_000_001] {
            for world in [1, 2, 3, 4, 8, 64, 300] {
                let split = Split::new(len, Share { rank: 0, world });
                let mut end = 0;
                for rank in 0..world {
                    let part = split.part(rank);
                    assert_eq!(part.start, end, "{len} elements over {world} ranks");
                    assert!(part.is_empty() || part.start.is_multiple_of(split.block_len()));
                    assert_eq!(split.blocks(rank).len(), part.len().div_ceil(split.block_len()));
                    end = part.end;
                }
                assert_eq!(end, len);
            }
        }
    }

    #[test]
    fn parts_of_a_large_buffer_are_alike() {
        let split = Split::new(124_000_000, Share { rank: 3, world: 8 });
        assert_eq!(split.blocks(3), 96..128);
        assert_eq!(split.longest(), 32 * split.block_len());
    }
}
