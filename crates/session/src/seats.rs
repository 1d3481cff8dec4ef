//! Where the ranks of a session run, for its meter and its manifest.

use serde::{Deserialize, Serialize};
use wattle_meter::{TrainedOn, Workload};
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

/// Where all ranks run, as the leading one knows it.
pub(crate) struct Seats {
    fabric: String,
    all: Vec<Seat>,
}

impl Seats {
    /// Learns where all ranks run. `None` for one rank alone, and on those that do not lead.
    ///
    /// # Errors
    /// If a rank does not answer.
    pub(crate) fn learn(ranks: &Ranks) -> Result<Option<Self>, SessionError> {
        if !ranks.are_several() {
            return Ok(None);
        }
        let place = ranks.fabric().place();
        let own = Seat { node: place.node, host: place.host.clone(), pid: std::process::id() };
        let all = Together::new(ranks).gather(&own, ranks.between_steps())?;
        Ok(all.map(|all| Self { fabric: ranks.fabric().describe(), all }))
    }

    /// The processes of the leading rank's machine.
    pub(crate) fn workload(&self) -> Workload {
        Workload::of_ranks(self.of_node(self.all[0].node).map(|seat| seat.pid).collect())
    }

    /// The other machines, on which nothing is metered.
    pub(crate) fn unmetered(&self) -> Vec<TrainedOn> {
        let others = self.nodes().into_iter().skip(1);
        let name = |node: NodeRanks| format!("{} ({} ranks)", node.host, node.ranks);
        others.map(|node| TrainedOn { device: name(node), sensor: None }).collect()
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
