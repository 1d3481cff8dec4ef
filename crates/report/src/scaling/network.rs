//! How long collectives take: rings over NVLink within a machine and over the network between machines.

use serde::Serialize;
use wattle_runlog::Seconds;

/// What NVLink carries for each GPU in a ring, in gigabytes a second, where none is given.
///
/// # References
/// H100 SXM: 450 GB/s in each direction by its data sheet, of which NCCL's rings get 365 to 370 on 2 to 8 GPUs
/// (<https://github.com/NVIDIA/nccl/issues/1455>).
pub const NVLINK_GBYTES: f64 = 360.0;

/// Latency of a hop over NVLink, in microseconds.
///
/// # References
/// NCCL, `src/graph/tuning.cc`, `hwLat`: ring, protocol Simple.
pub const NVLINK_HOP_US: f64 = 3.4;

/// Latency of a hop over the network, in microseconds; of the same source.
pub const NETWORK_HOP_US: f64 = 14.0;

/// What connects GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Network {
    /// GPUs that NVLink connects.
    pub gpus_per_machine: u64,
    /// What a machine sends over the network, in gigabits a second.
    pub machine_gbits: f64,
    /// What NVLink carries for each GPU, in gigabytes a second.
    pub nvlink_gbytes: f64,
    /// Latency of a hop over NVLink, in microseconds.
    pub nvlink_hop_us: f64,
    /// Latency of a hop over the network, in microseconds.
    pub network_hop_us: f64,
    /// Whether a collective is one ring within each machine and one between machines, rather than one ring
    /// through all GPUs.
    pub two_level: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            gpus_per_machine: 8,
            machine_gbits: 3_200.0,
            nvlink_gbytes: NVLINK_GBYTES,
            nvlink_hop_us: NVLINK_HOP_US,
            network_hop_us: NETWORK_HOP_US,
            two_level: false,
        }
    }
}

impl Network {
    /// A reduce-scatter or all-gather of `bytes` among `gpus`.
    ///
    /// A ring goes through the GPUs of one machine after the other, so it leaves each machine once: every link
    /// carries `bytes · (n − 1) / n`, and the slower kind of link sets the pace. Two levels send as much over the
    /// network, one after the other, with fewer hops.
    pub fn ring(&self, bytes: f64, gpus: u64) -> Seconds {
        let machines = gpus.div_ceil(self.gpus_per_machine);
        let local = gpus.min(self.gpus_per_machine);
        if self.two_level {
            return self.nvlink(bytes, local, local - 1) + self.between(bytes, machines, machines - 1);
        }
        match machines {
            1 => self.nvlink(bytes, gpus, gpus - 1),
            _ => {
                let hops = self.nvlink_hops(gpus - machines) + self.network_hops(machines - 1);
                let over_network = Seconds(turns(bytes, gpus) / self.network_bytes());
                let over_nvlink = Seconds(turns(bytes, gpus) / self.nvlink_bytes());
                let is_alone = local == 1;
                hops + if is_alone || over_network > over_nvlink { over_network } else { over_nvlink }
            }
        }
    }

    /// An all-reduce of each shard of `bytes` among the groups of `shard` GPUs that hold the same shards.
    pub fn between_groups(&self, bytes: f64, shard: u64, gpus: u64) -> Seconds {
        let groups = gpus.div_ceil(shard);
        let own = bytes / shard as f64;
        match gpus <= self.gpus_per_machine {
            true => self.nvlink(2.0 * own, groups, 2 * (groups - 1)),
            // The GPUs of a machine share its network, each with a shard of its own.
            false => {
                let local = self.gpus_per_machine as f64;
                self.between(2.0 * own * local, groups, 2 * (groups - 1))
            }
        }
    }

    /// A number that all GPUs agree on: up a tree and down again.
    pub fn agree(&self, gpus: u64) -> Seconds {
        let levels = |n: u64| u64::from(n.next_power_of_two().trailing_zeros());
        let local = levels(gpus.min(self.gpus_per_machine));
        let machines = levels(gpus.div_ceil(self.gpus_per_machine));
        self.nvlink_hops(2 * local) + self.network_hops(2 * machines)
    }

    fn nvlink(&self, bytes: f64, n: u64, hops: u64) -> Seconds {
        Seconds(turns(bytes, n) / self.nvlink_bytes()) + self.nvlink_hops(hops)
    }

    fn between(&self, bytes: f64, n: u64, hops: u64) -> Seconds {
        Seconds(turns(bytes, n) / self.network_bytes()) + self.network_hops(hops)
    }

    fn nvlink_bytes(&self) -> f64 {
        self.nvlink_gbytes * 1e9
    }

    fn network_bytes(&self) -> f64 {
        self.machine_gbits * 1e9 / 8.0
    }

    fn nvlink_hops(&self, hops: u64) -> Seconds {
        Seconds(hops as f64 * self.nvlink_hop_us / 1e6)
    }

    fn network_hops(&self, hops: u64) -> Seconds {
        Seconds(hops as f64 * self.network_hop_us / 1e6)
    }
}

/// What each of `n` sends of `bytes` in a ring.
fn turns(bytes: f64, n: u64) -> f64 {
    bytes * (n - 1) as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(time: Seconds, ms: f64) -> bool {
        (time.get() * 1e3 / ms - 1.0).abs() < 1e-9
    }

    #[test]
    fn a_ring_by_hand() {
        let network =
            Network { machine_gbits: 400.0, nvlink_hop_us: 0.0, network_hop_us: 0.0, ..Network::default() };
        assert!(close(network.ring(360e9, 8), 875.0), "seven eighths over NVLink");
        // 50 GB/s leave a machine.
        assert!(close(network.ring(50e9, 64), 1e3 * 63.0 / 64.0));
        let fast = Network { machine_gbits: 3_200.0, ..network };
        assert!(close(fast.ring(360e9, 64), 1e3 * 63.0 / 64.0), "NVLink is slower than 400 GB/s");
        let single = Network { gpus_per_machine: 1, ..fast };
        assert!(close(single.ring(400e9, 2), 500.0), "NVLink leads nowhere");
        let levels = Network { two_level: true, ..network };
        assert!(close(levels.ring(50e9, 64), 1e3 * (50.0 / 360.0 * 7.0 / 8.0 + 7.0 / 8.0)));
        assert_eq!(network.ring(1e9, 1), Seconds::ZERO);
    }

    #[test]
    fn hops_by_hand() {
        let network = Network::default();
        assert!(close(network.ring(0.0, 64), (56.0 * 3.4 + 7.0 * 14.0) / 1e3));
        let levels = Network { two_level: true, ..network };
        assert!(close(levels.ring(0.0, 64), (7.0 * 3.4 + 7.0 * 14.0) / 1e3));
        assert!(close(network.agree(64), (6.0 * 3.4 + 6.0 * 14.0) / 1e3));
    }

    #[test]
    fn groups_add_their_shards() {
        let network =
            Network { nvlink_hop_us: 0.0, network_hop_us: 0.0, machine_gbits: 400.0, ..Network::default() };
        assert_eq!(network.between_groups(1e9, 64, 64), Seconds::ZERO);
        // 16 groups; a machine's eight shards of 1/64 are an eighth of the bytes, there and back.
        assert!(close(network.between_groups(50e9, 64, 1024), 1e3 / 8.0 * 2.0 * 15.0 / 16.0));
        assert!(close(network.between_groups(360e9, 4, 8), 1e3 / 4.0 * 2.0 / 2.0));
    }
}
