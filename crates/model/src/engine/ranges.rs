//! Parts of a flat buffer.

use std::ops::Range;

/// Ranges of a flat buffer, in its order and apart. Their elements are counted through as those of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    ranges: Vec<Range<usize>>,
    len: usize,
}

impl Ranges {
    /// Everything that lies in one of `ranges`, which may overlap. Neighbours become one.
    pub(crate) fn of(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let is_continued = next.start <= last.end;
            if is_continued {
                last.end = last.end.max(next.end);
            }
            is_continued
        });
        let len = ranges.iter().map(Range::len).sum();
        Self { ranges, len }
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Range<usize>> {
        self.ranges.iter()
    }

    /// Elements of all together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether they hold no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all of `range` lies in one of them.
    pub(crate) fn contains(&self, range: &Range<usize>) -> bool {
        self.iter().any(|own| own.start <= range.start && range.end <= own.end)
    }

    /// What lies in both.
    pub(crate) fn shared_with(&self, other: &Self) -> Self {
        Self::of(self.iter().flat_map(|a| other.iter().map(|b| a.start.max(b.start)..a.end.min(b.end))))
    }

    /// Copies the elements that are number `chunk`, as far as there are so many, from `whole` to the start of `packed`.
    /// Returns how many.
    pub fn pack(&self, chunk: &Range<usize>, whole: &[f32], packed: &mut [f32]) -> usize {
        let mut end = 0;
        for range in self.chunk(chunk) {
            let start = end;
            end += range.len();
            packed[start..end].copy_from_slice(&whole[range]);
        }
        end
    }

    /// Puts what [`Ranges::pack`] packed to its places in `whole`.
    pub fn unpack(&self, chunk: &Range<usize>, packed: &[f32], whole: &mut [f32]) {
        let mut end = 0;
        for range in self.chunk(chunk) {
            let start = end;
            end += range.len();
            whole[range].copy_from_slice(&packed[start..end]);
        }
    }

    /// Where the elements lie that are number `chunk`, as far as there are so many.
    fn chunk(&self, chunk: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut n_before = 0;
        self.ranges.iter().filter_map(move |range| {
            let first = n_before;
            n_before += range.len();
            let place = |number: usize| range.start + number.saturating_sub(first).min(range.len());
            let part = place(chunk.start)..place(chunk.end);
            (!part.is_empty()).then_some(part)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_overlaps_become_one() {
        let ranges = Ranges::of([7..9, 0..3, 5..5, 3..4, 8..12]);
        assert_eq!(ranges.iter().cloned().collect::<Vec<_>>(), [0..4, 7..12]);
        assert_eq!((ranges.len(), ranges.is_empty(), Ranges::default().is_empty()), (9, false, true));
        assert!(ranges.contains(&(8..12)) && !ranges.contains(&(3..8)));
        assert_eq!(ranges.shared_with(&Ranges::of([2..8, 11..20])), Ranges::of([2..4, 7..8, 11..12]));
    }

    #[test]
    fn what_is_packed_in_chunks_comes_back_to_its_places() {
        let ranges = Ranges::of([1..4, 6..7, 10..15]);
        let whole: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let mut back = vec![-1.0; 16];
        for start in (0..12).step_by(2) {
            let (chunk, mut packed) = (start..start + 2, [0.0; 2]);
            let n = ranges.pack(&chunk, &whole, &mut packed);
            assert_eq!(n, ranges.len().saturating_sub(start).min(2));
            ranges.unpack(&chunk, &packed[..n], &mut back);
        }
        for (i, value) in back.iter().enumerate() {
            let is_there = ranges.contains(&(i..i + 1));
            assert_eq!(*value, if is_there { i as f32 } else { -1.0 });
        }
    }
}
