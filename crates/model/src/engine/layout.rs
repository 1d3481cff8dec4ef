//! Where each parameter lies in a flat buffer.

use std::ops::Range;

use wattle_ops::adamw::cpu::ParameterRange;
use wattle_ops::adamw::decays;

use super::ranges::Ranges;
use crate::moments::{MatrixUpdate, block_of};
use crate::parameter::Parameter;

/// On a board, every parameter starts at a multiple of this: whole 16-byte accesses in either type, and what matrix
/// products like best.
pub(super) const BOARD_ALIGNMENT: usize = 64;
/// On a board, the number of rows of a table of the vocabulary is a multiple of this.
const BOARD_VOCABULARY_MULTIPLE: usize = 64;
/// The most buckets of blocks: each costs a message between ranks, and the last one's cannot be hidden behind the backward
/// pass.
const MAX_BUCKETS: usize = 8;

/// The place of every parameter.
///
/// Those that weight decay pulls at (two dimensions or more) come first, then the others, each part in the
/// model's order. So an update is two runs through memory, the vectors of a block are neighbours, and so are the matrices
/// of all blocks.
///
/// On a board, tables of the vocabulary have rows added, and there are gaps between parameters. Those elements are
/// zero and stay zero: they get no gradient, and AdamW leaves a zero without a gradient unchanged. Outside a board,
/// parameters have their own shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    entries: Vec<Entry>,
    n_decaying: usize,
    len: usize,
    buckets: Vec<Bucket>,
    matrices: MatrixUpdate,
    mean_squares: MeanSquares,
}

/// Where the second moments of a flat buffer's elements lie in a buffer of their own: in the same order, but for
/// neighbours that have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MeanSquares {
    skipped: Range<usize>,
}

/// Neighbouring parameters whose gradients ranks sum together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Their elements, gaps included: a multiple of the number of ranks that parameters were placed for.
    pub(crate) range: Range<usize>,
    /// The lowest block with matrices in it, after whose backward pass their gradients are complete; `None` for tables and
    /// vectors, which are complete at the end.
    pub(crate) first_block: Option<usize>,
}

/// One parameter's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub dims: Vec<usize>,
    /// Where its elements lie; added rows follow.
    pub range: Range<usize>,
}

/// How parameters are placed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    alignment: usize,
    vocabulary_multiple: usize,
    /// Names of the tables with a row for each token.
    vocabulary: &'static [&'static str],
    /// Ends of the names of parameters that start where the one before ends, whatever the alignment, so that both
    /// are one matrix or one vector.
    continued: &'static [&'static str],
    /// Ranks that each update a part of every bucket.
    world: usize,
}

impl Placement {
    /// One parameter after the other, without gaps.
    pub(crate) const FLAT: Self =
        Self { alignment: 1, vocabulary_multiple: 1, vocabulary: &[], continued: &[], world: 1 };

    /// Aligned and padded for a board.
    pub(crate) fn board(vocabulary: &'static [&'static str], continued: &'static [&'static str]) -> Self {
        Self {
            alignment: BOARD_ALIGNMENT,
            vocabulary_multiple: BOARD_VOCABULARY_MULTIPLE,
            vocabulary,
            continued,
            world: 1,
        }
    }

    /// The same for `world` ranks: every bucket starts at a multiple of the alignment times their number.
    pub(crate) fn over(self, world: usize) -> Self {
        Self { world, ..self }
    }

    /// What buckets start at a multiple of.
    fn bucket_alignment(&self) -> usize {
        self.alignment * self.world
    }

    /// Where a parameter starts, behind one that ends at `end`.
    fn start(&self, name: &str, end: usize) -> usize {
        let is_continued = self.continued.iter().any(|suffix| name.ends_with(suffix));
        if is_continued { end } else { end.next_multiple_of(self.alignment) }
    }

    /// Elements of a parameter with the rows that are added.
    fn len(&self, name: &str, dims: &[usize]) -> usize {
        let row: usize = dims[1..].iter().product();
        let n_rows = match self.vocabulary.contains(&name) {
            true => dims[0].next_multiple_of(self.vocabulary_multiple),
            false => dims[0],
        };
        n_rows * row
    }
}

impl Layout {
    /// The places of `parameters`, one after the other without gaps.
    pub fn new(parameters: &[Parameter]) -> Self {
        Self::of_parameters(parameters, &Placement::FLAT)
    }

    /// The places of `parameters`.
    pub(crate) fn of_parameters(parameters: &[Parameter], placement: &Placement) -> Self {
        let shape = |parameter: &Parameter| (parameter.name.clone(), parameter.var.dims().to_vec());
        Self::of_shapes(parameters.iter().map(shape).collect(), placement)
    }

    /// The places of parameters with these names and shapes.
    pub(crate) fn of_shapes(shapes: Vec<(String, Vec<usize>)>, placement: &Placement) -> Self {
        let place = |(name, dims): (String, Vec<usize>)| Entry { name, dims, range: 0..0 };
        let mut entries: Vec<Entry> = shapes.into_iter().map(place).collect();
        let n_blocks =
            entries.iter().filter_map(|entry| block_of(&entry.name)).max().map_or(0, |max| max + 1);
        let blocks_per_bucket = n_blocks.div_ceil(MAX_BUCKETS).max(1);
        let (mut end, mut n_decaying) = (0_usize, 0);
        let mut buckets: Vec<Bucket> = Vec::new();
        for part_decays in [true, false] {
            let mut open = None;
            for entry in entries.iter_mut().filter(|entry| decays(&entry.dims) == part_decays) {
                let block = block_of(&entry.name).filter(|_| part_decays);
                let bucket = block.map(|block| block / blocks_per_bucket);
                if open.replace(bucket) != Some(bucket) {
                    end = end.next_multiple_of(placement.bucket_alignment());
                    buckets.push(Bucket { range: end..end, first_block: block });
                }
                let start = placement.start(&entry.name, end);
                entry.range = start..start + entry.dims.iter().product::<usize>();
                end = start + placement.len(&entry.name, &entry.dims);
            }
            end = end.next_multiple_of(placement.bucket_alignment());
            if part_decays {
                n_decaying = end;
            }
        }
        let ends: Vec<usize> = buckets.iter().skip(1).map(|next| next.range.start).chain([end]).collect();
        buckets.iter_mut().zip(ends).for_each(|(bucket, end)| bucket.range.end = end);
        let (matrices, mean_squares) = (MatrixUpdate::AdamW, MeanSquares { skipped: end..end });
        Self { entries, n_decaying, len: end, buckets, matrices, mean_squares }
    }

    /// The same places, where matrices of blocks are updated like this.
    ///
    /// # Panics
    /// If a parameter of another kind lies between the matrices of blocks.
    pub(crate) fn updated_by(mut self, matrices: MatrixUpdate) -> Self {
        self.matrices = matrices;
        let of_muon = |entry: &&Entry| matrices.orthogonalizes(&entry.name, &entry.dims);
        let start = self.entries.iter().find(of_muon).map_or(self.len, |entry| entry.range.start);
        let last = self.entries.iter().rfind(of_muon).map_or(self.len, |entry| entry.range.end);
        let behind = self.entries.iter().map(|entry| entry.range.start).filter(|&start| start >= last).min();
        let end = behind.unwrap_or(self.len);
        let between = |entry: &&Entry| (start..end).contains(&entry.range.start);
        assert!(
            self.entries.iter().filter(between).all(|entry| of_muon(&entry)),
            "matrices of blocks are neighbours"
        );
        self.mean_squares = MeanSquares { skipped: start..end };
        self
    }

    /// How matrices of blocks are updated.
    pub fn matrices(&self) -> MatrixUpdate {
        self.matrices
    }

    /// The parameters that Muon updates.
    pub(super) fn orthogonalized(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| self.matrices.orthogonalizes(&entry.name, &entry.dims))
    }

    /// Where second moments lie.
    pub(super) fn mean_squares(&self) -> &MeanSquares {
        &self.mean_squares
    }

    /// Elements before a parameter that have no such moment, 0 or 1: its own lies so much nearer to the buffer's start.
    pub(super) fn n_missing_before(&self, which: usize, entry: &Entry) -> usize {
        let start = entry.range.start;
        if which == 0 { 0 } else { start - self.mean_squares.range(&(start..start)).start }
    }

    /// Numbers of all moments together, gaps included.
    pub(crate) fn n_moments(&self) -> usize {
        self.len + self.mean_squares.range(&(0..self.len)).len()
    }

    /// Numbers of the moments of the elements in `ranges`.
    pub(crate) fn n_moments_of(&self, ranges: &Ranges) -> usize {
        let n_squares: usize = ranges.iter().map(|range| self.mean_squares.range(range).len()).sum();
        ranges.len() + n_squares
    }

    /// All parameters, in the model's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Names and shapes of all parameters, in the model's order.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.entries.iter().map(|entry| (entry.name.as_str(), entry.dims.as_slice()))
    }

    /// Where the parameter `name` lies, if there is one.
    pub fn find(&self, name: &str) -> Option<Range<usize>> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.range.clone())
    }

    /// Elements that weight decay pulls at, gaps included; they come first.
    pub(crate) fn n_decaying(&self) -> usize {
        self.n_decaying
    }

    /// All elements in buckets: those of tables, then blocks from the first on, then vectors.
    pub(crate) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Numbers of all parameters together, gaps included.
    #[expect(clippy::len_without_is_empty, reason = "every model has parameters")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What decays, and what does not.
    pub fn ranges(&self) -> [ParameterRange; 2] {
        [
            ParameterRange { range: 0..self.n_decaying, decays: true },
            ParameterRange { range: self.n_decaying..self.len, decays: false },
        ]
    }
}

impl Entry {
    /// Rows and columns.
    ///
    /// # Panics
    /// If it has not two dimensions.
    pub(super) fn matrix(&self) -> [usize; 2] {
        self.dims.as_slice().try_into().expect("a matrix has two dimensions")
    }
}

impl MeanSquares {
    /// Where those of the elements in `range` lie; empty if they have none.
    pub(super) fn range(&self, range: &Range<usize>) -> Range<usize> {
        let Range { start, end } = self.skipped;
        let place = |element: usize| element.min(start) + element.saturating_sub(end);
        place(range.start)..place(range.end)
    }

    /// The parts of `range` that have second moments; one that is empty lies within `range` too.
    pub(super) fn parts(&self, range: &Range<usize>) -> [Range<usize>; 2] {
        let Range { start, end } = self.skipped;
        [within(&(0..start), range), within(&(end..usize::MAX), range)]
    }
}

/// The part of `range` that lies in `part`; empty, and at one of its ends, where they have nothing in common.
pub(super) fn within(range: &Range<usize>, part: &Range<usize>) -> Range<usize> {
    range.start.clamp(part.start, part.end)..range.end.clamp(part.start, part.end)
}

/// Rows on a board of a table with a row for each of `n` tokens.
pub(crate) fn padded_vocabulary(n: usize) -> usize {
    n.next_multiple_of(BOARD_VOCABULARY_MULTIPLE)
}

#[cfg(test)]
mod tests {
    use wattle_ops::muon::Hyperparameters;

    use super::*;

    fn layout(shapes: &[(&str, &[usize])], placement: &Placement) -> Layout {
        let shapes = shapes.iter().map(|(name, dims)| ((*name).to_owned(), dims.to_vec()));
        Layout::of_shapes(shapes.collect(), placement)
    }

    fn ranges(layout: &Layout) -> Vec<Range<usize>> {
        layout.entries().iter().map(|entry| entry.range.clone()).collect()
    }

    #[test]
    fn matrices_come_first_and_all_have_a_place_of_their_own() {
        let shapes: [(&str, &[usize]); 4] = [("a", &[2, 3]), ("b", &[3]), ("c", &[3, 1, 2]), ("d", &[5])];
        let layout = layout(&shapes, &Placement::FLAT);
        assert_eq!(ranges(&layout), [0..6, 12..15, 6..12, 15..20]);
        assert_eq!((layout.len(), layout.find("d"), layout.find("e")), (20, Some(15..20), None));
        assert_eq!(layout.ranges().map(|r| (r.range, r.decays)), [(0..12, true), (12..20, false)]);
    }

    #[test]
    fn matrices_of_blocks_have_no_second_moment_under_muon() {
        let shapes: [(&str, &[usize]); 5] =
            [("table", &[5, 2]), ("h.0.w", &[3, 3]), ("h.0.b", &[3]), ("h.1.w", &[3, 3]), ("head", &[5, 2])];
        let hyperparameters = Hyperparameters { momentum: 0.95, nesterov: true, ns_steps: 5 };
        for (placement, matrices, len) in
            [(Placement::FLAT, 10..28, 41), (Placement::board(&["table"], &[]), 128..256, 320 + 64)]
        {
            let adamw = layout(&shapes, &placement);
            assert_eq!(adamw.len(), len);
            assert_eq!(adamw.n_moments(), 2 * len);
            assert_eq!(adamw.mean_squares().range(&(3..len)), 3..len);
            assert_eq!(adamw.mean_squares().parts(&(3..len)), [3..len, len..len]);
            let muon = adamw.clone().updated_by(MatrixUpdate::Muon(hyperparameters));
            assert_eq!(muon.entries(), adamw.entries());
            assert_eq!(muon.n_moments(), 2 * len - matrices.len());
            let names = muon.orthogonalized().map(|entry| entry.name.as_str());
            assert_eq!(names.collect::<Vec<_>>(), ["h.0.w", "h.1.w"]);
            let squares = |name: &str| muon.mean_squares().range(&muon.find(name).unwrap());
            assert_eq!((squares("table").start, squares("head").start), (0, matrices.start));
            assert!(squares("h.0.w").is_empty() && squares("h.1.w").is_empty());
            assert_eq!(muon.mean_squares().parts(&(0..len)), [0..matrices.start, matrices.end..len]);
            // As the parts of ranks: a rank has none of the moments beyond its own.
            assert_eq!(adamw.mean_squares().parts(&(3..9)), [3..9, 9..9]);
            assert_eq!(muon.mean_squares().parts(&(3..9)), [3..9, 9..9]);
            let (end, after) = (matrices.end, matrices.end + 1);
            assert_eq!(muon.mean_squares().parts(&(after..len)), [after..after, after..len]);
            assert_eq!(muon.mean_squares().parts(&matrices), [matrices.start..matrices.start, end..end]);
        }
    }

    #[test]
    fn on_a_board_parameters_are_aligned_and_tables_are_padded() {
        let shapes: [(&str, &[usize]); 4] =
            [("table", &[65, 2]), ("norm", &[3]), ("q", &[5, 3]), ("k", &[2, 3])];
        let layout = layout(&shapes, &Placement::board(&["table"], &["k"]));
        assert_eq!(ranges(&layout), [0..130, 320..323, 256..271, 271..277]);
        assert_eq!((layout.n_decaying(), layout.len()), (320, 384));
        assert_eq!((layout.find("k"), layout.find("v")), (Some(271..277), None));
    }

    #[test]
    fn buckets_are_whole_blocks_that_ranks_can_share_evenly() {
        let names: Vec<String> = (0..20).map(|block| format!("h.{block}.w")).collect();
        let mut shapes: Vec<(&str, &[usize])> = vec![("table", &[5, 3])];
        shapes.extend(names.iter().map(|name| (name.as_str(), [7, 11].as_slice())));
        shapes.extend([("h.0.bias", [7].as_slice()), ("norm", &[3]), ("head", &[5, 3])]);
        let layout = layout(&shapes, &Placement::board(&["table", "head"], &[]).over(3));
        let first_blocks: Vec<_> = layout.buckets().iter().map(|bucket| bucket.first_block).collect();
        let of_blocks = (0..7).map(|bucket| Some(bucket * 3));
        assert_eq!(first_blocks, [None].into_iter().chain(of_blocks).chain([None, None]).collect::<Vec<_>>());
        let mut end = 0;
        for Bucket { range, .. } in layout.buckets() {
            assert_eq!((range.start, range.len() % (3 * BOARD_ALIGNMENT)), (end, 0));
            end = range.end;
        }
        assert_eq!(end, layout.len());
        let bucket_of = |name| {
            let start = layout.find(name).unwrap().start;
            layout.buckets().iter().position(|bucket| bucket.range.contains(&start)).unwrap()
        };
        assert_eq!(
            ["table", "h.2.w", "h.3.w", "head", "h.0.bias", "norm"].map(bucket_of),
            [0, 1, 2, 8, 9, 9]
        );
        let buckets = layout.buckets().iter();
        assert!(buckets.map(|bucket| bucket.range.start).any(|start| start == layout.n_decaying()));
    }
}
