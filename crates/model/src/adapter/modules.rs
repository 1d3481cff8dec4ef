//! Which matrices of a model get adapters.

use super::config::LoraConfig;
use crate::config::{Family, ModelConfig};
use crate::engine::adapters::factor_names;
use crate::engine::layout::{Layout, Placement};
use crate::engine::modules::Module;

/// A target that stands for every matrix of every block.
const ALL: &str = "all-linear";
/// As many blocks as are listed by name; of a model with more, which no machine has, the first stand for all.
const MOST_LISTED: usize = 1024;

impl LoraConfig {
    /// The ends of the names of matrices that get adapters in a model of `family`.
    pub fn targets_in(&self, family: Family) -> Vec<String> {
        if !self.targets.is_empty() {
            return self.targets.clone();
        }
        let names: &[&str] = if family == Family::Gpt2 { &["c_attn"] } else { &["q_proj", "v_proj"] };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The matrices of a model of `config` that get adapters, in the model's order.
    pub(crate) fn modules(&self, config: &ModelConfig, vocab_size: usize) -> Vec<Module> {
        let targets = self.targets_in(config.family);
        let mut modules = config.modules(vocab_size);
        modules.retain(|module| targets.iter().any(|target| is_meant(&module.name, target)));
        modules
    }

    /// Names and shapes of all factors beside a model of `config`, in the model's order.
    pub(crate) fn shapes(&self, config: &ModelConfig, vocab_size: usize) -> Vec<(String, Vec<usize>)> {
        let factors = |Module { name, n_in, n_out, .. }: Module| {
            let [a, b] = factor_names(&name);
            [(a, vec![self.rank, n_in]), (b, vec![n_out, self.rank])]
        };
        self.modules(config, vocab_size).into_iter().flat_map(factors).collect()
    }

    /// The same of as many blocks as are listed by name, and how many those are.
    pub(crate) fn shapes_listed(
        &self,
        config: &ModelConfig,
        vocab_size: usize,
    ) -> (Vec<(String, Vec<usize>)>, usize) {
        let n_layers = config.n_layers.min(MOST_LISTED);
        (self.shapes(&ModelConfig { n_layers, ..config.clone() }, vocab_size), n_layers)
    }

    /// What is wrong with the targets for a model of `config`, a sentence each that starts with the key.
    pub fn faults_for(&self, config: &ModelConfig) -> Vec<String> {
        if !self.is_on() {
            return Vec::new();
        }
        let listed = ModelConfig { n_layers: config.n_layers.min(MOST_LISTED), ..config.clone() };
        let modules = listed.modules(1);
        let is_nothing = |target: &&String| !modules.iter().any(|module| is_meant(&module.name, target));
        let targets = self.targets_in(config.family);
        let fault = |target: &String| {
            let mut there: Vec<&str> =
                modules.iter().filter_map(|module| module.name.rsplit('.').next()).collect();
            there.sort_unstable();
            there.dedup();
            format!(
                "lora.targets = {target:?}: no matrix in a block of {} is called so; there are {}",
                config.family.with_article(),
                there.join(", ")
            )
        };
        targets.iter().filter(is_nothing).map(fault).collect()
    }
}

impl ModelConfig {
    /// The matrices of all blocks.
    fn modules(&self, vocab_size: usize) -> Vec<Module> {
        let layout = Layout::of_shapes(self.parameter_shapes(vocab_size), &Placement::FLAT);
        self.network(vocab_size, &layout).modules(&layout)
    }
}

/// Whether a target stands for the matrix of this name: as in PEFT it is the name, or a whole part of it at its end.
fn is_meant(name: &str, target: &str) -> bool {
    target == ALL || name == target || name.strip_suffix(target).is_some_and(|before| before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(family: Family, targets: &[&str]) -> Vec<String> {
        let mut config = ModelConfig { family, n_layers: 2, d_model: 16, ..ModelConfig::default() };
        config.settle(&[]);
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        let lora = LoraConfig { rank: 2, targets, ..LoraConfig::default() };
        lora.modules(&config, 7).into_iter().map(|module| module.name).collect()
    }

    #[test]
    fn targets_are_whole_parts_at_the_end_of_a_name() {
        assert_eq!(names(Family::Gpt2, &[]), ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]);
        assert_eq!(names(Family::Gpt2, &["c_proj"]).len(), 4, "of attention and of the feed-forward half");
        assert_eq!(
            names(Family::Gpt2, &["h.1.mlp.c_proj", "attn"]),
            ["transformer.h.1.mlp.c_proj"],
            "a folder is no matrix"
        );
        assert_eq!(names(Family::Gpt2, &["all-linear"]).len(), 8);
        assert_eq!(
            names(Family::Llama, &[])[..2],
            ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]
        );
        assert_eq!(names(Family::Llama, &["all-linear"]).len(), 14);
        assert_eq!(names(Family::Llama, &["proj"]).len(), 0);
    }

    #[test]
    fn a_target_that_stands_for_nothing_is_refused_with_what_there_is() {
        let config = ModelConfig::default();
        let lora = |targets: &[&str], rank| LoraConfig {
            rank,
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            ..LoraConfig::default()
        };
        let faults = lora(&["q_proj", "c_fc", "lm_head"], 4).faults_for(&config);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].starts_with("lora.targets = \"q_proj\"") && faults[0].contains("c_attn, c_fc, c_proj")
        );
        assert!(lora(&["q_proj"], 0).faults_for(&config).is_empty());
    }
}
