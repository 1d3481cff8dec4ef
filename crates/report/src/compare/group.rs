//! Runs that differ in nothing but their seed and name: one way of training, tried more than once. Another power limit of
//! the board is another way.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::compare::contender::Contender;
use crate::compare::keys::{NOT_COUNTED, flat};
use crate::compare::spread::Spread;
use crate::join::report::Report;
use crate::words::quantity::watts;

/// One way of training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What it is called here: its runs' name where that is its alone, else their labels.
    pub label: String,
    /// Its runs, by their place in the comparison.
    pub runs: Vec<usize>,
    /// Lowest validation loss.
    pub best_loss: Option<Spread>,
    /// Energy in joules; null for unmetered runs.
    pub energy_j: Option<Spread>,
    /// Joules a token; null for unmetered runs.
    pub joules_per_token: Option<Spread>,
    /// Energy to the target in joules; null unless every run was metered and reached it.
    pub energy_to_target_j: Option<Spread>,
    /// Emissions to the target in grams; null unless every run was metered and reached it.
    pub emissions_to_target_g: Option<Spread>,
}

/// Runs by their configuration but for seed and name, by what they ran on and with, and by its power limit.
pub fn groups(reports: &[Report], contenders: &[Contender]) -> Vec<Group> {
    let mut ways: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let keys: Vec<_> = reports.iter().map(way).collect();
    for i in 0..reports.len() {
        let first = keys.iter().position(|key| *key == keys[i]).unwrap_or(i);
        ways.entry(first).or_default().push(i);
    }
    let mut groups: Vec<_> = ways.into_values().map(|runs| Group::of(runs, contenders)).collect();
    name_by_run(&mut groups, reports);
    groups
}

/// Calls a group of several runs by the name that they share, if no other group has it.
fn name_by_run(groups: &mut [Group], reports: &[Report]) {
    let shared = |group: &Group| {
        let name = &reports[*group.runs.first()?].name;
        group.runs.iter().all(|run| reports[*run].name == *name).then(|| name.clone())
    };
    let names: Vec<_> = groups.iter().map(shared).collect();
    for (i, group) in groups.iter_mut().enumerate() {
        let is_its_alone = names.iter().filter(|name| **name == names[i]).count() == 1;
        if let Some(name) = names[i].clone().filter(|_| is_its_alone && group.runs.len() > 1) {
            group.label = name;
        }
    }
}

/// What makes a run another way of training than another: configuration, data, what it ran on, and the power limit that
/// this was held to.
fn way(report: &Report) -> (BTreeMap<String, String>, Option<String>, String, String) {
    let data = report.provenance.data.as_ref().map(|data| data.sha256.clone());
    (configured(report), data, report.provenance.computed_on(), power_limits(report))
}

/// Its configuration, but for seed and name.
pub(crate) fn configured(report: &Report) -> BTreeMap<String, String> {
    let mut config = flat(&report.config);
    NOT_COUNTED.iter().for_each(|key| {
        config.remove(*key);
    });
    config
}

/// The power limits of the boards that were metered.
pub(crate) fn power_limits(report: &Report) -> String {
    let limits = report.provenance.sensors.iter().filter_map(|sensor| sensor.limits);
    limits.map(|limits| watts(limits.enforced_w)).collect::<Vec<_>>().join(", ")
}

impl Group {
    fn of(runs: Vec<usize>, contenders: &[Contender]) -> Self {
        let members = || runs.iter().map(|i| &contenders[*i]);
        let labels: Vec<_> = members().map(|contender| contender.label.as_str()).collect();
        let known = |figure: fn(&Contender) -> Option<f64>| Spread::of(members().map(figure));
        let metered = |figure: fn(&Contender) -> Option<f64>| {
            Spread::of(members().map(|run| figure(run).filter(|_| run.is_metered())))
        };
        Self {
            label: match labels.as_slice() {
                [first, rest @ ..] if rest.len() > 2 => format!("{first} and {} more", rest.len()),
                few => few.join(", "),
            },
            best_loss: known(|run| run.best_loss),
            energy_j: metered(|run| Some(run.energy_j.get())),
            joules_per_token: metered(|run| run.joules_per_token),
            energy_to_target_j: metered(|run| Some(run.to_target?.at.energy_j.get())),
            emissions_to_target_g: metered(|run| Some(run.to_target?.at.emissions_g.get())),
            runs,
        }
    }
}

/// The Pareto front of mean best loss and mean energy, cheapest first. Unmetered groups are excluded.
pub fn pareto_front(groups: &[Group]) -> Vec<usize> {
    let place = |i: usize| Some((groups[i].energy_j?.mean, groups[i].best_loss?.mean));
    let is_beaten = |i: usize| {
        let Some((energy, loss)) = place(i) else { return true };
        (0..groups.len()).filter_map(place).any(|(other_energy, other_loss)| {
            other_energy <= energy && other_loss <= loss && (other_energy < energy || other_loss < loss)
        })
    };
    let mut front: Vec<_> = (0..groups.len()).filter(|i| !is_beaten(*i)).collect();
    let energy = |i: usize| groups[i].energy_j.map_or(f64::INFINITY, |energy| energy.mean);
    front.sort_by(|a, b| energy(*a).total_cmp(&energy(*b)));
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(energy: f64, loss: Option<f64>) -> Group {
        let spread = |x: f64| Spread { mean: x, low: x, high: x };
        Group {
            label: String::new(),
            runs: vec![0],
            best_loss: loss.map(spread),
            energy_j: Some(spread(energy)),
            joules_per_token: None,
            energy_to_target_j: None,
            emissions_to_target_g: None,
        }
    }

    #[test]
    fn the_front_is_what_nobody_beats_in_both() {
        let unmetered = Group { energy_j: None, ..group(1.0, Some(2.0)) };
        let groups = [
            group(100.0, Some(3.0)),
            group(50.0, Some(4.0)),
            group(120.0, Some(3.5)),
            group(10.0, None),
            unmetered,
        ];
        assert_eq!(pareto_front(&groups), [1, 0]);
    }
}
