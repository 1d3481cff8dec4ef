//! What the metered processes use of the machine: processor time, memory, bytes read.
//!
//! Training is metered from within, a command from outside. Both are a [`Workload`].

use std::fs;
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use wattle_runlog::Seconds;
use wattle_runlog::record::Resources;

/// Ticks a second in `/proc`: the kernel's user-space interface fixes it at 100 on x86 and ARM.
const TICKS_PER_SECOND: f64 = 100.0;

/// The processes that are metered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workload {
    /// This process.
    #[default]
    ThisProcess,
    /// The children of this process and theirs, running or ended. Orphans among them belong to it where this process
    /// adopts them (`PR_SET_CHILD_SUBREAPER`), and leave the tree where it does not.
    Children,
    /// These processes, by their numbers: ranks on this machine that train together. [`Workload::of_ranks`] makes it.
    Ranks(&'static [u32]),
}

impl Workload {
    /// This process, or this and others that train with it on this machine: `pids` are the numbers of all. They are kept for as
    /// long as this process.
    pub fn of_ranks(pids: Vec<u32>) -> Self {
        match pids.as_slice() {
            [] | [_] => Self::ThisProcess,
            _ => Self::Ranks(pids.leak()),
        }
    }

    /// Processor time used so far, over all threads.
    pub fn cpu_time(self) -> Seconds {
        match self {
            Self::ThisProcess => clock_seconds(ClockId::ProcessCPUTime),
            Self::Children => {
                // Ended children are counted with the parent that waited for them.
                let ended = stat_ticks("self").map_or(0, |ticks| ticks.ended_children);
                let running: u64 = descendants()
                    .iter()
                    .filter_map(|pid| stat_ticks(pid))
                    .map(|ticks| ticks.own + ticks.ended_children)
                    .sum();
                seconds(ended + running)
            }
            Self::Ranks(_) => {
                let ticks =
                    self.processes().iter().filter_map(|pid| stat_ticks(pid)).map(|ticks| ticks.own).sum();
                seconds(ticks)
            }
        }
    }

    /// How many of the processes are running now.
    pub fn n_running(self) -> u32 {
        self.processes().iter().filter(|pid| !has_ended(pid)).count() as u32
    }

    /// Memory held now. Pages that children share count for each of them.
    pub fn resident_bytes(self) -> u64 {
        self.processes().iter().filter_map(|pid| status_bytes(pid, "VmRSS:")).sum()
    }

    /// What the processes have used since they started. Device hours are for the caller to fill in.
    pub fn resources(self) -> Resources {
        let processes = self.processes();
        let sum = |values: Vec<u64>| (!values.is_empty()).then(|| values.iter().sum());
        Resources {
            device_hours: 0.0,
            peak_memory_bytes: sum(processes.iter().filter_map(|pid| status_bytes(pid, "VmHWM:")).collect()),
            bytes_read: sum(processes.iter().filter_map(|pid| bytes_read(pid)).collect()),
            cpu_s: Some(self.cpu_time()),
        }
    }

    /// Whether, of the processes `pids` that a driver says compute on a board, any is not of this workload.
    ///
    /// Within a container a driver tells the host's numbers, which mean nothing here: where no number is ours and
    /// none is known here, one process is taken for ours and a second for somebody else's.
    pub fn shares_with(self, pids: &[u32]) -> bool {
        let own: Vec<String> = match self {
            Self::ThisProcess => [vec![std::process::id().to_string()], descendants()].concat(),
            Self::Children => descendants(),
            Self::Ranks(_) => [self.processes(), descendants()].concat(),
        };
        let is_own = |pid: &u32| own.contains(&pid.to_string());
        let is_known = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
        match pids.iter().any(|pid| is_own(pid) || is_known(pid)) {
            true => !pids.iter().all(is_own),
            false => pids.len() > 1,
        }
    }

    fn processes(self) -> Vec<String> {
        match self {
            Self::ThisProcess => vec!["self".to_owned()],
            Self::Ranks(pids) => pids.iter().map(u32::to_string).collect(),
            Self::Children => descendants(),
        }
    }
}

/// Processor time of the calling thread.
pub fn thread_cpu_time() -> Seconds {
    clock_seconds(ClockId::ThreadCPUTime)
}

/// Processor time that the whole machine has spent on anything since boot.
pub fn host_busy_time() -> Option<Seconds> {
    busy_ticks(&fs::read_to_string("/proc/stat").ok()?).map(seconds)
}

fn seconds(ticks: u64) -> Seconds {
    Seconds(ticks as f64 / TICKS_PER_SECOND)
}

fn clock_seconds(clock: ClockId) -> Seconds {
    let time = clock_gettime(clock);
    Seconds(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9)
}

/// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guests are within user and nice.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    let counted = ticks.get(..7)?.iter().chain(ticks.get(7)).sum::<u64>();
    Some(counted - ticks[3] - ticks[4])
}

struct Ticks {
    own: u64,
    ended_children: u64,
}

fn stat_ticks(pid: &str) -> Option<Ticks> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Fields 14 to 17 of `/proc/<pid>/stat`; the name, field 2, may hold anything up to its last parenthesis.
fn parse_stat(stat: &str) -> Option<Ticks> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Ticks { own: ticks(14)? + ticks(15)?, ended_children: ticks(16)? + ticks(17)? })
}

/// Whether a process has ended: it is gone, or waits only for its parent to ask how.
fn has_ended(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

/// Every process below this one, adopted orphans included where this process adopts them.
fn descendants() -> Vec<String> {
    let mut found = children("self");
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let below = children(pid);
        found.extend(below);
        next += 1;
    }
    found
}

fn children(pid: &str) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn status_bytes(pid: &str, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn bytes_read(pid: &str) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn idle_time_is_not_busy_and_guests_are_not_counted_twice() {
        let stat = "cpu  100 1 20 5000 300 4 5 6 70 8\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(100 + 1 + 20 + 4 + 5 + 6));
        assert_eq!(busy_ticks("cpu 1 2"), None);
    }

    #[test]
    fn a_process_name_may_hold_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 11 22 33 44 20 0 1 0";
        let ticks = parse_stat(stat).unwrap();
        assert_eq!((ticks.own, ticks.ended_children), (33, 77));
    }

    #[test]
    fn work_is_seen_by_whoever_does_it() {
        let before = Workload::ThisProcess.cpu_time();
        let mut sum = 0u64;
        while (Workload::ThisProcess.cpu_time() - before).get() < 0.02 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(thread_cpu_time().get() > 0.0 && sum > 0);
        assert!(Workload::ThisProcess.resident_bytes() > 100_000);
        assert!(Workload::ThisProcess.resources().peak_memory_bytes.unwrap() > 100_000);
    }

    #[test]
    fn ranks_are_counted_together() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let ranks = Workload::of_ranks(vec![std::process::id(), child.id()]);
        let of_child = || stat_ticks(&child.id().to_string()).map_or(0, |ticks| ticks.own);
        while of_child() < 5 {
            std::thread::yield_now();
        }
        assert!(ranks.cpu_time() >= seconds(of_child()) && ranks.n_running() == 2);
        assert!(ranks.resident_bytes() > Workload::ThisProcess.resident_bytes());
        assert!(!ranks.shares_with(&[std::process::id(), child.id()]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Workload::of_ranks(vec![7]), Workload::ThisProcess);
    }

    #[test]
    fn another_process_on_a_board_is_somebody_else() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (own, parent) = (std::process::id(), std::os::unix::process::parent_id());
        assert!(!Workload::ThisProcess.shares_with(&[]));
        assert!(!Workload::ThisProcess.shares_with(&[own, child.id()]));
        assert!(Workload::ThisProcess.shares_with(&[own, parent]));
        assert!(!Workload::Children.shares_with(&[child.id()]) && Workload::Children.shares_with(&[own]));
        // Numbers of another namespace: the first may be ours, a second cannot be.
        let unknown = [u32::MAX - 1, u32::MAX];
        assert!(!Workload::ThisProcess.shares_with(&unknown[..1]));
        assert!(Workload::ThisProcess.shares_with(&unknown));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_running_child_is_counted_and_stays_counted_when_it_ended() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        while Workload::Children.cpu_time().get() < 0.05 {
            std::thread::yield_now();
        }
        assert!(Workload::Children.resident_bytes() > 0);
        assert!(Workload::Children.n_running() > 0 && !has_ended(&child.id().to_string()));
        child.kill().unwrap();
        while !has_ended(&child.id().to_string()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(Workload::Children.cpu_time().get() >= 0.05);
    }
}
