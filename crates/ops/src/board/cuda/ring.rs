//! Which part of a buffer that is used in turn is free.

use std::collections::VecDeque;
use std::ops::Range;

/// Where a region may begin.
const ALIGNMENT: usize = 64;

/// Regions of a buffer, taken at one end and given back at the other, in order.
#[derive(Debug)]
pub(super) struct Ring {
    capacity: usize,
    taken: VecDeque<Range<usize>>,
}

impl Ring {
    /// All `capacity` bytes free.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, taken: VecDeque::new() }
    }

    /// Takes `len` bytes side by side and says where they begin; nothing if there are not so many in one piece.
    pub(super) fn take(&mut self, len: usize) -> Option<usize> {
        let start = self.place(len)?;
        self.taken.push_back(start..start + len);
        Some(start)
    }

    /// Gives back what was taken first; false if nothing is taken.
    pub(super) fn give_back(&mut self) -> bool {
        self.taken.pop_front().is_some()
    }

    fn place(&self, len: usize) -> Option<usize> {
        let (Some(first), Some(last)) = (self.taken.front(), self.taken.back()) else {
            return (len <= self.capacity).then_some(0);
        };
        let after = last.end.next_multiple_of(ALIGNMENT);
        let is_wrapped = last.start < first.start;
        let limit = if is_wrapped { first.start } else { self.capacity };
        if after + len <= limit {
            return Some(after);
        }
        (!is_wrapped && len <= first.start).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wraps_round_and_is_full_when_it_meets_what_is_not_given_back() {
        let mut ring = Ring::new(256);
        assert_eq!(ring.take(100), Some(0));
        assert_eq!(ring.take(100), Some(128));
        assert_eq!(ring.take(64), None, "neither behind 228 nor before 0");
        assert!(ring.give_back());
        assert_eq!(ring.take(100), Some(0));
        assert_eq!(ring.take(1), None, "108..128 begins at no multiple of 64");
        assert!(ring.give_back() && ring.give_back() && !ring.give_back());
        assert_eq!(ring.take(256), Some(0));
        assert_eq!(Ring::new(256).take(257), None);
    }

    #[test]
    fn no_two_regions_that_are_taken_share_a_byte() {
        let mut ring = Ring::new(4096);
        let (mut state, mut n_waits) = (1_u64, 0);
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = 1 + (state >> 33) as usize % 1024;
            while ring.take(len).is_none() {
                assert!(ring.give_back(), "an empty ring has room for {len}");
                n_waits += 1;
            }
            let mut regions: Vec<_> = ring.taken.iter().cloned().collect();
            regions.sort_by_key(|region| region.start);
            assert!(regions.windows(2).all(|pair| pair[0].end <= pair[1].start), "{regions:?}");
            assert!(regions.iter().all(|region| region.end <= 4096), "{regions:?}");
        }
        assert!(n_waits > 1000, "the ring was full {n_waits} times");
    }
}
