//! Which keys a row sees, as the kernels ask.

use std::ops::Range;

use crate::attention::Kind;

/// Which keys a row sees. Each implementation gets a kernel of its own, so causal attention does not slow down for the
/// other kinds.
pub(super) trait Seen: Copy {
    /// The keys of a row of a sequence, see [`Kind::keys`].
    fn keys(self, sequence: usize, row: usize) -> Range<usize>;

    /// The keys that at least one of `n` rows sees.
    #[inline(always)]
    fn keys_of_rows(self, sequence: usize, first: usize, n: usize) -> Range<usize> {
        self.keys(sequence, first).start..self.keys(sequence, first + n - 1).end
    }
}

/// Causal attention in sequences of one document: a row sees itself and all before it.
#[derive(Clone, Copy)]
pub(super) struct Prefix;

/// Any kind, with documents or without.
#[derive(Clone, Copy)]
pub(super) struct Ranges<'a> {
    pub(super) kind: Kind,
    pub(super) t: usize,
    /// Where the documents of all sequences start.
    pub(super) documents: Option<&'a [u32]>,
}

impl Seen for Prefix {
    #[inline(always)]
    fn keys(self, _: usize, row: usize) -> Range<usize> {
        0..row + 1
    }
}

impl Seen for Ranges<'_> {
    #[inline(always)]
    fn keys(self, sequence: usize, row: usize) -> Range<usize> {
        let documents = self.documents.map(|documents| &documents[sequence * self.t..][..self.t]);
        self.kind.keys(row, self.t, documents)
    }
}
