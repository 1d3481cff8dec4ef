//! Which rank a process is, of how many, on which machine.

/// Where a process stands among those that train together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 0. Rank 0 writes the run directory.
    pub rank: usize,
    /// Number of ranks.
    pub world: usize,
    /// Its number among the ranks of its machine, from 0.
    pub local_rank: usize,
    /// Ranks on its machine.
    pub local_world: usize,
    /// Number of its machine, from 0, in the order of their lowest ranks.
    pub node: usize,
    /// Number of machines.
    pub n_nodes: usize,
    /// Name of its machine.
    pub host: String,
}

impl Place {
    /// One rank alone.
    pub fn solo() -> Self {
        let host = String::from("localhost");
        Self { rank: 0, world: 1, local_rank: 0, local_world: 1, node: 0, n_nodes: 1, host }
    }

    /// Whether it writes what all ranks share.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// Whether it has the lowest rank of its machine.
    pub fn leads_node(&self) -> bool {
        self.local_rank == 0
    }
}
