//! The windows of a split in which something is learnt.
//!
//! Of conversations a long message of the user may fill a whole window. Such a window teaches nothing, and a batch of such
//! windows has no mean loss, so they are left out of training and of evaluation alike. Where documents are kept apart,
//! windows are made of whole documents and of padding, see [`packing`](crate::packing).

use std::sync::Arc;

use crate::batch::Batch;
use crate::error::DataError;
use crate::packing::{Bins, Packed, Piece, Pieces};
use crate::store::TokenStore;

/// Tokens that are looked through for documents' ends at a time.
const SCANNED_AT_ONCE: usize = 1 << 16;

/// The windows of a split, in order.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    store: TokenStore,
    context: usize,
    cut: Cut,
}

#[derive(Clone, Debug)]
enum Cut {
    /// All of them: so many.
    All(u64),
    /// Those with these numbers.
    Of(Arc<[u64]>),
    /// Those that documents are packed into, and the token that ends one.
    Packed(Arc<Bins>, u32),
}

impl Windows {
    /// Those of `context` targets of `store`.
    ///
    /// # Errors
    /// If there is not one, nothing is learnt in any, or the split cannot be read.
    pub(crate) fn new(store: &TokenStore, context: usize) -> Result<Self, DataError> {
        let cut = match store.packed() {
            Some(packed) => Self::packed(store, packed, context)?,
            None => Self::plain(store, context)?,
        };
        Ok(Self { store: store.clone(), context, cut })
    }

    fn plain(store: &TokenStore, context: usize) -> Result<Cut, DataError> {
        let available = store.windows(context)?;
        if !store.has_mask() {
            return Ok(Cut::All(available));
        }
        let mut mask = vec![false; context];
        let is_learnt = |&window_idx: &u64| {
            store.read_mask(window_idx * context as u64 + 1, &mut mask);
            mask.contains(&true)
        };
        let useful: Arc<[u64]> = (0..available).filter(is_learnt).collect();
        if useful.is_empty() {
            return Err(nothing_learnt(store));
        }
        Ok(Cut::Of(useful))
    }

    fn packed(store: &TokenStore, packed: &Packed, context: usize) -> Result<Cut, DataError> {
        store.check_context(context)?;
        let bins = packed.bins(context, || pieces(store, packed, context))?;
        if bins.len() == 0 {
            return Err(nothing_learnt(store));
        }
        Ok(Cut::Packed(bins, packed.end))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        match &self.cut {
            Cut::All(n) => *n,
            Cut::Of(windows) => windows.len() as u64,
            Cut::Packed(bins, _) => bins.len(),
        }
    }

    /// Targets of the `i`-th that count.
    pub(crate) fn counted(&self, i: u64) -> u64 {
        match &self.cut {
            Cut::All(_) => self.context as u64,
            Cut::Of(windows) => self.learnt(windows[i as usize] * self.context as u64 + 1, self.context),
            Cut::Packed(bins, _) if self.store.has_mask() => {
                bins.pieces(i).map(|piece| self.learnt(piece.first_target, piece.len)).sum()
            }
            Cut::Packed(bins, _) => bins.filled(i),
        }
    }

    /// Rows of the `i`-th that are padding.
    pub(crate) fn padding(&self, i: u64) -> u64 {
        match &self.cut {
            Cut::Packed(bins, _) => self.context as u64 - bins.filled(i),
            _ => 0,
        }
    }

    /// Adds the `i`-th to a batch of windows like it.
    pub(crate) fn append(&self, i: u64, batch: &mut Batch) -> Result<(), DataError> {
        let first = match &self.cut {
            Cut::All(_) => i * self.context as u64,
            Cut::Of(windows) => windows[i as usize] * self.context as u64,
            Cut::Packed(bins, end) => return self.append_packed(bins.pieces(i), *end, batch),
        };
        let start = batch.inputs.len();
        batch.inputs.resize(start + self.context, 0);
        batch.targets.resize(start + self.context, 0);
        self.store.read(first, &mut batch.inputs[start..])?;
        self.store.read(first + 1, &mut batch.targets[start..])?;
        if self.store.has_mask() {
            self.append_weights(first + 1, self.context, batch);
        }
        Ok(())
    }

    fn append_packed(
        &self,
        pieces: impl Iterator<Item = Piece>,
        end: u32,
        batch: &mut Batch,
    ) -> Result<(), DataError> {
        let start = batch.inputs.len();
        for Piece { first_target, len } in pieces {
            let at = batch.inputs.len();
            batch.inputs.resize(at + len, end);
            batch.targets.resize(at + len, end);
            // Before the first document of a split stands what stands before every other.
            let (first_input, skipped) = match first_target.checked_sub(1) {
                Some(first_input) => (first_input, 0),
                None => (0, 1),
            };
            self.store.read(first_input, &mut batch.inputs[at + skipped..])?;
            self.store.read(first_target, &mut batch.targets[at..])?;
            self.append_weights(first_target, len, batch);
            batch.documents.get_or_insert_default().resize(at + len, (at - start) as u32);
        }
        let filled = batch.inputs.len() - start;
        batch.inputs.resize(start + self.context, end);
        batch.targets.resize(start + self.context, end);
        batch.weights.get_or_insert_default().resize(start + self.context, 0.0);
        // Each row of padding sees itself alone, which costs attention least.
        batch.documents.get_or_insert_default().extend((filled..self.context).map(|row| row as u32));
        Ok(())
    }

    fn append_weights(&self, first_target: u64, len: usize, batch: &mut Batch) {
        let mut mask = vec![false; len];
        self.store.read_mask(first_target, &mut mask);
        let weights = mask.iter().map(|&is_learnt| f32::from(u8::from(is_learnt)));
        batch.weights.get_or_insert_default().extend(weights);
    }

    fn learnt(&self, first_target: u64, len: usize) -> u64 {
        let mut mask = vec![false; len];
        self.store.read_mask(first_target, &mut mask);
        mask.iter().filter(|&&is_learnt| is_learnt).count() as u64
    }
}

/// The pieces of a split's documents, of those in which something is learnt.
///
/// Every token of a text is predicted, its first from the token that ends a document. A conversation begins with what its
/// template puts there, which nothing precedes when it is used.
fn pieces(store: &TokenStore, packed: &Packed, context: usize) -> Result<Pieces, DataError> {
    let (has_mask, mut mask) = (store.has_mask(), vec![false; context]);
    let mut is_learnt = |Piece { first_target, len }| {
        store.read_mask(first_target, &mut mask[..len]);
        mask[..len].contains(&true)
    };
    let (mut pieces, mut n_documents) = (Pieces::default(), 0);
    for_each_document(store, packed.end, &mut |start, end| {
        n_documents += 1;
        match has_mask {
            true => pieces.add(start + 1..end, context, &mut is_learnt),
            false => pieces.add(start..end, context, |_| true),
        }
    })?;
    match packed.n_documents {
        Some(expected) if expected != n_documents => Err(DataError::DocumentBounds {
            source_name: store.source().to_owned(),
            split: store.split(),
            expected,
            got: n_documents,
        }),
        _ => Ok(pieces),
    }
}

/// Tells of each document of a split where it starts and ends, the token that ends it counted in. Within conversations, that
/// token may also end what the assistant says; then it is learnt.
fn for_each_document(
    store: &TokenStore,
    end: u32,
    on_document: &mut dyn FnMut(u64, u64),
) -> Result<(), DataError> {
    let (mut ids, mut mask, mut start) = (vec![0; SCANNED_AT_ONCE], vec![false; SCANNED_AT_ONCE], 0);
    for at in (0..store.len()).step_by(SCANNED_AT_ONCE) {
        let ids = &mut ids[..(store.len() - at).min(SCANNED_AT_ONCE as u64) as usize];
        store.read(at, ids)?;
        if store.has_mask() {
            store.read_mask(at, &mut mask[..ids.len()]);
        }
        for (place, (id, is_learnt)) in (at + 1..).zip(ids.iter().zip(&mask)) {
            if *id == end && !is_learnt {
                on_document(start, place);
                start = place;
            }
        }
    }
    if start < store.len() {
        on_document(start, store.len());
    }
    Ok(())
}

fn nothing_learnt(store: &TokenStore) -> DataError {
    DataError::NothingLearnt { source_name: store.source().to_owned(), split: store.split() }
}
