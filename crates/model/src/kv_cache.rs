//! What a model keeps between the tokens of one text that it continues.

use candle_core::{DType, Device, Result, Tensor};

/// One text in the making: the tokens in view, and the keys and values of those already seen.
///
/// A model of `context` c sees at most c tokens. Positions are counted from the first token in view, so when one
/// more would not fit, the window slides: the last three quarters of the context stay, and their keys and values
/// are computed anew at their new positions. So a sliding window costs some four tokens' work for each token
/// instead of c, and a prediction always looks back on three quarters of the context or more.
#[derive(Debug, Default)]
pub struct KvCache {
    window: Vec<u32>,
    n_cached: usize,
    layers: Vec<KeyValue>,
}

/// Keys and values of one layer, with room for a whole context.
#[derive(Debug)]
struct KeyValue {
    k_bhtd: Tensor,
    v_bhtd: Tensor,
}

/// The form of a model's keys and values.
#[derive(Clone, Debug)]
pub struct KvShape {
    /// Layers that have keys and values.
    pub n_layers: usize,
    /// Heads that have their own.
    pub n_heads: usize,
    /// Positions to make room for.
    pub context: usize,
    /// Width of a head.
    pub head_width: usize,
}

impl KvCache {
    /// A cache that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tokens in view, oldest first.
    pub fn window(&self) -> &[u32] {
        &self.window
    }

    /// How many tokens of the window, from its start, have their keys and values in the cache.
    pub fn n_cached(&self) -> usize {
        self.n_cached
    }

    /// Brings `tokens` into view. With more in view than `context`, the window slides, and nothing of it is
    /// cached then.
    pub fn push(&mut self, tokens: &[u32], context: usize) {
        self.window.extend_from_slice(tokens);
        if self.window.len() > context {
            let n_kept = (context * 3 / 4).max(tokens.len()).clamp(1, context);
            self.window.drain(..self.window.len() - n_kept);
            self.n_cached = 0;
        }
    }

    /// Brings `tokens` into view, as [`KvCache::push`] does, with room for their keys and values in layers of this
    /// `shape`; returns the tokens in view whose keys and values are not cached.
    ///
    /// # Shapes
    /// → (1, t).
    ///
    /// # Errors
    /// If there is no memory for them on the `device`.
    pub fn extend(
        &mut self,
        tokens: &[u32],
        shape: &KvShape,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        self.push(tokens, shape.context);
        self.reserve(shape, dtype, device)?;
        Tensor::new(&self.window[self.n_cached..], device)?.unsqueeze(0)
    }

    /// Makes room for keys and values, unless there is.
    fn reserve(&mut self, shape: &KvShape, dtype: DType, device: &Device) -> Result<()> {
        if !self.layers.is_empty() {
            return Ok(());
        }
        let room = || Tensor::zeros((1, shape.n_heads, shape.context, shape.head_width), dtype, device);
        self.layers = (0..shape.n_layers)
            .map(|_| Ok(KeyValue { k_bhtd: room()?, v_bhtd: room()? }))
            .collect::<Result<_>>()?;
        Ok(())
    }

    /// Stores the keys and values of the tokens from [`KvCache::n_cached`] on in layer `layer_idx`, and returns
    /// those of all tokens up to them.
    ///
    /// # Shapes
    /// `k`, `v` (1, h, t, d) → twice (1, h, n_cached + t, d).
    pub fn store(&mut self, layer_idx: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let layer = &self.layers[layer_idx];
        let t_all = self.n_cached + k.dim(2)?;
        layer.k_bhtd.slice_set(&k.contiguous()?, 2, self.n_cached)?;
        layer.v_bhtd.slice_set(&v.contiguous()?, 2, self.n_cached)?;
        Ok((layer.k_bhtd.narrow(2, 0, t_all)?, layer.v_bhtd.narrow(2, 0, t_all)?))
    }

    /// Says that every layer has stored the keys and values of the whole window.
    pub fn commit(&mut self) {
        self.n_cached = self.window.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_window_keeps_its_last_three_quarters_and_forgets_what_was_cached() {
        let mut cache = KvCache::new();
        cache.push(&[0, 1, 2, 3, 4, 5, 6, 7], 8);
        cache.commit();
        assert_eq!(cache.n_cached(), 8);
        cache.push(&[8], 8);
        assert_eq!((cache.window(), cache.n_cached()), ([3, 4, 5, 6, 7, 8].as_slice(), 0));
        cache.commit();
        cache.push(&[9, 10], 8);
        assert_eq!((cache.window().len(), cache.n_cached()), (8, 6));
    }

    #[test]
    fn a_long_prompt_fills_the_whole_window_and_a_context_of_one_holds_one() {
        let mut cache = KvCache::new();
        cache.push(&(0..20).collect::<Vec<_>>(), 8);
        assert_eq!(cache.window(), (12..20).collect::<Vec<_>>());
        let mut cache = KvCache::new();
        for token in 0..3 {
            cache.push(&[token], 1);
            assert_eq!(cache.window(), [token]);
            cache.commit();
        }
    }
}
