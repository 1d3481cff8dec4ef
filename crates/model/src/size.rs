//! What a model takes, by its configuration alone: known before anything is built.

use crate::adapter::config::LoraConfig;
use crate::config::ModelConfig;
use crate::engine::layout::{Layout, Placement};
use crate::engine::muon::{scratch_bytes, scratch_bytes_of};
use crate::engine::{EngineOptions, GradientType, MemoryPlan, Moments, Recompute, Share, Split, cpu};
use crate::kv_cache::KvShape;
use crate::moments::MatrixUpdate;

/// Bytes of a number.
const BYTES_PER_F32: u64 = size_of::<f32>() as u64;

/// The most blocks whose parameters are listed.
const MOST_LISTED: usize = 1 << 12;

/// What the optimizer takes of a process.
struct OfOptimizer {
    /// Numbers of moments.
    n_moments: u64,
    /// Bytes for Muon's updates.
    scratch: u64,
}

impl OfOptimizer {
    /// Of parameters with the names and shapes of `listed`, which stand for more unless they are `all`: `n_parameters`, of
    /// which Muon updates `n_orthogonalized`. Where not all are listed, Muon's matrices count as if each process had as much
    /// of them as any other.
    fn new(
        listed: &[(String, Vec<usize>)],
        all: bool,
        n_parameters: u64,
        n_orthogonalized: u64,
        options: EngineOptions,
    ) -> Self {
        let EngineOptions { matrices, share, .. } = options;
        if n_orthogonalized > 0 && share.world > 1 && all {
            let layout = Layout::of_shapes(listed.to_vec(), &Placement::FLAT).updated_by(matrices);
            let split = Split::of_layout(&layout, share);
            let own = split.own();
            let n_moments = layout.n_moments_of(&own.updated) as u64;
            return Self { n_moments, scratch: scratch_bytes(&layout, own) };
        }
        let n_parameters = usize::try_from(n_parameters).unwrap_or(usize::MAX);
        let own = Split::new(n_parameters, share).own().updated.len() as u64;
        let n_moments = own.saturating_mul(2).saturating_sub(n_orthogonalized / share.world as u64);
        let shapes = listed.iter().map(|(name, dims)| (name.as_str(), dims.as_slice()));
        Self { n_moments, scratch: scratch_bytes_of(matrices, shapes) }
    }
}

impl ModelConfig {
    /// Numbers of all parameters together, with a token table of `vocab_size` rows.
    pub fn n_parameters(&self, vocab_size: usize) -> u64 {
        // All blocks are alike, and there may be more of them than could be listed.
        let count = |n_layers: usize| {
            let shapes = Self { n_layers, ..self.clone() }.parameter_shapes(vocab_size);
            shapes.iter().map(|(_, dims)| dims.iter().map(|&n| n as u128).product::<u128>()).sum::<u128>()
        };
        let others = count(0);
        saturated(others + self.n_layers as u128 * (count(1) - others))
    }

    /// Bytes of a model's own tensors, with a token table of `vocab_size` rows.
    pub fn model_bytes(&self, vocab_size: usize) -> u64 {
        self.n_parameters(vocab_size).saturating_mul(BYTES_PER_F32)
    }

    /// What the explicit engine for a CPU takes to train, beside the model's own tensors.
    pub fn training_memory(&self, vocab_size: usize, options: EngineOptions) -> MemoryPlan {
        let bytes = self.model_bytes(vocab_size);
        let n_listed = self.n_layers.min(MOST_LISTED);
        let OfOptimizer { n_moments, scratch } = OfOptimizer::new(
            &Self { n_layers: n_listed, ..self.clone() }.parameter_shapes(vocab_size),
            n_listed == self.n_layers,
            self.n_parameters(vocab_size),
            self.n_orthogonalized(vocab_size, options.matrices),
            options,
        );
        let moments = options.moments.bytes(n_moments);
        // In eight bits there is a rounded copy.
        let weights = if options.fp8.is_some() { bytes.saturating_mul(2) } else { bytes };
        let arena = self.arena(vocab_size, options);
        let scratch = arena.scratch.saturating_add(scratch);
        MemoryPlan { weights, gradients: bytes, moments, scratch, ..arena }
    }

    /// Numbers of the factors of adapters beside a model with a token table of `vocab_size` rows.
    pub fn n_adapter_parameters(&self, vocab_size: usize, lora: &LoraConfig) -> u64 {
        let (shapes, n_layers) = lora.shapes_listed(self, vocab_size);
        let listed: u128 =
            shapes.iter().map(|(_, dims)| dims.iter().map(|&n| n as u128).product::<u128>()).sum();
        saturated(listed.saturating_mul(self.n_layers as u128) / n_layers.max(1) as u128)
    }

    /// What the explicit engine for a CPU takes to train adapters, beside the tensors of the model and of the adapters.
    pub fn adapted_memory(&self, vocab_size: usize, lora: &LoraConfig, options: EngineOptions) -> MemoryPlan {
        let factors = lora.shapes_listed(self, vocab_size);
        let n_parameters = self.n_adapter_parameters(vocab_size, lora);
        let bytes = n_parameters.saturating_mul(BYTES_PER_F32);
        // Factors are matrices of blocks, all of them.
        let n_orthogonalized = if options.matrices == MatrixUpdate::AdamW { 0 } else { n_parameters };
        let are_all = factors.1 == self.n_layers;
        let OfOptimizer { n_moments, scratch } =
            OfOptimizer::new(&factors.0, are_all, n_parameters, n_orthogonalized, options);
        let moments = options.moments.bytes(n_moments);
        let arena = cpu::adapted_arena_plan(self, vocab_size, options, factors, lora.dropout);
        MemoryPlan {
            weights: self.model_bytes(vocab_size).saturating_add(bytes),
            gradients: bytes,
            moments,
            scratch: arena.scratch.saturating_add(scratch),
            ..arena
        }
    }

    /// Numbers of all of an optimizer's moments together, with a token table of `vocab_size` rows.
    pub fn n_moments(&self, vocab_size: usize, matrices: MatrixUpdate) -> u64 {
        let both = self.n_parameters(vocab_size).saturating_mul(2);
        both.saturating_sub(self.n_orthogonalized(vocab_size, matrices))
    }

    /// Numbers of the parameters that Muon updates.
    fn n_orthogonalized(&self, vocab_size: usize, matrices: MatrixUpdate) -> u64 {
        let block = Self { n_layers: 1, ..self.clone() }.parameter_shapes(vocab_size);
        let of_muon = block.iter().filter(|(name, dims)| matrices.orthogonalizes(name, dims));
        let in_block: u128 = of_muon.map(|(_, dims)| dims.iter().map(|&n| n as u128).product::<u128>()).sum();
        saturated(in_block.saturating_mul(self.n_layers as u128))
    }

    /// What the explicit engine for a CPU writes to in an evaluation of `batch_size` sequences at a time, beside the
    /// model's own tensors: neither gradients nor moments.
    pub fn evaluation_memory(&self, vocab_size: usize, batch_size: usize) -> MemoryPlan {
        let options = EngineOptions {
            micro_batch: batch_size,
            recompute: Recompute::Block,
            fp8: None,
            gradients: GradientType::F32,
            moments: Moments::F32,
            matrices: MatrixUpdate::AdamW,
            share: Share::default(),
        };
        let activations = self.arena(vocab_size, options).activations;
        MemoryPlan { weights: self.model_bytes(vocab_size), activations, ..MemoryPlan::default() }
    }

    /// About the bytes that the model's own operations take at once for a window of `n_tokens`: one layer's scores and
    /// probabilities, its rows, or the logits.
    pub fn short_window_bytes(&self, vocab_size: usize, n_tokens: usize) -> u64 {
        let of = |n: usize| n as u128;
        let scores = 4 * of(self.n_heads) * of(n_tokens) * of(n_tokens);
        let rows = of(n_tokens) * (8 * of(self.d_model) + 3 * of(self.feed_forward_width()));
        let logits = 3 * of(n_tokens) * of(vocab_size);
        saturated(rows.saturating_add(scores.max(logits))).saturating_mul(BYTES_PER_F32)
    }

    /// About the bytes that generating takes beside the model, for a text of `n_tokens` with its prompt: keys and
    /// values in `f32`, and what is computed at once.
    pub fn generation_bytes(&self, vocab_size: usize, n_tokens: usize) -> u64 {
        let shape = self.kv_shape();
        let n = n_tokens.min(self.context);
        let width = 8 * self.d_model + 3 * self.feed_forward_width();
        let rows = shape.rows_at_once(n).min(n).saturating_mul(width).saturating_add(4 * vocab_size);
        let rows = (rows as u64).saturating_mul(BYTES_PER_F32);
        shape.len_bytes(n).saturating_add(shape.scores_len_bytes(n)).saturating_add(rows)
    }

    /// The form of its keys and values.
    pub(crate) fn kv_shape(&self) -> KvShape {
        let &ModelConfig { n_layers, n_heads, context, .. } = self;
        let (n_kv_heads, head_width) = (self.kv_heads(), self.head_width());
        KvShape { n_layers, n_heads, n_kv_heads, context, head_width }
    }

    fn arena(&self, vocab_size: usize, options: EngineOptions) -> MemoryPlan {
        cpu::arena_plan(self, vocab_size, options)
    }
}

fn saturated(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use wattle_ops::muon;

    use super::*;
    use crate::adapter::Adapted;
    use crate::config::{ActivationKind, Family};
    use crate::families::ALL;
    use crate::language_model::LanguageModel;

    fn configurations() -> [ModelConfig; 11] {
        let gpt2 = ModelConfig { n_layers: 2, n_heads: 3, d_model: 21, context: 7, ..ModelConfig::default() };
        let mut llama =
            ModelConfig { family: Family::Llama, d_model: 24, n_heads: 4, n_kv_heads: 2, ..gpt2.clone() };
        llama.settle(&[]);
        let wattle = ModelConfig { family: Family::Wattle, ..llama.clone() };
        [
            ModelConfig { bias: true, d_ff: 30, ..gpt2.clone() },
            ModelConfig { tie_embeddings: false, ..gpt2.clone() },
            gpt2,
            ModelConfig { tie_embeddings: false, ..llama.clone() },
            ModelConfig { family: Family::Qwen2, ..llama.clone() },
            ModelConfig { family: Family::Qwen3, head_width: 10, ..llama.clone() },
            ModelConfig { family: Family::Mistral, head_width: 4, window: 3, ..llama.clone() },
            ModelConfig { family: Family::Olmo2, ..llama.clone() },
            ModelConfig { qk_norm: true, window: 3, window_pattern: 2, ..wattle.clone() },
            ModelConfig { activation: ActivationKind::Relu2, logit_softcap: 9.0, ..wattle },
            llama,
        ]
    }

    fn options(micro_batch: usize, recompute: Recompute, matrices: MatrixUpdate) -> EngineOptions {
        EngineOptions {
            micro_batch,
            recompute,
            fp8: None,
            gradients: GradientType::F32,
            moments: Moments::F32,
            matrices,
            share: Share::default(),
        }
    }

    #[test]
    fn parameters_and_memory_are_those_of_what_is_built() {
        for config in configurations() {
            let model = config.build(11, 1, &Device::Cpu).unwrap();
            assert_eq!(config.n_parameters(11), model.n_parameters(), "{config:?}");
            let muon = muon::Hyperparameters { momentum: 0.95, nesterov: true, ns_steps: 5 };
            for (recompute, matrices) in [
                (Recompute::None, MatrixUpdate::AdamW),
                (Recompute::Mlp, MatrixUpdate::Muon(muon)),
                (Recompute::Block, MatrixUpdate::AdamW),
            ] {
                let options = options(3, recompute, matrices);
                for rank in [0, 2] {
                    let options = EngineOptions { share: Share { rank, world: 3 }, ..options };
                    let engine = model.engine(options).unwrap().unwrap();
                    assert_eq!(config.training_memory(11, options), engine.memory(), "{config:?}");
                }
                let engine = model.engine(options).unwrap().unwrap();
                assert_eq!(config.training_memory(11, options), engine.memory(), "{config:?}");
                let moments = config.n_moments(11, matrices) * BYTES_PER_F32;
                assert_eq!(engine.memory().moments, moments, "{config:?}");
            }
        }
    }

    #[test]
    fn adapters_and_their_memory_are_those_of_what_is_built() {
        for config in configurations() {
            let lora =
                LoraConfig { rank: 3, targets: vec!["all-linear".to_owned()], ..LoraConfig::default() };
            let lora = LoraConfig { dropout: 0.1, ..lora };
            let base = config.build(11, 1, &Device::Cpu).unwrap();
            let model = Adapted::new(base, &config, &lora, 1, None).unwrap();
            assert_eq!(config.n_adapter_parameters(11, &lora), model.n_parameters(), "{config:?}");
            let muon = muon::Hyperparameters { momentum: 0.95, nesterov: true, ns_steps: 5 };
            for (recompute, matrices) in
                [(Recompute::None, MatrixUpdate::AdamW), (Recompute::Block, MatrixUpdate::Muon(muon))]
            {
                let options = options(3, recompute, matrices);
                for share in [Share::default(), Share { rank: 2, world: 3 }] {
                    let options = EngineOptions { share, ..options };
                    let engine = model.engine(options).unwrap().unwrap();
                    assert_eq!(config.adapted_memory(11, &lora, options), engine.memory(), "{config:?}");
                }
            }
        }
    }

    #[test]
    fn what_no_machine_has_is_counted_all_the_same() {
        let most = crate::config::MAX_SIZE;
        for spec in ALL {
            let mut config = ModelConfig {
                family: spec.family,
                n_layers: most,
                n_heads: 2,
                d_model: most,
                d_ff: most,
                context: most,
                ..ModelConfig::default()
            };
            config.settle(&[]);
            let options = options(most, Recompute::None, MatrixUpdate::AdamW);
            assert_eq!(config.training_memory(most, options).total(), u64::MAX);
            assert!(config.generation_bytes(most, usize::MAX) > 1 << 50);
        }
    }

    #[test]
    fn a_declared_context_costs_nothing_until_it_is_used() {
        let config = |context| ModelConfig { context, ..ModelConfig::default() };
        let bytes = |context, n_tokens| config(context).generation_bytes(300, n_tokens);
        assert_eq!(bytes(1 << 17, 64), bytes(128, 64));
        assert!(bytes(1 << 17, 1 << 17) > 100 * bytes(1 << 17, 64));
    }
}
