//! Which machine a rank runs on.
//!
//! Containers of one machine have host names of their own, and those of two machines may share one; the kernel's boot
//! id tells machines apart.

use std::env;
use std::fs;

use crate::place::Place;

/// Overrides the boot id, so that one machine can stand for several in a test.
const NODE: &str = "WATTLE_NODE";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What identifies this process's machine.
pub(crate) fn identity() -> String {
    let boot_id = || fs::read_to_string(BOOT_ID).ok().map(|text| text.trim().to_owned());
    env::var(NODE).ok().or_else(boot_id).unwrap_or_else(host)
}

/// The machine's host name.
pub(crate) fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where `rank` stands, given the identity of every rank's machine.
pub(crate) fn place(rank: usize, host: String, identities: &[String]) -> Place {
    let own = &identities[rank];
    let is_here = |identity: &&String| *identity == own;
    let mut nodes: Vec<&String> = Vec::new();
    for identity in identities {
        if !nodes.contains(&identity) {
            nodes.push(identity);
        }
    }
    Place {
        rank,
        world: identities.len(),
        local_rank: identities[..rank].iter().filter(is_here).count(),
        local_world: identities.iter().filter(is_here).count(),
        node: nodes.iter().position(is_here).expect("the own node is among all"),
        n_nodes: nodes.len(),
        host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_by_their_lowest_rank_and_ranks_within_them() {
        let identities = ["b", "a", "b", "c", "a", "b"].map(String::from);
        let places: Vec<Place> = (0..6).map(|rank| place(rank, String::from("host"), &identities)).collect();
        let of = |key: fn(&Place) -> usize| places.iter().map(key).collect::<Vec<_>>();
        assert_eq!(of(|place| place.node), [0, 1, 0, 2, 1, 0]);
        assert_eq!(of(|place| place.local_rank), [0, 0, 1, 0, 1, 2]);
        assert_eq!(of(|place| place.local_world), [3, 2, 3, 1, 2, 3]);
        assert!(places.iter().all(|place| place.n_nodes == 3 && place.world == 6));
    }
}
