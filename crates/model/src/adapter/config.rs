//! The `lora` section of a configuration.

use wattle_settings::section;

/// A larger rank than any matrix has.
const MAX_RANK: f64 = (1 << 20) as f64;
/// Where defaults come from.
const PEFT: &str = "PEFT's `LoraConfig`";

section! {
    /// Low-rank adapters, trained in place of the model's weights.
    ///
    /// With a rank, the weights of `model.init_from` stay as they are, and factors of small rank beside the matrices of
    /// blocks are trained: docs/adapters.md.
    #[section(lora)]
    pub struct LoraConfig {
        /// Rank of adapters; 0: none, all weights train.
        pub rank: usize = 0, expects(at_most(MAX_RANK));
        /// Scale of what adapters add, times the rank.
        ///
        /// What an adapter adds is multiplied by `lora.alpha / lora.rank`, with `lora.rslora` by the root of that rank.
        pub alpha: f64 = 8.0, expects(above(0.0)), idle(when_zero("lora.rank")), source(PEFT);
        /// Names of the matrices that get adapters.
        ///
        /// Ends of their names, as in PEFT's `target_modules`: `"c_attn"`, `"mlp.c_proj"`, `"q_proj"`; `"all-linear"` is
        /// every matrix of every block.
        pub targets: Vec<String> = Vec::new(),
            unset("PEFT's: `c_attn` of a GPT-2, `q_proj` and `v_proj` of the others"),
            idle(when_zero("lora.rank"));
        /// Share of what adapters read that is dropped.
        ///
        /// In training, by the explicit engine alone. Matrices that are one product, as query, key and value, share a mask.
        pub dropout: f32 = 0.0,
            expects(at_least(0.0).below(1.0)),
            idle(when_zero("lora.rank")),
            source(PEFT);
        /// Whether `alpha` is divided by the rank's root.
        ///
        /// So that a larger rank does not make updates smaller (Kalajdzievski, 2023).
        pub rslora: bool = false, idle(when_zero("lora.rank")), source(PEFT);
    }
}

impl LoraConfig {
    /// Whether adapters are trained.
    pub fn is_on(&self) -> bool {
        self.rank > 0
    }

    /// What the product of an adapter's factors is multiplied by.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }
}
