//! The windows of a split in which something is learnt.
//!
//! Of conversations a long message of the user may fill a whole window. Such a window teaches nothing, and a batch of such
//! windows has no mean loss, so they are left out of training and of evaluation alike.

use std::sync::Arc;

use crate::error::DataError;
use crate::store::TokenStore;

/// The windows of a split, in order.
#[derive(Clone, Debug)]
pub(crate) enum Windows {
    /// All of them: so many.
    All(u64),
    /// Those with these numbers.
    Of(Arc<[u64]>),
}

impl Windows {
    /// Those of `context` + 1 tokens of `store`.
    ///
    /// # Errors
    /// If there is not one, or nothing is learnt in any.
    pub(crate) fn new(store: &TokenStore, context: usize) -> Result<Self, DataError> {
        let available = store.windows(context)?;
        if !store.has_mask() {
            return Ok(Self::All(available));
        }
        let mut mask = vec![false; context];
        let is_learnt = |&window_idx: &u64| {
            store.read_mask(window_idx * context as u64 + 1, &mut mask);
            mask.contains(&true)
        };
        let useful: Arc<[u64]> = (0..available).filter(is_learnt).collect();
        if useful.is_empty() {
            let source_name = store.source().to_owned();
            return Err(DataError::NothingLearnt { source_name, split: store.split() });
        }
        Ok(Self::Of(useful))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::All(n) => *n,
            Self::Of(windows) => windows.len() as u64,
        }
    }

    /// The number in the split of the `i`-th.
    pub(crate) fn at(&self, i: u64) -> u64 {
        match self {
            Self::All(_) => i,
            Self::Of(windows) => windows[i as usize],
        }
    }
}
