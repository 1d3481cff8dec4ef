//! What each way of training needs to the target, held against the first.

use serde::Serialize;

use crate::compare::conditions::Condition;
use crate::compare::group::Group;
use crate::compare::verdict::Parties;

/// A group against the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Saving {
    /// The group, by its place in `groups`.
    pub group: usize,
    /// The share of the first group's energy to the target that it does without; below zero where it needs more.
    pub fraction: f64,
    /// Why the difference may be none; null where it is clear.
    pub doubt: Option<&'static str>,
}

/// Every metered group that reached the target, compared with the first. Empty if a condition blocks the comparison,
/// or the first group is unmetered or missed the target.
pub(super) fn savings(parties: &Parties<'_>, conditions: &[Condition]) -> Vec<Saving> {
    let groups = parties.groups;
    let first = groups.first().and_then(|group| group.energy_to_target_j);
    let Some(first) = first.filter(|_| conditions.iter().all(|condition| !condition.is_blocking)) else {
        return Vec::new();
    };
    let saving = |(i, group): (usize, &Group)| {
        let fraction = 1.0 - group.energy_to_target_j?.mean / first.mean;
        let outcome = if fraction >= 0.0 { parties.compare(i, 0) } else { parties.compare(0, i) };
        Some(Saving { group: i, fraction, doubt: outcome.err().map(|doubt| doubt.short) })
    };
    groups.iter().enumerate().skip(1).filter_map(saving).collect()
}

impl Saving {
    /// `−33.0 %`, with the doubt where there is one.
    pub(crate) fn words(&self) -> String {
        let percent = self.fraction * 100.0;
        let sign = if percent >= 0.0 { '−' } else { '+' };
        let doubt = self.doubt.map_or(String::new(), |doubt| format!(" ({doubt})"));
        format!("{sign}{:.1} %{doubt}", percent.abs())
    }
}
