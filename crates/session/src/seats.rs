//! Where the ranks of a session run, for its meter and its manifest.

use serde::{Deserialize, Serialize};
use wattle_meter::Workload;
use wattle_runlog::manifest::{NodeRanks, SegmentRanks};
use wattle_train::Ranks;

use crate::error::SessionError;
use crate::together::Together;

/// Where one rank runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seat {
    node: usize,
    host: String,
    pid: u32,
}

/// Where all ranks run.
pub(crate) struct Seats {
    fabric: String,
    all: Vec<Seat>,
}

impl Seats {
    /// Learns where all ranks run. `None` for one rank alone.
    ///
    /// # Errors
    /// If a rank does not answer.
    pub(crate) fn learn(ranks: &Ranks) -> Result<Option<Self>, SessionError> {
        if !ranks.are_several() {
            return Ok(None);
        }
        let place = ranks.fabric().place();
        let own = Seat { node: place.node, host: place.host.clone(), pid: std::process::id() };
        let (together, within) = (Together::new(ranks), ranks.between_steps());
        let all = together.gather(&own, within)?.unwrap_or_default();
        Ok(Some(Self { fabric: ranks.fabric().describe(), all: together.tell(all, within)? }))
    }

    /// The processes of the leading rank's machine.
    pub(crate) fn workload(&self) -> Workload {
        self.workload_of(0)
    }

    /// The processes of a machine.
    pub(crate) fn workload_of(&self, node: usize) -> Workload {
        Workload::of_ranks(self.of_node(node).map(|seat| seat.pid).collect())
    }

    /// Ranks on each machine.
    pub(crate) fn n_ranks(&self) -> Vec<usize> {
        self.nodes().iter().map(|node| node.ranks).collect()
    }

    /// What the manifest says of them.
    pub(crate) fn of_segment(&self) -> SegmentRanks {
        SegmentRanks { world: self.all.len(), fabric: self.fabric.clone(), nodes: self.nodes() }
    }

    fn nodes(&self) -> Vec<NodeRanks> {
        let n_nodes = self.all.iter().map(|seat| seat.node + 1).max().unwrap_or(0);
        let of = |node| {
            let host = self.of_node(node).next().map_or_else(String::new, |seat| seat.host.clone());
            NodeRanks { host, ranks: self.of_node(node).count() }
        };
        (0..n_nodes).map(of).collect()
    }

    fn of_node(&self, node: usize) -> impl Iterator<Item = &Seat> {
        self.all.iter().filter(move |seat| seat.node == node)
    }
}
