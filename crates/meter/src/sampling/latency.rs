//! How long rounds of readings take: a histogram of fixed size.

use wattle_runlog::Seconds;

/// Each doubling of the time has so many buckets, so that a quantile is good to an eighth.
const PER_DOUBLING: u64 = 8;
const BUCKETS: usize = 256;

/// Counts of rounds by how many microseconds they took.
pub(crate) struct Latency {
    counts: [u32; BUCKETS],
    total: u64,
}

impl Latency {
    pub(crate) fn new() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }

    pub(crate) fn add(&mut self, time: Seconds) {
        let bucket = bucket((time.get() * 1e6) as u64);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total += 1;
    }

    /// The time that a share `q` of the rounds did not exceed, in microseconds; `None` before the first.
    pub(crate) fn quantile_us(&self, q: f64) -> Option<f64> {
        let rank = (q * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.counts.iter().enumerate().find_map(|(bucket, count)| {
            seen += u64::from(*count);
            (seen >= rank && self.total > 0).then(|| upper_us(bucket))
        })
    }
}

/// Exact below [`PER_DOUBLING`] microseconds, then a doubling and the eighth of it.
fn bucket(us: u64) -> usize {
    if us < PER_DOUBLING {
        return us as usize;
    }
    let doubling = u64::from(us.ilog2() - PER_DOUBLING.ilog2());
    let eighth = (us >> doubling) - PER_DOUBLING;
    ((doubling + 1) * PER_DOUBLING + eighth).min(BUCKETS as u64 - 1) as usize
}

/// The first microsecond that no longer falls into a bucket.
fn upper_us(bucket: usize) -> f64 {
    let (doubling, eighth) = (bucket as u64 / PER_DOUBLING, bucket as u64 % PER_DOUBLING);
    match doubling {
        0 => (eighth + 1) as f64,
        _ => (PER_DOUBLING + eighth + 1) as f64 * 2f64.powi(doubling as i32 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_below_the_end_of_its_bucket_and_near_it() {
        for us in (0..100_000).chain([1 << 30]) {
            let upper = upper_us(bucket(us));
            assert!((us as f64) < upper && upper <= us as f64 * 1.125 + 1.0, "{us}: {upper}");
        }
    }

    #[test]
    fn quantiles_are_quantiles() {
        let mut latency = Latency::new();
        assert_eq!(latency.quantile_us(0.5), None);
        for us in 1..=100 {
            latency.add(Seconds(f64::from(us) * 1e-6 + 1e-9));
        }
        let (p50, p99) = (latency.quantile_us(0.5).unwrap(), latency.quantile_us(0.99).unwrap());
        assert!((50.0..=57.0).contains(&p50) && (99.0..=112.0).contains(&p99), "{p50} {p99}");
    }
}
