//! Which share of the machine's processors the process may use: affinity and cgroup quota.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::sensors::workload::Workload;

/// Processors that the process may use, out of the machine's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuShare {
    /// What affinity and quota allow, possibly a fraction.
    pub available: f64,
    /// What the machine has online.
    pub host: f64,
}

impl CpuShare {
    /// Of a workload on this machine. What bounds one rank to a few processors leaves others to the other ranks.
    pub fn of(workload: Workload) -> Self {
        let affinity = match workload {
            Workload::ThisProcess | Workload::Children => affinity(&[None]),
            Workload::Ranks(pids) => {
                affinity(&pids.iter().map(|&pid| Pid::from_raw(pid as i32)).collect::<Vec<_>>())
            }
        };
        let online = fs::read_to_string("/sys/devices/system/cpu/online").ok();
        let host = online.as_deref().and_then(count_list).unwrap_or(affinity).max(affinity);
        let available = quota(Path::new("/")).map_or(affinity, |quota| quota.min(affinity));
        Self { available, host }
    }

    /// The share itself, at most 1.
    pub fn fraction(&self) -> f64 {
        (self.available / self.host).min(1.0)
    }
}

/// Processors that any of some processes may use.
fn affinity(processes: &[Option<Pid>]) -> f64 {
    let sets: Vec<CpuSet> = processes.iter().filter_map(|pid| sched_getaffinity(*pid).ok()).collect();
    let of_any = (0..CpuSet::MAX_CPU).filter(|&cpu| sets.iter().any(|set| set.is_set(cpu))).count();
    of_any.max(1) as f64
}

/// How many processors a list such as `0-3,8` names.
fn count_list(list: &str) -> Option<f64> {
    let mut count = 0;
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(f64::from(count))
}

/// The tightest cgroup quota over the process, in processors; `None` without one. `root` is the file system's.
fn quota(root: &Path) -> Option<f64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mut quotas = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let tree = root.join("sys/fs/cgroup");
        if controllers.is_empty() {
            quotas.extend(upwards(&tree, group).iter().filter_map(|dir| quota_v2(dir)));
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            for mount in [controllers, "cpu"] {
                quotas.extend(upwards(&tree.join(mount), group).iter().filter_map(|dir| quota_v1(dir)));
            }
        }
    }
    quotas.into_iter().min_by(f64::total_cmp)
}

/// The directory of `group` below `tree` and all above it: a quota binds everything below.
fn upwards(tree: &Path, group: &str) -> Vec<PathBuf> {
    let own = tree.join(group.trim_start_matches('/'));
    own.ancestors().take_while(|dir| dir.starts_with(tree)).map(Path::to_owned).collect()
}

/// `cpu.max`: quota and period in microseconds, or "max".
fn quota_v2(dir: &Path) -> Option<f64> {
    let text = fs::read_to_string(dir.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

fn quota_v1(dir: &Path) -> Option<f64> {
    let number =
        |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<f64>().ok().filter(|n| *n > 0.0);
    Some(number("cpu.cfs_quota_us")? / number("cpu.cfs_period_us")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn lists_are_counted() {
        assert_eq!(count_list("0-3,8\n"), Some(5.0));
        assert_eq!(count_list("0"), Some(1.0));
        assert_eq!(count_list("3-1"), None);
    }

    #[test]
    fn the_tightest_quota_binds() {
        let v2 = tree(&[
            ("proc/self/cgroup", "0::/pod/job\n"),
            ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pod/job/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(quota(v2.path()), Some(1.5));
        let v1 = tree(&[
            ("proc/self/cgroup", "3:cpu,cpuacct:/job\n0::/\n"),
            ("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(quota(v1.path()), Some(2.0));
        assert_eq!(quota(tree(&[("proc/self/cgroup", "0::/\n")]).path()), None);
    }

    #[test]
    fn the_share_is_a_share() {
        let share = CpuShare::of(Workload::ThisProcess);
        assert!(share.available > 0.0 && share.host >= 1.0, "{share:?}");
        assert!(share.fraction() > 0.0 && share.fraction() <= 1.0);
    }
}
