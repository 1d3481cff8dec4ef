//! Available memory. What a command needs is checked against it first, so a command that does not fit is refused with
//! a message instead of being killed by the system.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};
use wattle_report::words::quantity::si;

use crate::error::SessionError;

/// Memory that a command is about to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Need {
    /// What needs it: "training", "the model".
    pub what: String,
    /// How much, in bytes.
    pub bytes: u64,
    /// What it is for, each part with its size.
    pub parts: String,
    /// What makes it less, with the keys or flags and their values.
    pub remedy: String,
}

/// Memory that this process can still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Where that is from.
    pub source: &'static str,
}

impl Need {
    /// What is wrong, if it is more than there is; `None` where the system does not say what there is.
    pub fn shortage(&self) -> Option<String> {
        self.shortage_of(free()?)
    }

    /// Refuses it if it is more than there is.
    ///
    /// # Errors
    /// With the sizes, and what makes it less.
    pub fn check(&self) -> Result<(), SessionError> {
        self.shortage().map_or(Ok(()), |shortage| Err(SessionError::Memory(shortage)))
    }

    fn shortage_of(&self, free: Free) -> Option<String> {
        let Self { what, bytes, parts, remedy } = self;
        (*bytes > free.bytes).then(|| {
            format!(
                "{what} needs {} of memory, and {} is available ({}): {parts}; {remedy}",
                size(*bytes),
                size(free.bytes),
                free.source
            )
        })
    }
}

/// Bytes for a person.
pub fn size(bytes: u64) -> String {
    si(bytes as f64, "B")
}

/// What this process can still take: the least of what the machine has, its control groups allow and `ulimit -v`
/// leaves. `None` where the system does not say.
pub fn free() -> Option<Free> {
    let machine = machine_free().map(|bytes| Free { bytes, source: "MemAvailable of this machine" });
    let group = group_free(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    let group = group.map(|bytes| Free { bytes, source: "the control group's memory limit" });
    let address = address_free().map(|bytes| Free { bytes, source: "ulimit -v" });
    [machine, group, address].into_iter().flatten().min_by_key(|free| free.bytes)
}

fn machine_free() -> Option<u64> {
    kib(&read("/proc/meminfo"), "MemAvailable:")
}

fn address_free() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    Some(limit.saturating_sub(of_this_process("VmSize:")?))
}

/// Bytes that the system states of this process under `name`, such as `VmHWM:`; `None` where it does not.
pub fn of_this_process(name: &str) -> Option<u64> {
    kib(&read("/proc/self/status"), name)
}

/// The least that a control group around this process leaves it. `own` is the content of `/proc/self/cgroup`; within a
/// container its paths may be the host's, so every folder on the way that is there counts.
fn group_free(root: &Path, own: &str) -> Option<u64> {
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some((root.to_owned(), path)),
            list if list.split(',').any(|name| name == "memory") => Some((root.join("memory"), path)),
            _ => None,
        }
    });
    groups
        .flat_map(|(mount, path)| {
            let folders: Vec<_> = Path::new(path).ancestors().map(|path| mount.join(path)).collect();
            folders
        })
        .filter_map(|folder| folder_free(&folder))
        .min()
}

/// What one control group leaves, by the files of version 2 or 1. Pages of files that nothing uses are given up when
/// memory is wanted.
fn folder_free(folder: &Path) -> Option<u64> {
    const NAMES: [[&str; 3]; 2] = [
        ["memory.max", "memory.current", "inactive_file"],
        ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
    ];
    NAMES.into_iter().find_map(|[limit, usage, reclaimable]| {
        let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let of_files = stat
            .lines()
            .find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<u64>().ok())
            .unwrap_or(0);
        let used = number(usage)?.saturating_sub(of_files);
        Some(number(limit)?.saturating_sub(used))
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The bytes that a line `name: N kB` states.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(root.join(path)).unwrap();
        files.iter().for_each(|(name, content)| fs::write(root.join(path).join(name), content).unwrap());
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let stat = "anon 5\ninactive_file 100\nactive_file 7\n";
        group(
            root.path(),
            "job",
            &[("memory.max", "1000\n"), ("memory.current", "400\n"), ("memory.stat", stat)],
        );
        group(root.path(), "job/step", &[("memory.max", "max\n"), ("memory.current", "300\n")]);
        let free = |own: &str| group_free(root.path(), own);
        assert_eq!(free("0::/job/step\n"), Some(700));
        assert_eq!(free("0::/job/step/not/there\n"), Some(700));
        assert_eq!(free("0::/other\n"), None);
        group(
            root.path(),
            "memory/slurm",
            &[("memory.limit_in_bytes", "600"), ("memory.usage_in_bytes", "650"), ("memory.stat", "")],
        );
        assert_eq!(free("4:cpu,memory:/slurm\n0::/job\n"), Some(0));
        assert_eq!(free("4:cpu:/slurm\n"), None);
    }

    #[test]
    fn more_than_there_is_is_said_with_both_sizes_and_what_to_do() {
        let need = Need {
            what: "training".to_owned(),
            bytes: 34_400_000_000,
            parts: "activations 34.0 GB".to_owned(),
            remedy: "lower model.context = 131072".to_owned(),
        };
        let said = need.shortage_of(Free { bytes: 23_000_000_000, source: "MemAvailable of this machine" });
        assert_eq!(
            said.unwrap(),
            "training needs 34.4 GB of memory, and 23.0 GB is available (MemAvailable of this machine): activations \
             34.0 GB; lower model.context = 131072"
        );
        assert_eq!(need.shortage_of(Free { bytes: need.bytes, source: "" }), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        assert!(free().is_some_and(|free| free.bytes > 0));
    }
}
