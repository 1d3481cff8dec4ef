//! A configuration that takes its shape from a directory of weights.

use super::Directory;
use crate::config::ModelConfig;

impl ModelConfig {
    /// This configuration with the shape of the model in `from`.
    ///
    /// `dropout` and `init_from` stay. So does a `context` that was set, if it is not larger than the
    /// directory's; a smaller one cuts the table of positions down to its first rows, for good: rows that training
    /// never reaches would only spoil what is saved. Every other key becomes the directory's.
    ///
    /// `explicit_keys` are the keys of the `model` section that the user has set, with or without `model.` before
    /// them.
    ///
    /// # Errors
    /// A sentence for each explicit key that contradicts the directory. 0 contradicts nothing where it means
    /// "not given".
    pub fn adopt(&self, from: &Directory, explicit_keys: &[&str]) -> Result<Self, Vec<String>> {
        let own = from.model_config();
        let is_explicit =
            |key: &str| explicit_keys.iter().any(|k| k.strip_prefix("model.").unwrap_or(k) == key);
        let mut faults = Vec::new();
        let mut must_agree = |key: &str, agrees: bool, ours: String, theirs: String| {
            if is_explicit(key) && !agrees {
                faults.push(format!(
                    "model.{key} = {ours}: {} has {theirs}; leave it out or set it to that",
                    from.dir().display()
                ));
            }
        };
        let mut counts = vec![
            ("n_layers", self.n_layers, own.n_layers),
            ("n_heads", self.n_heads, own.n_heads),
            ("d_model", self.d_model, own.d_model),
        ];
        counts.extend((self.vocab_size != 0).then_some(("vocab_size", self.vocab_size, own.vocab_size)));
        counts.extend((self.n_kv_heads != 0).then_some(("n_kv_heads", self.n_kv_heads, own.kv_heads())));
        counts.extend((self.head_width != 0).then_some(("head_width", self.head_width, own.head_width())));
        counts.extend((self.window != 0).then_some(("window", self.window, own.window)));
        counts.extend((self.window_pattern != 0).then_some((
            "window_pattern",
            self.window_pattern,
            own.window_pattern,
        )));
        counts.extend((self.d_ff != 0).then_some(("d_ff", self.d_ff, own.d_ff)));
        for (key, ours, theirs) in counts {
            must_agree(key, ours == theirs, ours.to_string(), theirs.to_string());
        }
        let names = [
            ("family", named(&self.family), named(&own.family)),
            ("bias", named(&self.bias), named(&own.bias)),
            ("qk_norm", named(&self.qk_norm), named(&own.qk_norm)),
            ("logit_softcap", named(&self.logit_softcap), named(&own.logit_softcap)),
            ("activation", named(&self.activation), named(&own.activation)),
            ("tie_embeddings", named(&self.tie_embeddings), named(&own.tie_embeddings)),
            ("norm_eps", named(&self.norm_eps), named(&own.norm_eps)),
            ("rope_theta", named(&self.rope_theta), named(&own.rope_theta)),
            ("rope_scaling", named(&self.rope_scaling), named(&own.rope_scaling)),
            ("rope_factor", named(&self.rope_factor), named(&own.rope_factor)),
            ("rope_low_freq_factor", named(&self.rope_low_freq_factor), named(&own.rope_low_freq_factor)),
            ("rope_high_freq_factor", named(&self.rope_high_freq_factor), named(&own.rope_high_freq_factor)),
            ("rope_original_context", named(&self.rope_original_context), named(&own.rope_original_context)),
        ];
        for (key, ours, theirs) in names {
            must_agree(key, ours == theirs, ours, theirs);
        }
        let context = if is_explicit("context") { self.context } else { own.context };
        if context > own.context {
            faults.push(format!(
                "model.context = {context}: {} has learned {} positions; expected at most that",
                from.dir().display(),
                own.context
            ));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self { context, dropout: self.dropout, init_from: self.init_from.clone(), ..own.clone() })
    }
}

/// A value as it stands in a configuration.
fn named(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("a name or a truth value")
}
