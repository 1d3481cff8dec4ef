//! Sums of gradients whose shape does not depend on the number of ranks.
//!
//! A batch is cut into leaves. The gradients of each are summed from zero, and leaves are added in pairs, pairs in pairs
//! and so on. Where each of N ranks has a power of two of them, a rank's own sum is a node of the tree, and adding those
//! nodes in the same way completes it: the sum has the same bits whatever N.

use rayon::prelude::*;

/// Elements that one thread adds at once.
const BLOCK: usize = 1 << 14;

/// Adds buffers of gradients as they are made; at most one waits for each level of the tree.
#[derive(Default)]
pub(crate) struct LeafTree {
    waiting: Vec<Node>,
    spare: Vec<Vec<f32>>,
}

struct Node {
    level: u32,
    sum: Vec<f32>,
}

impl LeafTree {
    /// Buffers that wait at once while `n_leaves` are added.
    pub(crate) fn n_buffers(n_leaves: usize) -> u32 {
        n_leaves.max(1).next_power_of_two().ilog2()
    }

    /// Takes the next leaf's gradients, which are replaced by a buffer of any content for those of the leaf after it.
    pub(crate) fn push(&mut self, gradients: &mut Vec<f32>) {
        let level = self.join(gradients);
        let next = self.spare.pop().unwrap_or_else(|| vec![0.0; gradients.len()]);
        self.waiting.push(Node { level, sum: std::mem::replace(gradients, next) });
    }

    /// Adds all that were taken to the last leaf's gradients.
    pub(crate) fn finish(&mut self, gradients: &mut Vec<f32>) {
        self.join(gradients);
        // Of a number of leaves that is no power of two.
        while let Some(node) = self.waiting.pop() {
            self.add_before(node, gradients);
        }
    }

    /// Adds to `gradients` the sums that wait and have as many leaves; returns the level of the sum.
    fn join(&mut self, gradients: &mut Vec<f32>) -> u32 {
        let mut level = 0;
        while let Some(node) = self.waiting.pop_if(|node| node.level == level) {
            self.add_before(node, gradients);
            level += 1;
        }
        level
    }

    fn add_before(&mut self, Node { mut sum, .. }: Node, gradients: &mut Vec<f32>) {
        add(&mut sum, gradients);
        std::mem::swap(&mut sum, gradients);
        self.spare.push(sum);
    }
}

/// Adds `n` neighbouring pieces of `piece` elements, of each the first `len`, into the first: as a [`LeafTree`] adds `n`
/// leaves.
pub(crate) fn add_pieces(pieces: &mut [f32], piece: usize, len: usize) {
    let n = pieces.len() / piece;
    let mut stride = 1;
    while stride < n {
        for idx in (0..n - stride).step_by(2 * stride) {
            let (before, after) = pieces.split_at_mut((idx + stride) * piece);
            add(&mut before[idx * piece..][..len], &after[..len]);
        }
        stride *= 2;
    }
}

fn add(sum: &mut [f32], other: &[f32]) {
    let blocks = sum.par_chunks_mut(BLOCK).zip(other.par_chunks(BLOCK));
    blocks.for_each(|(sum, other)| sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other));
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_random::{Purpose, Stream};

    const LEN: usize = 1_003;

    /// Numbers of very different magnitudes, so that the order of their sum shows.
    fn leaf(idx: usize) -> Vec<f32> {
        let mut numbers = vec![0.0; LEN];
        Stream::new(idx as u64, Purpose::Init { parameter_idx: 0 }, 0).fill_normal(0, &mut numbers);
        let scaled =
            numbers.iter().enumerate().map(|(i, number)| number * 10f32.powi((i + idx) as i32 % 9 - 4));
        scaled.collect()
    }

    fn sum_of(leaves: impl ExactSizeIterator<Item = usize>) -> Vec<f32> {
        let (mut tree, n) = (LeafTree::default(), leaves.len());
        let mut gradients = Vec::new();
        for (made, idx) in leaves.enumerate() {
            gradients = leaf(idx);
            match made + 1 == n {
                true => tree.finish(&mut gradients),
                false => tree.push(&mut gradients),
            }
        }
        assert!(tree.waiting.is_empty());
        assert!(tree.spare.len() <= LeafTree::n_buffers(n) as usize);
        gradients
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn the_sum_over_ranks_is_that_of_one() {
        let whole = sum_of(0..16);
        let one_by_one = (1..16).fold(leaf(0), |mut sum, idx| {
            add(&mut sum, &leaf(idx));
            sum
        });
        assert_ne!(bits(&whole), bits(&one_by_one), "the order shows in these numbers");
        for n_ranks in [1, 2, 4, 8, 16] {
            let own = 16 / n_ranks;
            let mut pieces: Vec<f32> =
                (0..n_ranks).flat_map(|rank| sum_of(rank * own..(rank + 1) * own)).collect();
            add_pieces(&mut pieces, LEN, LEN);
            assert_eq!(bits(&pieces[..LEN]), bits(&whole), "{n_ranks} ranks");
        }
    }

    #[test]
    fn pieces_are_added_as_leaves_are_for_any_number() {
        for n in 1..=9 {
            let mut pieces: Vec<f32> = (0..n).flat_map(leaf).collect();
            add_pieces(&mut pieces, LEN, LEN - 3);
            assert_eq!(bits(&pieces[..LEN - 3]), bits(&sum_of(0..n)[..LEN - 3]), "{n} pieces");
        }
    }
}
