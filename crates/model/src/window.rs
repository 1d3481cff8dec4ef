//! The tokens that a model sees of a text that it continues.

/// The tokens in view, oldest first, and how many of them have their keys and values in a cache.
///
/// A model of context c sees at most c tokens. Positions are counted from the first token in view, so when one
/// more would not fit, the window slides: the last three quarters of the context stay, and their keys and values
/// are computed anew at their new positions. So a sliding window costs some four tokens' work for each token
/// instead of c, and a prediction always looks back on three quarters of the context or more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    tokens: Vec<u32>,
    n_cached: usize,
}

impl Window {
    /// The tokens in view.
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many tokens, from the window's start, are cached.
    pub(crate) fn n_cached(&self) -> usize {
        self.n_cached
    }

    /// The first `n` tokens are cached.
    pub(crate) fn set_cached(&mut self, n: usize) {
        self.n_cached = n;
    }

    /// Takes out of view what follows the first `n` tokens.
    pub(crate) fn rewind(&mut self, n: usize) {
        self.tokens.truncate(n);
        self.n_cached = self.n_cached.min(n);
    }

    /// Brings `tokens` into view. With more in view than `context`, the window slides, and nothing of it is cached then.
    pub(crate) fn push(&mut self, tokens: &[u32], context: usize) {
        self.tokens.extend_from_slice(tokens);
        if self.tokens.len() > context {
            let n_kept = (context * 3 / 4).max(tokens.len()).clamp(1, context);
            self.tokens.drain(..self.tokens.len() - n_kept);
            self.n_cached = 0;
        }
    }
}
