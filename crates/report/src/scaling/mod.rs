//! What N GPUs would do with a step that one GPU was measured at: data-parallel training with ZeRO-1.
//!
//! Each GPU computes its measured step. What the collectives add to it is what does not fit beside the computation:
//! gradients are reduce-scattered bucket by bucket during the backward pass, updated weights are gathered after
//! AdamW. Time comes from bytes, bandwidths and hops ([`network`]); every figure that was not measured is an
//! [`Assumption`] with its source.

pub mod measured;
pub mod network;

mod assumptions;
#[cfg(test)]
mod published;
mod text;

use serde::Serialize;
use wattle_runlog::{Joules, Seconds, Watts};

use crate::estimate::Assumption;

pub use measured::Measured;
pub use network::Network;
pub use text::text;

/// Name and version of the format of a simulation.
pub const SCALING_SCHEMA: &str = "wattle.scaling/1";

/// Share of a step that is its backward pass: four of six floating-point operations a parameter and token.
///
/// # References
/// Kaplan et al. 2020 (arXiv 2001.08361), section 2.1.
pub const BACKWARD_SHARE: f64 = 2.0 / 3.0;

/// Power of a GPU that waits in a collective, over its power while it computes.
///
/// # References
/// Fernandez et al. 2024 (arXiv 2411.13055): from 128 to 2,048 H100s the throughput of each falls by 37.22 % and its
/// power by 5.87 %. If the added time is all waiting, its power is (0.9413 − 0.6278) / 0.3722 of the other.
pub const WAITING_SHARE: f64 = 0.84;

/// How the model is trained on many GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Strategy {
    /// Bytes a parameter that are reduce-scattered in a step.
    pub gradient_bytes: f64,
    /// Bytes a parameter that are gathered in a step.
    pub weight_bytes: f64,
    /// GPUs among which the optimizer state is sharded; `None` for all.
    pub shard: Option<u64>,
    /// Bytes of gradients that are reduced together.
    pub bucket_bytes: f64,
    /// Share of a step that is its backward pass.
    pub backward_share: f64,
    /// Share of the backward pass that communication may overlap.
    pub overlap: f64,
    /// Whether weights are gathered during the next forward pass rather than before it.
    pub gather_under_forward: bool,
    /// Power while waiting, over power while computing.
    pub waiting_share: f64,
}

impl Default for Strategy {
    fn default() -> Self {
        Self {
            gradient_bytes: 4.0,
            weight_bytes: 2.0,
            shard: None,
            bucket_bytes: 1e9,
            backward_share: BACKWARD_SHARE,
            overlap: 1.0,
            gather_under_forward: false,
            waiting_share: WAITING_SHARE,
        }
    }
}

/// What is to be simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The step of one GPU.
    pub measured: Measured,
    /// What connects the GPUs.
    pub network: Network,
    /// How they train.
    pub strategy: Strategy,
    /// How many there are at most.
    pub gpus: u64,
}

/// A simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaling {
    /// [`SCALING_SCHEMA`].
    pub schema: &'static str,
    /// The step of one GPU.
    pub measured: Measured,
    /// What connects the GPUs.
    pub network: Network,
    /// How they train.
    pub strategy: Strategy,
    /// From one GPU to all of them.
    pub points: Vec<Point>,
    /// What all this rests on.
    pub assumptions: Vec<Assumption>,
}

/// What a number of GPUs would do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// How many GPUs.
    pub gpus: u64,
    /// Time of a step.
    pub step_s: Seconds,
    /// The part of it in which a GPU waits for gradients.
    pub reduce_wait_s: Seconds,
    /// The part of it in which a GPU waits for weights.
    pub gather_wait_s: Seconds,
    /// Tokens a second over as many times one GPU's.
    pub efficiency: f64,
    /// Tokens a second of all GPUs.
    pub tokens_per_s: f64,
    /// Energy of a step of all GPUs, without the network's; null where no power was measured.
    pub step_j: Option<Joules>,
    /// That energy over its tokens.
    pub joules_per_token: Option<f64>,
}

impl Scaling {
    /// The simulation as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a simulation is plain data")
    }
}

impl Cluster {
    /// Every fault of the cluster, each a sentence that begins with its flag.
    pub fn faults(&self) -> Vec<String> {
        let (network, strategy) = (&self.network, &self.strategy);
        let mut faults = Vec::new();
        let whole = [("--gpus", self.gpus), ("--gpus-per-machine", network.gpus_per_machine)];
        faults.extend(
            whole.iter().filter(|(_, n)| *n == 0).map(|(flag, _)| format!("{flag} 0: expected at least 1")),
        );
        let above_zero = [
            ("--network", network.machine_gbits),
            ("--nvlink", network.nvlink_gbytes),
            ("--gradient-bytes", strategy.gradient_bytes),
            ("--weight-bytes", strategy.weight_bytes),
            ("--bucket-mb", strategy.bucket_bytes),
        ];
        let is_amount = |value: f64| value > 0.0 && value.is_finite();
        let fault = |(flag, value): &(&str, f64)| format!("{flag} {value}: expected a number above 0");
        faults.extend(above_zero.iter().filter(|(_, value)| !is_amount(*value)).map(fault));
        let hops = [("--nvlink-hop-us", network.nvlink_hop_us), ("--network-hop-us", network.network_hop_us)];
        let fault = |(flag, value): &(&str, f64)| format!("{flag} {value}: expected a number of at least 0");
        faults.extend(hops.iter().filter(|(_, us)| !(*us >= 0.0 && us.is_finite())).map(fault));
        let shares = [
            ("--backward-share", strategy.backward_share),
            ("--overlap", strategy.overlap),
            ("--waiting-share", strategy.waiting_share),
        ];
        let fault = |(flag, value): &(&str, f64)| format!("{flag} {value}: expected a share from 0 to 1");
        faults.extend(shares.iter().filter(|(_, share)| !(0.0..=1.0).contains(share)).map(fault));
        faults.extend(self.shard_fault());
        faults
    }

    /// Shards are equal, and a group of several machines consists of whole ones.
    fn shard_fault(&self) -> Option<String> {
        let shard = self.strategy.shard?;
        let machine = self.network.gpus_per_machine.max(1);
        if shard == 0 || !self.gpus.is_multiple_of(shard) {
            return Some(format!("--shard {shard}: expected a divisor of --gpus {}", self.gpus));
        }
        let is_even =
            if shard < machine { machine.is_multiple_of(shard) } else { shard.is_multiple_of(machine) };
        (!is_even).then(|| {
            format!("--shard {shard}: expected a divisor or a multiple of --gpus-per-machine {machine}")
        })
    }

    /// What the GPUs would do; the cluster has no [faults](Self::faults).
    pub fn simulate(&self) -> Scaling {
        Scaling {
            schema: SCALING_SCHEMA,
            measured: self.measured.clone(),
            network: self.network,
            strategy: self.strategy,
            points: self.sizes().into_iter().map(|gpus| self.point(gpus)).collect(),
            assumptions: self.assumptions(),
        }
    }

    /// One GPU, one machine, twice as many again and again, all of them.
    fn sizes(&self) -> Vec<u64> {
        let machines = std::iter::successors(Some(self.network.gpus_per_machine), |gpus| gpus.checked_mul(2));
        let mut sizes = vec![1];
        sizes.extend(machines.take_while(|gpus| *gpus < self.gpus));
        sizes.push(self.gpus);
        sizes.dedup();
        sizes
    }

    /// What `gpus` of them would do.
    pub fn point(&self, gpus: u64) -> Point {
        let (measured, strategy) = (&self.measured, &self.strategy);
        let (reduce_wait_s, gather_wait_s) = match gpus {
            1 => (Seconds::ZERO, Seconds::ZERO),
            _ => (self.reduce_wait(gpus), self.gather_wait(gpus)),
        };
        let waiting = reduce_wait_s + gather_wait_s;
        let step_s = measured.step_s + waiting;
        let tokens = measured.tokens * gpus as f64;
        let energy =
            |power: Watts| (power * measured.step_s + power * waiting * strategy.waiting_share) * gpus as f64;
        let step_j = measured.power_w.map(energy);
        Point {
            gpus,
            step_s,
            reduce_wait_s,
            gather_wait_s,
            efficiency: measured.step_s / step_s,
            tokens_per_s: tokens / step_s.get(),
            step_j,
            joules_per_token: step_j.map(|energy| energy.get() / tokens),
        }
    }

    /// Buckets of a step.
    fn buckets(&self) -> f64 {
        let gradients = self.measured.parameters * self.strategy.gradient_bytes;
        (gradients / self.strategy.bucket_bytes).ceil().max(1.0)
    }

    /// The optimizer state of `gpus` is sharded among so many.
    fn shard(&self, gpus: u64) -> u64 {
        self.strategy.shard.unwrap_or(gpus).min(gpus)
    }

    /// Gradients: a reduce-scatter among the GPUs that share a state, then an all-reduce of each shard among the
    /// groups that do; and the norm, which all must know before AdamW.
    fn reduce_wait(&self, gpus: u64) -> Seconds {
        let (shard, buckets) = (self.shard(gpus), self.buckets());
        let bytes = self.measured.parameters * self.strategy.gradient_bytes / buckets;
        let bucket = self.network.ring(bytes, shard) + self.network.between_groups(bytes, shard, gpus);
        let backward = self.measured.step_s * self.strategy.backward_share * self.strategy.overlap;
        exposed(bucket, buckets, backward) + self.network.agree(gpus)
    }

    /// Weights: an all-gather among the GPUs that share a state.
    fn gather_wait(&self, gpus: u64) -> Seconds {
        let buckets = self.buckets();
        let bytes = self.measured.parameters * self.strategy.weight_bytes / buckets;
        let bucket = self.network.ring(bytes, self.shard(gpus));
        let forward = match self.strategy.gather_under_forward {
            true => self.measured.step_s * (1.0 - self.strategy.backward_share) * self.strategy.overlap,
            false => Seconds::ZERO,
        };
        exposed(bucket, buckets, forward)
    }
}

/// How much of `buckets` collectives, each as long as `bucket`, a pass of computing does not cover.
///
/// Buckets become ready at equal intervals, the first after one interval and the last with the pass's end. Either
/// the last one alone is left, or the collectives are behind since the first one.
fn exposed(bucket: Seconds, buckets: f64, pass: Seconds) -> Seconds {
    let behind = bucket * buckets - pass * ((buckets - 1.0) / buckets);
    if behind > bucket { behind } else { bucket }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn cluster(gpus: u64) -> Cluster {
        // DIST's paper case: 1.56 B parameters, 16,384 tokens in 387 ms.
        let measured = Measured {
            run: "paper".to_owned(),
            parameters: 1.56e9,
            tokens: 16_384.0,
            step_s: Seconds(0.387),
            steps: 1,
            power_w: Some(Watts(700.0)),
            estimated_share: Some(0.0),
        };
        let network = Network { machine_gbits: 3_200.0, ..Network::default() };
        Cluster { measured, network, strategy: Strategy::default(), gpus }
    }

    #[test]
    fn one_gpu_is_what_was_measured() {
        let point = cluster(8).point(1);
        assert_eq!((point.step_s, point.efficiency), (Seconds(0.387), 1.0));
        assert!((point.step_j.unwrap().get() - 700.0 * 0.387).abs() < 1e-9);
    }

    #[test]
    fn what_computing_does_not_cover_waits() {
        let ms = |ms: f64| Seconds(ms / 1e3);
        // Ready at 25, 50, 75 and 100 ms; 10 ms each: the last one ends at 110.
        assert!((exposed(ms(10.0), 4.0, ms(100.0)) - ms(10.0)).get().abs() < 1e-12);
        // 40 ms each: from 25 on without a pause, so they end at 185.
        assert!((exposed(ms(40.0), 4.0, ms(100.0)) - ms(85.0)).get().abs() < 1e-12);
        assert!((exposed(ms(40.0), 4.0, ms(0.0)) - ms(160.0)).get().abs() < 1e-12);
        assert!((exposed(ms(40.0), 1.0, ms(100.0)) - ms(40.0)).get().abs() < 1e-12);
    }

    #[test]
    fn efficiency_falls_with_gpus_and_rises_with_bandwidth_and_overlap() {
        let efficiencies: Vec<_> = cluster(1024).simulate().points.iter().map(|p| p.efficiency).collect();
        assert!(efficiencies.windows(2).all(|pair| pair[1] < pair[0]), "{efficiencies:?}");
        let at = |change: &dyn Fn(&mut Cluster)| {
            let mut cluster = cluster(1024);
            change(&mut cluster);
            cluster.point(1024).efficiency
        };
        let base = at(&|_| {});
        assert!(at(&|c| c.network.machine_gbits = 400.0) < base);
        assert!(at(&|c| c.strategy.overlap = 0.0) < base);
        assert!(at(&|c| c.strategy.gather_under_forward = true) > base);
        assert!(at(&|c| c.strategy.shard = Some(64)) > base);
        assert!(at(&|c| c.network.two_level = true) > base, "fewer hops");
    }

    #[test]
    fn waiting_costs_its_share_of_the_power() {
        let mut cluster = cluster(1024);
        let point = cluster.point(1024);
        let waiting = point.step_s.get() - 0.387;
        let expected = 1024.0 * 700.0 * (0.387 + WAITING_SHARE * waiting);
        assert!((point.step_j.unwrap().get() / expected - 1.0).abs() < 1e-12);
        cluster.measured.power_w = None;
        assert_eq!(cluster.point(1024).joules_per_token, None);
    }

    #[test]
    fn sizes_double_from_one_machine_on() {
        assert_eq!(cluster(100).sizes(), [1, 8, 16, 32, 64, 100]);
        assert_eq!(cluster(4).sizes(), [1, 4]);
        assert_eq!(cluster(1).sizes(), [1]);
        let single = Cluster { network: Network { gpus_per_machine: 1, ..Network::default() }, ..cluster(4) };
        assert_eq!(single.sizes(), [1, 2, 4]);
    }

    #[test]
    fn every_fault_is_told_with_its_flag() {
        let mut wrong = cluster(0);
        wrong.network =
            Network { machine_gbits: 0.0, nvlink_gbytes: f64::NAN, network_hop_us: -1.0, ..wrong.network };
        wrong.strategy = Strategy { overlap: 1.5, ..wrong.strategy };
        let faults = wrong.faults();
        let flags = ["--gpus 0", "--network 0", "--nvlink NaN", "--network-hop-us -1", "--overlap 1.5"];
        assert_eq!(faults.len(), flags.len(), "{faults:?}");
        assert!(faults.iter().zip(flags).all(|(fault, flag)| fault.starts_with(flag)), "{faults:?}");
        for (shard, is_fault) in [(64, false), (4, false), (48, true), (0, true), (128, false)] {
            let mut sharded = cluster(1024);
            sharded.strategy.shard = Some(shard);
            assert_eq!(!sharded.faults().is_empty(), is_fault, "{shard}");
        }
    }
}
