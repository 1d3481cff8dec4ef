//! Tokens that go through a model beside those that are learnt.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Tells of a run's steps how many of their tokens are padding.
type PaddingOf = Arc<dyn Fn(Range<u64>) -> u64 + Send + Sync>;

/// What goes through the model in the steps of a run in which not all of it is learnt.
#[derive(Clone)]
pub struct TokensBeside {
    /// Tokens of a step, of all kinds.
    pub tokens_per_step: u64,
    /// Whether some tokens of texts are not learnt.
    pub is_masked: bool,
    /// Padding tokens in a range of steps, counted from 0; `None` if no step has any.
    pub padding: Option<PaddingOf>,
}

impl fmt::Debug for TokensBeside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens_per_step, is_masked, padding } = self;
        f.debug_struct("TokensBeside")
            .field("tokens_per_step", tokens_per_step)
            .field("is_masked", is_masked)
            .field("has_padding", &padding.is_some())
            .finish()
    }
}
