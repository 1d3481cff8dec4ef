//! Where the ranks of a session run, for its meter and its manifest.

use serde::{Deserialize, Serialize};
use wattle_meter::Workload;
use wattle_runlog::ComputeDevice;
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
    device: ComputeDevice,
}

/// Where all ranks run.
pub(crate) struct Seats {
    fabric: String,
    all: Vec<Seat>,
}

impl Seats {
    /// Learns where all ranks run, and on what, as this one runs on `device`. `None` for one rank alone.
    ///
    /// # Errors
    /// If a rank does not answer.
    pub(crate) fn learn(ranks: &Ranks, device: &ComputeDevice) -> Result<Option<Self>, SessionError> {
        if !ranks.are_several() {
            return Ok(None);
        }
        let place = ranks.fabric().place();
        let (host, pid, device) = (place.host.clone(), std::process::id(), device.clone());
        let own = Seat { node: place.node, host, pid, device };
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

    /// What the ranks of a machine compute on, each device once.
    pub(crate) fn devices_of(&self, node: usize) -> Vec<ComputeDevice> {
        each_once(self.of_node(node))
    }

    /// What all ranks compute on, each device once. The processors of several machines are one.
    pub(crate) fn devices(&self) -> Vec<ComputeDevice> {
        each_once(self.all.iter())
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

fn each_once<'a>(seats: impl Iterator<Item = &'a Seat>) -> Vec<ComputeDevice> {
    seats.fold(Vec::new(), |mut devices, seat| {
        if !devices.contains(&seat.device) {
            devices.push(seat.device.clone());
        }
        devices
    })
}

#[cfg(test)]
mod tests {
    use wattle_runlog::DeviceKind;

    use super::*;

    #[test]
    fn boards_are_listed_once_and_by_machine() {
        let board = |uuid: &str| ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal: 0,
            uuid: Some(uuid.to_owned()),
            pci: None,
        };
        let seat = |node, device| Seat { node, host: "a".to_owned(), pid: 1, device };
        let all = vec![seat(0, board("a")), seat(0, board("b")), seat(0, board("a")), seat(1, board("c"))];
        let seats = Seats { fabric: String::new(), all };
        assert_eq!(seats.devices_of(0), [board("a"), board("b")]);
        assert_eq!(seats.devices_of(1), [board("c")]);
        assert_eq!(seats.devices(), [board("a"), board("b"), board("c")]);
        let cpus = vec![seat(0, ComputeDevice::cpu()), seat(1, ComputeDevice::cpu())];
        assert_eq!(Seats { fabric: String::new(), all: cpus }.devices(), [ComputeDevice::cpu()]);
    }
}
