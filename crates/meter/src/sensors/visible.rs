//! Which boards CUDA shows a program: `CUDA_VISIBLE_DEVICES`, resolved through the driver's own names.
//!
//! An entry is a UUID or its beginning, an instance of a divided board (`MIG-…`), or a number. CUDA counts boards
//! from the fastest on, unless `CUDA_DEVICE_ORDER=PCI_BUS_ID`; NVML counts by address. So a number is certain
//! only in that order, with a single board, or where all boards are named; elsewhere it is a guess, and whoever
//! takes it says so.
//!
//! # References
//! CUDA C++ Programming Guide, "CUDA Environment Variables"

use std::env;

use crate::sensors::nvml::{Board, pci_address};

/// What the environment tells of boards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VisibleDevices {
    /// `CUDA_VISIBLE_DEVICES`
    pub list: Option<String>,
    /// Whether `CUDA_DEVICE_ORDER` is `PCI_BUS_ID`.
    pub by_pci: bool,
}

/// A board that CUDA shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown<'a> {
    pub(crate) board: &'a Board,
    /// Whether it is known to be this one, and not taken for it by its number.
    pub(crate) is_certain: bool,
}

impl VisibleDevices {
    /// As this process's environment has it.
    pub fn from_env() -> Self {
        Self {
            list: env::var("CUDA_VISIBLE_DEVICES").ok(),
            by_pci: env::var("CUDA_DEVICE_ORDER").is_ok_and(|order| order == "PCI_BUS_ID"),
        }
    }

    /// The boards in CUDA's order, each with the number that CUDA gives it. `parent` finds the UUID of the board
    /// that an instance belongs to.
    pub(crate) fn shown<'a>(
        &self,
        boards: &'a [Board],
        parent: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<Shown<'a>> {
        let mut by_number: Vec<&Board> = boards.iter().collect();
        if self.by_pci {
            by_number.sort_by_key(|board| board.pci.as_deref().and_then(pci_address));
        }
        let in_order = self.by_pci || boards.len() == 1;
        let Some(list) = &self.list else {
            return by_number.into_iter().map(|board| Shown { board, is_certain: in_order }).collect();
        };
        // CUDA stops at the first entry that names nothing.
        list.split(',').map_while(|entry| named(entry.trim(), &by_number, in_order, parent)).collect()
    }
}

fn named<'a>(
    entry: &str,
    by_number: &[&'a Board],
    in_order: bool,
    parent: &dyn Fn(&str) -> Option<String>,
) -> Option<Shown<'a>> {
    let certain = |board: &'a Board| Shown { board, is_certain: true };
    let by_uuid = |uuid: &str| by_number.iter().copied().find(|board| board.has_uuid(uuid)).map(certain);
    if let Ok(number) = entry.parse::<usize>() {
        return by_number.get(number).map(|board| Shown { board, is_certain: in_order });
    }
    if let Some(instance) = entry.strip_prefix("MIG-GPU-") {
        // The older form: the board's UUID, and the numbers of instances.
        return by_uuid(instance.split('/').next().unwrap_or(instance));
    }
    if entry.starts_with("MIG-") {
        return parent(entry).and_then(|uuid| by_uuid(&uuid));
    }
    let begins = |board: &&&Board| board.uuid.as_deref().is_some_and(|uuid| uuid.starts_with(entry));
    entry.starts_with("GPU-").then(|| by_number.iter().find(begins).copied().map(certain)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boards() -> Vec<Board> {
        // NVML's first has the higher address.
        let board = |index: u32, bus: &str| Board {
            index,
            name: "board".to_owned(),
            uuid: Some(format!("GPU-{index}a")),
            pci: Some(format!("00000000:{bus}:00.0")),
        };
        vec![board(0, "3B"), board(1, "0A"), board(2, "5E")]
    }

    fn shown(list: Option<&str>, by_pci: bool, boards: &[Board]) -> Vec<(u32, bool)> {
        let visible = VisibleDevices { list: list.map(str::to_owned), by_pci };
        let parent = |instance: &str| (instance == "MIG-77").then(|| "GPU-2a".to_owned());
        visible.shown(boards, &parent).iter().map(|s| (s.board.index, s.is_certain)).collect()
    }

    #[test]
    fn names_are_certain_and_numbers_are_not() {
        let boards = boards();
        assert_eq!(shown(Some("GPU-2a,GPU-0"), false, &boards), [(2, true), (0, true)]);
        assert_eq!(shown(Some("1, GPU-2a"), false, &boards), [(1, false), (2, true)]);
        assert_eq!(shown(Some("MIG-GPU-1a/2/0,MIG-77"), false, &boards), [(1, true), (2, true)]);
        assert_eq!(shown(Some("0"), false, &boards[2..]), [(2, true)], "one board alone");
    }

    #[test]
    fn in_the_order_of_addresses_a_number_is_certain() {
        let boards = boards();
        assert_eq!(shown(None, true, &boards), [(1, true), (0, true), (2, true)]);
        assert_eq!(shown(Some("0,2"), true, &boards), [(1, true), (2, true)]);
        assert_eq!(shown(None, false, &boards), [(0, false), (1, false), (2, false)]);
    }

    #[test]
    fn an_entry_that_names_nothing_ends_the_list() {
        let boards = boards();
        assert_eq!(shown(Some("1,7,2"), false, &boards), [(1, false)]);
        assert!(shown(Some(""), false, &boards).is_empty() && shown(Some("-1,0"), false, &boards).is_empty());
        assert!(shown(Some("MIG-78"), false, &boards).is_empty());
    }
}
