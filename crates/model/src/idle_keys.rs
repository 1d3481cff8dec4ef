//! Keys of a configuration that its other keys leave without effect.

use wattle_settings::{Idle, Section, Setting, idle_of};

use crate::config::ModelConfig;

impl ModelConfig {
    /// Keys that have no effect: those of what a family does not have, as rotary positions or windows, and those of a
    /// scaling that the model does not have. A file of the configuration leaves them out.
    pub fn idle_keys(&self) -> Vec<&'static str> {
        idle_of(self).iter().map(|idle| idle.setting.key).collect()
    }

    /// A sentence, starting with the key, for each idle key that is set: one that is among `explicit_keys`, the keys
    /// of the `model` section that the user has set, or has another value than its default.
    pub fn idle_faults(&self, explicit_keys: &[&str]) -> Vec<String> {
        // Runs of versions that wrote every key have them all in their files, and nobody has asked for that.
        let is_whole = rope_settings().all(|setting| explicit_keys.contains(&setting.key));
        let is_set =
            |idle: &&Idle| !idle.has_default() || explicit_keys.contains(&idle.setting.key) && !is_whole;
        idle_of(self).iter().filter(is_set).map(ToString::to_string).collect()
    }
}

/// The keys of rotary positions.
fn rope_settings() -> impl Iterator<Item = &'static Setting> {
    ModelConfig::settings().iter().filter(|setting| setting.key.starts_with("rope_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Family, RopeScaling};
    use crate::families::ALL;

    /// The keys of rotary positions, ordered so that those without an effect are always the last.
    const ROPE_KEYS: [&str; 6] = [
        "rope_theta",
        "rope_scaling",
        "rope_factor",
        "rope_low_freq_factor",
        "rope_high_freq_factor",
        "rope_original_context",
    ];

    /// The options of a wattle's blocks.
    const OPTIONS: [&str; 3] = ["window_pattern", "qk_norm", "logit_softcap"];

    fn llama(rope_scaling: RopeScaling) -> ModelConfig {
        ModelConfig { family: Family::Llama, rope_scaling, ..ModelConfig::default() }
    }

    #[test]
    fn keys_are_idle_in_the_families_that_lack_what_they_set() {
        for spec in ALL {
            let config = ModelConfig { family: spec.family, ..ModelConfig::default() };
            let is_idle = |key| config.idle_keys().contains(&key);
            let has_window = spec.design.is_some_and(|design| design.has_window);
            assert_eq!(is_idle("rope_theta"), !spec.family.has_rotary_positions(), "{}", spec.name);
            assert_eq!(is_idle("head_width"), !spec.family.has_rotary_positions(), "{}", spec.name);
            assert_eq!(is_idle("window"), !has_window, "{}", spec.name);
            for key in ["qk_norm", "logit_softcap"] {
                assert_eq!(is_idle(key), spec.family != Family::Wattle, "{}: {key}", spec.name);
            }
        }
    }

    #[test]
    fn keys_of_rotary_positions_are_idle_in_a_gpt2() {
        let gpt2 = ModelConfig::default();
        assert_eq!(gpt2.idle_keys(), [&["head_width", "window"], &OPTIONS[..], &ROPE_KEYS[..]].concat());
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
        let idle = |n_used| [&["window"], &OPTIONS[..], &ROPE_KEYS[n_used..]].concat();
        assert_eq!(llama(RopeScaling::None).idle_keys(), idle(2));
        assert_eq!(llama(RopeScaling::Linear).idle_keys(), idle(3));
        assert_eq!(llama(RopeScaling::Llama3).idle_keys(), idle(ROPE_KEYS.len()));
        let mistral = ModelConfig { family: Family::Mistral, ..llama(RopeScaling::Llama3) };
        assert_eq!(mistral.idle_keys(), OPTIONS);
        let wattle = ModelConfig { family: Family::Wattle, window: 8, ..mistral };
        assert!(wattle.idle_keys().is_empty());
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
