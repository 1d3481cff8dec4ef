use std::f64::consts::TAU;
use std::ops::Range;

/// How frequencies are changed to reach beyond the context that a model was first trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All are divided by `factor`, as if positions lay closer (`"rope_type": "linear"`).
    ///
    /// # References
    /// Chen et al., *Extending Context Window of Large Language Models via Positional Interpolation*, 2023.
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Low ones are divided by `factor`, high ones kept, with a passage between (`"rope_type": "llama3"`).
    ///
    /// # References
    /// The rule is that of Llama 3.1's published code, `apply_scaling` in `models/llama3/reference_impl/model.py`;
    /// names are those of Hugging Face's `rope_scaling`.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Waves longer than `original_context / low_freq_factor` are low.
        low_freq_factor: f64,
        /// Waves shorter than `original_context / high_freq_factor` are high.
        high_freq_factor: f64,
        /// The context before.
        original_context: f64,
    },
}

impl Scaling {
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                // Waves in the original context.
                let n_waves = original_context * frequency / TAU;
                let kept = (n_waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

/// The angle between one position and the next, by pair of a head's numbers: `theta^(−2i/d)`, scaled, for `i < d/2`.
///
/// # Panics
/// If `head_width` is odd.
pub fn frequencies(theta: f64, head_width: usize, scaling: Scaling) -> Vec<f64> {
    assert!(head_width.is_multiple_of(2), "rotary embedding of an odd head width, {head_width}");
    let exponent = |i: usize| -2.0 * i as f64 / head_width as f64;
    (0..head_width / 2).map(|i| scaling.apply(theta.powf(exponent(i)))).collect()
}

/// Cosine and sine of each position's angles.
///
/// Angles are computed in `f64` and their cosines rounded once. (PyTorch models round angles to `f32`, so far
/// positions differ by up to `position` × 6e-8.)
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    pub(super) half_width: usize,
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

impl Rotary {
    /// The angles of positions `0..context`; see [`Rotary::of`].
    ///
    /// # Panics
    /// If `head_width` is odd.
    pub fn new(theta: f64, head_width: usize, context: usize, scaling: Scaling) -> Self {
        Self::of(theta, head_width, 0..context, scaling)
    }

    /// The angles of some positions: `position · theta^(−2i/d)`, scaled, for `i < d/2`.
    ///
    /// # Panics
    /// If `head_width` is odd.
    ///
    /// # References
    /// Su et al., *RoFormer*, 2021, section 3.2.2.
    pub fn of(theta: f64, head_width: usize, positions: Range<usize>, scaling: Scaling) -> Self {
        let frequencies = frequencies(theta, head_width, scaling);
        let table = |f: fn(f64) -> f64| {
            let angles =
                positions.clone().flat_map(|position| frequencies.iter().map(move |w| position as f64 * w));
            angles.map(|angle| f(angle) as f32).collect()
        };
        Self { half_width: head_width / 2, cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// Width of the heads that it turns, d.
    pub fn head_width(&self) -> usize {
        2 * self.half_width
    }

    /// Positions that it has angles for.
    pub fn context(&self) -> usize {
        self.cos.len() / self.half_width.max(1)
    }

    /// (context, d/2)
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// (context, d/2)
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }
}
