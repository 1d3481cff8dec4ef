//! What a model keeps between the tokens of one text that it continues.

use candle_core::{DType, Device, Error, Result, Tensor};

use crate::window::Window;

/// One text in the making: the tokens in view, and the keys and values of those already seen.
#[derive(Debug, Default)]
pub struct KvCache {
    window: Window,
    /// Positions that every layer has room for: it grows with the text, up to the context.
    room: usize,
    layers: Vec<KeyValue>,
}

/// Keys and values of one layer, with room for as many positions as the cache says.
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
    /// Heads of queries.
    pub n_heads: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Most positions that there can be.
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
        self.window.tokens()
    }

    /// How many tokens of the window, from its start, have their keys and values in the cache.
    pub fn n_cached(&self) -> usize {
        self.window.n_cached()
    }

    /// Brings `tokens` into view. With more in view than `context`, the window slides to the last three quarters of the
    /// context, and nothing of it is cached then.
    pub fn push(&mut self, tokens: &[u32], context: usize) {
        self.window.push(tokens, context);
    }

    /// Takes out of view what follows the first `n` tokens of the window. Their keys and values stay.
    pub fn rewind(&mut self, n: usize) {
        self.window.rewind(n);
    }

    /// Brings `tokens` into view, as [`KvCache::push`] does, and calls `forward` on the tokens in view whose keys and
    /// values are not cached; `forward` stores them by [`KvCache::store`]. A long text comes in several parts, so
    /// its scores take memory in proportion to its length. Returns what `forward` returned for the last `n_last` tokens.
    ///
    /// # Shapes
    /// `forward` takes (1, t) and returns (1, t, c) → (1, n_last, c).
    ///
    /// # Errors
    /// If there is no memory for them on the `device`, or `forward` fails.
    pub fn extend(
        &mut self,
        tokens: &[u32],
        shape: &KvShape,
        (dtype, device): (DType, &Device),
        n_last: usize,
        mut forward: impl FnMut(&Tensor, &mut Self) -> Result<Tensor>,
    ) -> Result<Tensor> {
        self.push(tokens, shape.context);
        self.reserve(shape, dtype, device)?;
        let n = self.window().len();
        let most = shape.rows_at_once(n);
        let mut parts = Vec::new();
        while self.n_cached() < n {
            let (start, end) = (self.n_cached(), n.min(self.n_cached() + most));
            let part = Tensor::new(&self.window()[start..end], device)?.unsqueeze(0)?;
            let out = forward(&part, self)?;
            self.window.set_cached(end);
            if n - end < n_last {
                parts.push(out);
            }
        }
        let out = Tensor::cat(&parts, 1)?;
        out.narrow(1, out.dim(1)?.saturating_sub(n_last), n_last)
    }

    /// Makes room for the keys and values of the window, unless there is enough.
    fn reserve(&mut self, shape: &KvShape, dtype: DType, device: &Device) -> Result<()> {
        if self.window().len() <= self.room {
            return Ok(());
        }
        let room = shape.room_for(self.window().len());
        let n_cached = self.n_cached();
        let larger = |old: Option<&Tensor>| {
            let new = Tensor::zeros((1, shape.n_kv_heads, room, shape.head_width), dtype, device)?;
            if let Some(old) = old.filter(|_| n_cached > 0) {
                new.slice_set(&old.narrow(2, 0, n_cached)?.contiguous()?, 2, 0)?;
            }
            Ok::<_, Error>(new)
        };
        // One layer after the other, so that only one of them is in memory twice.
        for layer_idx in 0..shape.n_layers {
            let old = self.layers.get(layer_idx);
            let k_bhtd = larger(old.map(|layer| &layer.k_bhtd))?;
            let v_bhtd = larger(old.map(|layer| &layer.v_bhtd))?;
            let layer = KeyValue { k_bhtd, v_bhtd };
            match self.layers.get_mut(layer_idx) {
                Some(old) => *old = layer,
                None => self.layers.push(layer),
            }
        }
        self.room = room;
        Ok(())
    }

    /// Stores the keys and values of the tokens from [`KvCache::n_cached`] on in layer `layer_idx`, and returns
    /// those of all tokens up to them.
    ///
    /// # Shapes
    /// `k`, `v` (1, h, t, d) → twice (1, h, n_cached + t, d).
    pub fn store(&mut self, layer_idx: usize, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let layer = &self.layers[layer_idx];
        let (n_cached, t_all) = (self.n_cached(), self.n_cached() + k.dim(2)?);
        layer.k_bhtd.slice_set(&k.contiguous()?, 2, n_cached)?;
        layer.v_bhtd.slice_set(&v.contiguous()?, 2, n_cached)?;
        Ok((layer.k_bhtd.narrow(2, 0, t_all)?, layer.v_bhtd.narrow(2, 0, t_all)?))
    }
}

impl KvShape {
    /// Rows of queries that are computed at once against `n` keys: all of them, unless the scores of all heads would
    /// be more than 2^25 numbers.
    pub(crate) fn rows_at_once(&self, n: usize) -> usize {
        ((1 << 25) / (self.n_heads * n).max(1)).max(1)
    }

    /// Positions to make room for where there are `n`.
    fn room_for(&self, n: usize) -> usize {
        n.next_power_of_two().max(64).min(self.context)
    }

    /// Most bytes that a cache of `f32` takes for a text of `n` tokens, with the layer that is being enlarged.
    pub(crate) fn len_bytes(&self, n: usize) -> u64 {
        let layer = 2 * self.room_for(n.min(self.context)) * self.n_kv_heads * self.head_width;
        let bytes = (self.n_layers as u64 + 1).saturating_mul(layer as u64);
        bytes.saturating_mul(size_of::<f32>() as u64)
    }

    /// About the bytes of one layer's scores and probabilities while a text of `n` tokens is read.
    pub(crate) fn scores_len_bytes(&self, n: usize) -> u64 {
        let n = n.min(self.context);
        (4 * self.n_heads * n * self.rows_at_once(n).min(n) * size_of::<f32>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_window_keeps_its_last_three_quarters_and_forgets_what_was_cached() {
        let mut cache = KvCache::new();
        cache.push(&[0, 1, 2, 3, 4, 5, 6, 7], 8);
        cache.window.set_cached(cache.window().len());
        assert_eq!(cache.n_cached(), 8);
        cache.push(&[8], 8);
        assert_eq!((cache.window(), cache.n_cached()), ([3, 4, 5, 6, 7, 8].as_slice(), 0));
        cache.window.set_cached(cache.window().len());
        cache.push(&[9, 10], 8);
        assert_eq!((cache.window().len(), cache.n_cached()), (8, 6));
    }

    #[test]
    fn room_grows_with_the_text_and_a_long_text_comes_in_parts() {
        // So many heads that 2^25 scores are two rows of queries against 16 keys.
        let shape = KvShape { n_layers: 2, n_heads: 1 << 20, n_kv_heads: 1, context: 1 << 40, head_width: 1 };
        let mut cache = KvCache::new();
        let mut parts = Vec::new();
        let mut extend = |cache: &mut KvCache, tokens: &[u32]| {
            cache
                .extend(tokens, &shape, (DType::F32, &Device::Cpu), tokens.len(), |new, cache| {
                    let t = new.dim(1)?;
                    parts.push(t);
                    let own = new.to_dtype(DType::F32)?.reshape((1, 1, t, 1))?;
                    cache.store(0, &own, &own)?;
                    let (_, v) = cache.store(1, &own, &(&own * 2.0)?)?;
                    assert_eq!(v.dim(2)?, cache.n_cached() + t);
                    v.narrow(2, cache.n_cached(), t)?.reshape((1, t, 1))
                })
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        let twice = |tokens: std::ops::Range<u32>| tokens.map(|token| 2.0 * token as f32).collect::<Vec<_>>();
        assert_eq!(extend(&mut cache, &(0..16).collect::<Vec<_>>()), twice(0..16));
        assert_eq!(cache.room, 64);
        // One row at a time, past the first room.
        assert_eq!(extend(&mut cache, &(16..100).collect::<Vec<_>>()), twice(16..100));
        assert_eq!((cache.room, cache.n_cached()), (128, 100));
        assert_eq!(parts[..8], [2; 8]);
        assert!(parts[8..].iter().all(|&t| t == 1) && parts.len() == 8 + 84, "{parts:?}");
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
            cache.window.set_cached(cache.window().len());
        }
    }
}
