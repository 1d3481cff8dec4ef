//! Gradients that are rounded to bfloat16 on a CPU, where they stay in memory of `f32`.

use rayon::prelude::*;

use crate::bf16::{GradientNoise, at_random, widen};

/// Elements that one thread rounds at once.
const BLOCK: usize = 1 << 14;

/// Rounds sums at random to numbers of bfloat16, on rayon's threads; the first is number `first` of the flat buffer.
pub fn round_par(sums: &mut [f32], first: usize, noise: GradientNoise) {
    sums.par_chunks_mut(BLOCK).enumerate().for_each(|(idx, block)| {
        let first = first + idx * BLOCK;
        let halves = noise.halves(first..first + block.len());
        block.iter_mut().zip(halves).for_each(|(sum, half)| *sum = widen(at_random(*sum, half)));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each addition is less than half the distance of neighbours at 1, so rounding to the nearest would keep 1 for ever.
    #[test]
    fn what_is_less_than_half_a_neighbours_distance_adds_up() {
        const N: usize = 4096;
        const N_MICRO_BATCHES: usize = 64;
        let added = 0.1 / 128.0;
        let mut sums = vec![1.0; N];
        for first_sequence in 0..N_MICRO_BATCHES {
            sums.iter_mut().for_each(|sum| *sum += added);
            round_par(&mut sums, 5, GradientNoise::of_micro_batch(1, 2, first_sequence));
        }
        assert!(sums.iter().all(|sum| sum.to_bits() & 0xffff == 0), "sums are numbers of bfloat16");
        let mean = sums.iter().map(|&sum| f64::from(sum)).sum::<f64>() / N as f64;
        let expected = 1.0 + f64::from(added) * N_MICRO_BATCHES as f64;
        // Each rounding moves a sum by 0.3 of a neighbour's distance, 1/128: their deviation over 64 and of a mean of 4096.
        let deviation = 0.3 / 128.0 * (N_MICRO_BATCHES as f64 / N as f64).sqrt();
        assert!((mean - expected).abs() < 4.0 * deviation, "{mean} where {expected} was added up");
        assert!(sums.iter().any(|sum| *sum != sums[0]), "neighbours are rounded independently");
    }

    #[test]
    fn a_sum_is_rounded_alike_wherever_a_part_begins() {
        let sums: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.37).sin()).collect();
        let noise = GradientNoise::of_micro_batch(7, 3, 5);
        let mut whole = sums.clone();
        round_par(&mut whole, 16, noise);
        for start in [1, 7, 8, 17_001] {
            let mut part = sums[start..].to_vec();
            round_par(&mut part, 16 + start, noise);
            assert!(part == whole[start..], "from {start} on");
        }
        for other in [(8, 3, 5), (7, 4, 5), (7, 3, 6)] {
            let mut rounded = sums.clone();
            round_par(&mut rounded, 16, GradientNoise::of_micro_batch(other.0, other.1, other.2));
            assert!(rounded != whole, "{other:?} has the same numbers");
        }
    }
}
