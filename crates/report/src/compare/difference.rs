//! What is configured differently: the keys, and each run's values.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::compare::group::Group;
use crate::compare::keys::{NOT_COUNTED, flat};
use crate::join::report::Report;

/// A key of the configuration that is not the same in all runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The key, as `section.key`.
    pub key: String,
    /// Each run's value as TOML; null where the run has none.
    pub values: Vec<Option<String>>,
}

/// Every key that differs.
pub fn differences(reports: &[Report]) -> Vec<Difference> {
    let configs: Vec<_> = reports.iter().map(|report| flat(&report.config)).collect();
    let keys: BTreeSet<&String> = configs.iter().flat_map(BTreeMap::keys).collect();
    let difference = |key: &String| {
        let values: Vec<_> = configs.iter().map(|config| config.get(key).cloned()).collect();
        let is_same = values.windows(2).all(|pair| pair[0] == pair[1]);
        (!is_same).then(|| Difference { key: key.clone(), values })
    };
    keys.into_iter().filter_map(difference).collect()
}

/// What a way of training changes against the first: key, the first's value, its own.
pub(crate) type Change<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

/// What each group changes against the first, but for seeds and names.
pub(crate) fn changes<'a>(differences: &'a [Difference], groups: &[Group]) -> Vec<Vec<Change<'a>>> {
    let Some(first) = groups.first().and_then(|group| group.runs.first()) else { return Vec::new() };
    let counted = || differences.iter().filter(|difference| !NOT_COUNTED.contains(&difference.key.as_str()));
    let of_group = |group: &Group| {
        let run = group.runs.first().copied().unwrap_or_default();
        let change = |difference: &'a Difference| {
            let (old, new) = (difference.values[*first].as_deref(), difference.values[run].as_deref());
            (old != new).then_some((difference.key.as_str(), old, new))
        };
        counted().filter_map(change).collect()
    };
    groups.iter().map(of_group).collect()
}
