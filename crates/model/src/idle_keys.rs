//! Keys of a configuration that its other keys leave without a meaning.

use crate::config::{ModelConfig, ROPE_KEYS};

impl ModelConfig {
    /// Keys that change nothing: those of what a family does not have, as rotary positions or windows, and those of a
    /// scaling that the model does not have. A file of the configuration leaves them out.
    pub fn idle_keys(&self) -> Vec<&'static str> {
        self.idle_reasons().into_iter().map(|(key, _)| key).collect()
    }

    /// A sentence, starting with the key, for each idle key that is set: one that is among `explicit_keys`, the keys
    /// of the `model` section that the user has set, or has another value than its default.
    pub fn idle_faults(&self, explicit_keys: &[&str]) -> Vec<String> {
        let (own, default) = (self.values(), Self::default().values());
        let is_default = |key: &str| own[key] == default[key];
        // Runs of versions that wrote every key have them all in their files, and nobody has asked for that.
        let is_whole = ROPE_KEYS.iter().all(|key| explicit_keys.contains(key));
        self.idle_reasons()
            .iter()
            .filter(|(key, _)| !is_default(key) || explicit_keys.contains(key) && !is_whole)
            .map(|(key, why)| format!("model.{key} = {}: {why}", own[*key]))
            .collect()
    }

    fn values(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a configuration is plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Family, RopeScaling};

    fn llama(rope_scaling: RopeScaling) -> ModelConfig {
        ModelConfig { family: Family::Llama, rope_scaling, ..ModelConfig::default() }
    }

    #[test]
    fn keys_of_rotary_positions_are_idle_in_a_gpt2() {
        let gpt2 = ModelConfig::default();
        assert_eq!(gpt2.idle_keys(), [&["head_width", "window"], &ROPE_KEYS[..]].concat());
        assert_eq!(gpt2.idle_faults(&["n_layers"]), Vec::<String>::new());
        // Said with the value that it has anyway, it is still misunderstood.
        assert_eq!(
            gpt2.idle_faults(&["rope_theta"]),
            [
                "model.rope_theta = 10000.0: a GPT-2 has no rotary positions; leave it out or set model.family = \
              \"llama\""
            ]
        );
        let scaled = ModelConfig { rope_factor: 2.0, ..gpt2 };
        assert!(scaled.idle_faults(&[])[0].starts_with("model.rope_factor = 2.0: a GPT-2 has"));
    }

    #[test]
    fn keys_of_a_scaling_are_idle_without_it() {
        let idle = |n_used| [&["window"], &ROPE_KEYS[n_used..]].concat();
        assert_eq!(llama(RopeScaling::None).idle_keys(), idle(2));
        assert_eq!(llama(RopeScaling::Linear).idle_keys(), idle(3));
        assert_eq!(llama(RopeScaling::Llama3).idle_keys(), ["window"]);
        let mistral = ModelConfig { family: Family::Mistral, ..llama(RopeScaling::Llama3) };
        assert!(mistral.idle_keys().is_empty());
        let keys = ["rope_theta", "rope_factor", "rope_original_context"];
        let faults = llama(RopeScaling::None).idle_faults(&keys);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("model.rope_factor = 8.0: nothing is scaled"), "{faults:?}");
        let faults = llama(RopeScaling::Linear).idle_faults(&keys);
        assert_eq!(
            faults,
            [
                "model.rope_original_context = 8192: is of another scaling; leave it out or set model.rope_scaling = \
              \"llama3\""
            ]
        );
        assert!(llama(RopeScaling::Llama3).idle_faults(&keys).is_empty());
    }

    #[test]
    fn widths_of_heads_and_windows_are_refused_where_a_family_has_none() {
        let gpt2 = ModelConfig { head_width: 8, window: 5, ..ModelConfig::default() };
        let faults = gpt2.idle_faults(&[]);
        assert!(faults[0].starts_with("model.head_width = 8: a GPT-2's heads"), "{faults:?}");
        assert!(faults[1].starts_with("model.window = 5: a GPT-2's attention"), "{faults:?}");
        let faults = ModelConfig { window: 5, ..llama(RopeScaling::Llama3) }.idle_faults(&[]);
        assert!(faults.len() == 1 && faults[0].contains("model.family = \"mistral\""), "{faults:?}");
    }

    #[test]
    fn a_file_of_a_version_that_wrote_every_key_is_read() {
        assert!(ModelConfig::default().idle_faults(&ROPE_KEYS).is_empty());
        assert!(llama(RopeScaling::None).idle_faults(&ROPE_KEYS).is_empty());
        let other = ModelConfig { rope_theta: 500_000.0, ..ModelConfig::default() };
        assert_eq!(other.idle_faults(&ROPE_KEYS).len(), 1);
    }
}
