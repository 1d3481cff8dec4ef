//! Choosing the next token.

use rayon::prelude::*;
use wattle_random::{Purpose, Stream};

/// How a token is chosen from a model's predictions.
///
/// The filters apply in the order of `transformers`: temperature, then the `top_k` likeliest, then of those the
/// `top_p` of probability.
///
/// The numbers drawn are a function of the seed and of how many tokens were chosen before. So equal predictions
/// give equal texts on every machine; predictions themselves agree between machines but for rounding.
///
/// # References
/// Fan et al., *Hierarchical Neural Story Generation*, 2018, section 5.4 (top-k); Holtzman et al., *The Curious
/// Case of Neural Text Degeneration*, 2020, section 3.1 (top-p).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest token, of equals the first.
    pub temperature: f64,
    /// How many of the likeliest tokens stay; those as likely as the last of them stay too.
    pub top_k: Option<usize>,
    /// The likeliest tokens stay whose predecessors have less than this probability together.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    /// The model's predictions as they are.
    fn default() -> Self {
        Self { temperature: 1.0, top_k: None, top_p: None, seed: 0 }
    }
}

impl Sampling {
    /// The likeliest token always.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Everything that is wrong with it, each a sentence that starts with the flag.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            faults.push(format!(
                "--temperature {}: expected at least 0 (0 takes the likeliest token)",
                self.temperature
            ));
        }
        if self.top_k == Some(0) {
            faults.push("--top-k 0: expected at least 1; leave it out to keep every token".to_owned());
        }
        if let Some(top_p) = self.top_p
            && !(top_p > 0.0 && top_p <= 1.0)
        {
            faults.push(format!("--top-p {top_p}: expected above 0 and at most 1"));
        }
        faults
    }

    /// The token number `n_before`, counted from 0, of a text, given what the model predicts.
    ///
    /// # Panics
    /// If there are no logits.
    pub fn choose(&self, logits: &[f32], n_before: u64) -> u32 {
        if self.temperature == 0.0 {
            return likeliest(logits, 1)[0];
        }
        // A number in (0, 1) on a grid of 2⁻³².
        let u =
            (f64::from(Stream::new(self.seed, Purpose::Sampling, 0).word(n_before)) + 0.5) / 2f64.powi(32);
        let candidates = self.candidates(logits);
        let mut rest = u * candidates.iter().map(|(_, probability)| probability).sum::<f64>();
        for &(token, probability) in &candidates {
            rest -= probability;
            if rest < 0.0 {
                return token;
            }
        }
        candidates.last().expect("the filters keep at least one token").0
    }

    /// The tokens that may be chosen, each with its probability. The temperature is not 0.
    pub(super) fn candidates(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut tokens = match self.top_k {
            Some(k) if k < logits.len() => {
                let tokens = likeliest(logits, k);
                let least = logits[tokens[k - 1] as usize];
                let tied = (0..logits.len() as u32)
                    .filter(|&token| logits[token as usize] == least && !tokens.contains(&token));
                tokens.iter().copied().chain(tied).collect()
            }
            _ if self.top_p.is_some() => likeliest(logits, logits.len()),
            _ => (0..logits.len() as u32).collect::<Vec<_>>(),
        };
        let of_tokens: Vec<f32> = tokens.iter().map(|&token| logits[token as usize]).collect();
        let mut probabilities = softmax(&of_tokens, self.temperature);
        if let Some(top_p) = self.top_p {
            let mut before = 0.0;
            let n_kept = probabilities.iter().take_while(|&&probability| {
                let is_kept = before < top_p;
                before += probability;
                is_kept
            });
            let n_kept = n_kept.count().max(1);
            tokens.truncate(n_kept);
            probabilities.truncate(n_kept);
        }
        let total: f64 = probabilities.iter().sum();
        tokens.into_iter().zip(probabilities.into_iter().map(|probability| probability / total)).collect()
    }
}

/// The `n` likeliest tokens, the likeliest first and of equals the one with the smaller number.
pub(super) fn likeliest(logits: &[f32], n: usize) -> Vec<u32> {
    if n == 1 && !logits.is_empty() {
        return vec![first_largest(logits)];
    }
    // Larger logits come first, then smaller numbers: whole numbers are compared, not what they point to.
    let rank = |(token, &logit): (u32, &f32)| u64::from(!unsigned(order(logit))) << 32 | u64::from(token);
    let mut ranks: Vec<u64> = (0..).zip(logits).map(rank).collect();
    if n < ranks.len() {
        ranks.select_nth_unstable(n);
        ranks.truncate(n);
    }
    ranks.sort_unstable();
    ranks.into_iter().map(|rank| rank as u32).collect()
}

/// The likeliest token, of equals the first.
fn first_largest(logits: &[f32]) -> u32 {
    let largest = logits.iter().map(|&logit| order(logit)).max();
    let first = logits.iter().position(|&logit| Some(order(logit)) == largest);
    first.expect("the largest is one of them") as u32
}

/// A number in the order of [`f32::total_cmp`].
fn order(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

/// The same order, of numbers without a sign.
fn unsigned(order: i32) -> u32 {
    order as u32 ^ 1 << 31
}

/// Logits of which exponentials are taken by one thread.
const BLOCK: usize = 1 << 12;

/// `softmax(logits / temperature)` in `f64`: exponentials on all threads, sums in the order of the logits.
pub(super) fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let exp = |&logit: &f32| ((f64::from(logit) - max) / temperature).exp();
    let mut exps = vec![0.0; logits.len()];
    let fill = |(out, logits): (&mut [f64], &[f32])| {
        out.iter_mut().zip(logits).for_each(|(out, logit)| *out = exp(logit));
    };
    match logits.len() <= BLOCK {
        true => fill((&mut exps, logits)),
        false => exps.par_chunks_mut(BLOCK).zip(logits.par_chunks(BLOCK)).for_each(fill),
    }
    let sum: f64 = exps.iter().sum();
    exps.iter_mut().for_each(|exp| *exp /= sum);
    exps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 0.4, 0.3, 0.2, 0.1 in an order that is not theirs.
    fn logits() -> [f32; 4] {
        [0.2f32, 0.4, 0.1, 0.3].map(f32::ln)
    }

    fn candidates(sampling: &Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut candidates = sampling.candidates(logits);
        candidates.sort_by_key(|(token, _)| *token);
        candidates
    }

    fn assert_close(got: &[(u32, f64)], expected: &[(u32, f64)]) {
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (a, b) in got.iter().zip(expected) {
            // Logits are in f32: eps/2 relative, some 3e-8 of each probability.
            assert!(a.0 == b.0 && (a.1 - b.1).abs() < 1e-6, "{got:?} against {expected:?}");
        }
    }

    #[test]
    fn filters_keep_what_they_say_and_rescale_it() {
        let plain = Sampling::default();
        assert_close(&candidates(&plain, &logits()), &[(0, 0.2), (1, 0.4), (2, 0.1), (3, 0.3)]);
        let top_k = Sampling { top_k: Some(2), ..plain.clone() };
        assert_close(&candidates(&top_k, &logits()), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        let top_p = |p| Sampling { top_p: Some(p), ..Sampling::default() };
        assert_close(&candidates(&top_p(0.69), &logits()), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
        assert_close(&candidates(&top_p(0.71), &logits()), &[(0, 2.0 / 9.0), (1, 4.0 / 9.0), (3, 3.0 / 9.0)]);
        assert_close(&candidates(&top_p(1e-9), &logits()), &[(1, 1.0)]);
        // Temperature first: squared probabilities 16 : 9 : 4 : 1, of which 25/30 reach 0.8.
        let both = Sampling { temperature: 0.5, top_k: Some(3), top_p: Some(0.8), seed: 0 };
        assert_close(&candidates(&both, &logits()), &[(1, 16.0 / 25.0), (3, 9.0 / 25.0)]);
        // Top-k before top-p: of the three that stay, two have 7/9; of all four they would have 7/10.
        let both = Sampling { top_k: Some(3), top_p: Some(0.75), ..Sampling::default() };
        assert_close(&candidates(&both, &logits()), &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)]);
    }

    #[test]
    fn filters_leave_what_those_of_transformers_leave() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/sampling.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 8);
        for case in cases {
            let numbers = |key: &str| serde_json::from_value::<Vec<f64>>(case[key].clone()).unwrap();
            let logits: Vec<f32> = numbers("logits").into_iter().map(|x| x as f32).collect();
            let expected = (0..).zip(numbers("probabilities")).filter(|(_, p)| *p > 0.0);
            let sampling = Sampling {
                temperature: case["temperature"].as_f64().unwrap(),
                top_k: case["top_k"].as_u64().map(|k| k as usize),
                top_p: case["top_p"].as_f64(),
                seed: 0,
            };
            assert_close(&candidates(&sampling, &logits), &expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn ties_with_the_last_of_top_k_stay_and_greedy_takes_the_first() {
        let tied = [1f32, 2.0, 1.0, 0.0, 1.0];
        let top_k = Sampling { top_k: Some(2), ..Sampling::default() };
        let kept: Vec<u32> = candidates(&top_k, &tied).iter().map(|(token, _)| *token).collect();
        assert_eq!(kept, [0, 1, 2, 4]);
        assert_eq!(Sampling::greedy().choose(&[0.0, 3.0, 3.0], 0), 1);
        for logits in [&[-0.0, 0.0, 0.0, -0.0][..], &[-1.0], &[-2.0, -1.0, -1.0, -3.0], &tied] {
            let mut expected: Vec<u32> = (0..logits.len() as u32).collect();
            expected.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            for n in 1..=logits.len() + 1 {
                assert_eq!(likeliest(logits, n), expected[..n.min(expected.len())], "{n} of {logits:?}");
            }
        }
        assert_eq!(likeliest(&tied, 3), [1, 0, 2]);
    }

    #[test]
    fn draws_have_the_distribution_of_the_candidates() {
        const N: u64 = 40_000;
        for (top_k, top_p) in [(None, None), (Some(3), None), (None, Some(0.85)), (Some(3), Some(0.95))] {
            let sampling = Sampling { temperature: 0.8, top_k, top_p, seed: 11 };
            let mut counts = [0u64; 4];
            (0..N).for_each(|i| counts[sampling.choose(&logits(), i) as usize] += 1);
            let expected = sampling.candidates(&logits());
            for (token, count) in counts.into_iter().enumerate() {
                let probability =
                    expected.iter().find(|(t, _)| *t as usize == token).map_or(0.0, |(_, p)| *p);
                // Five standard deviations of a binomial count; a token filtered out never comes.
                let deviation = (N as f64 * probability * (1.0 - probability)).sqrt();
                let error = (count as f64 - N as f64 * probability).abs();
                assert!(error <= 5.0 * deviation, "{sampling:?}: token {token} came {count} times");
            }
        }
    }

    #[test]
    fn a_tiny_temperature_is_greedy_and_not_an_overflow() {
        let sampling = Sampling { temperature: 1e-300, ..Sampling::default() };
        assert!((0..100).all(|i| sampling.choose(&logits(), i) == 1));
    }
}
