//! A random order of `0..n` by index, without a table.

use crate::philox::philox4x32;
use crate::stream::{Purpose, Stream};

const ROUNDS: u32 = 6;

/// A permutation of `0..len`, a pure function of a seed and an epoch, in constant memory.
///
/// A balanced Feistel network over the smallest even number of bits that holds `len`, with Philox as the round
/// function; results outside the range are sent through again (cycle walking), at most about four times.
///
/// # References
/// Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, CT-RSA 2002, section 3 (cycle walking) and
/// section 4 (Feistel).
#[derive(Clone, Debug)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    key: [u32; 2],
}

impl Permutation {
    /// The order of `0..len` for `epoch` under `seed`.
    pub fn new(seed: u64, epoch: u64, len: u64) -> Self {
        let stream = Stream::new(seed, Purpose::Order, epoch);
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), key: [stream.word(0), stream.word(1)] }
    }

    /// Number of elements.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to order.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at position `index`.
    ///
    /// # Panics
    /// If `index` is not below the length.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "position {index} of a permutation of {}", self.len);
        let mut value = self.feistel(index);
        while value >= self.len {
            value = self.feistel(value);
        }
        value
    }

    fn feistel(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            let mixed = philox4x32([right as u32, (right >> 32) as u32, round, 0], self.key);
            (left, right) = (right, left ^ (u64::from(mixed[0]) & mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_comes_once() {
        for len in [1, 2, 3, 7, 64, 65, 1000, 4097] {
            let order = Permutation::new(3, 5, len);
            let mut seen = vec![false; len as usize];
            (0..len).for_each(|i| seen[order.at(i) as usize] = true);
            assert!(seen.into_iter().all(|s| s), "length {len}");
        }
    }

    #[test]
    fn epochs_and_seeds_differ_and_repeat() {
        let order = |seed, epoch| {
            let order = Permutation::new(seed, epoch, 1000);
            (0..1000).map(|i| order.at(i)).collect::<Vec<_>>()
        };
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    #[test]
    fn neighbours_are_not_kept_together() {
        // In a uniform permutation of n the expected number of i with |p(i+1) - p(i)| = 1 is 2(n-1)/n, about 2;
        // 12 or more has a probability below 1e-6 (Poisson).
        let order = Permutation::new(9, 0, 10_000);
        let together = (0..9_999).filter(|&i| order.at(i + 1).abs_diff(order.at(i)) == 1).count();
        assert!(together < 12, "{together} neighbours stayed together");
    }
}
