//! The processes and machines of a run, in words.

use wattle_runlog::Joules;
use wattle_runlog::machine::{machine_name, machine_of};
use wattle_runlog::manifest::SegmentRanks;

use crate::join::report::Report;
use crate::words::quantity::{joules, percent};

/// How many ranks trained on how many machines, in the run's last segment; `None` for one process.
pub(crate) fn rank_words(report: &Report) -> Option<String> {
    let ranks = report.provenance.segments.last()?.ranks.as_ref()?;
    let machines = match ranks.nodes.len() {
        1 => String::new(),
        n => format!(" on {n} machines"),
    };
    Some(format!("{} ranks{machines}", ranks.world))
}

/// The ranks of a segment: how many on which machine, and what they talked by.
pub(crate) fn segment_words(ranks: &SegmentRanks) -> String {
    let nodes: Vec<String> =
        ranks.nodes.iter().map(|node| format!("{} on {}", node.ranks, node.host)).collect();
    format!("{} ranks ({}), {}", ranks.world, nodes.join(", "), ranks.fabric)
}

/// What each machine used; `None` where one did all.
pub(crate) fn node_words(report: &Report) -> Option<String> {
    let ranks = report.provenance.segments.iter().rev().find_map(|segment| segment.ranks.as_ref())?;
    if ranks.nodes.len() == 1 {
        return None;
    }
    let all: Joules = report.sensors.iter().map(|sensor| sensor.energy_j).sum();
    let of = |(idx, node): (usize, &wattle_runlog::manifest::NodeRanks)| {
        let own = report.sensors.iter().filter(|sensor| machine_of(&sensor.id) == idx);
        let energy: Joules = own.map(|sensor| sensor.energy_j).sum();
        let share = if all > Joules::ZERO { energy / all } else { 0.0 };
        let ranks = if node.ranks == 1 { "1 rank".to_owned() } else { format!("{} ranks", node.ranks) };
        format!("{} ({}, {ranks}) {}, {}", machine_name(idx), node.host, joules(energy), percent(share))
    };
    let nodes: Vec<String> = ranks.nodes.iter().enumerate().map(of).collect();
    Some(format!("by machine: {}", nodes.join(" · ")))
}
