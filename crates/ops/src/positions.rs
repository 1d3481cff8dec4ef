//! Where rows stand in their documents.

/// The position of a row in its document; sequences have `t` rows.
///
/// `documents` (b·t), or absent where each sequence is one document: the row of its sequence at which each row's document
/// starts.
#[inline(always)]
pub(crate) fn position(row: usize, t: usize, documents: Option<&[u32]>) -> usize {
    row % t - documents.map_or(0, |documents| documents[row] as usize)
}
