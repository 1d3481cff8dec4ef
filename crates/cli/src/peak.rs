//! What a process that trains will have of memory at most.
//!
//! A sum of buffers is not it: there are the program, its threads, the tokens that are mapped, and the huge pages
//! by which the allocator rounds buffers up (2 MiB each). So the plan is made real: `--dry-run` builds all that
//! training builds, writes to all of it and goes through one micro-batch, asks the system what the process has, and
//! adds what comes later. A checkpoint copies nothing large.

/// What comes later whatever the model: the sampler's thread and sensors, stacks that grow, buffers that matrix
/// products pack into, lines and JSON. Measured: see `tests/memory.rs`.
const LATER: u64 = 5 << 20;

/// The peak in bytes, once the trainer has rehearsed; `None` where the system does not tell.
pub fn peak_of_training() -> Option<u64> {
    Some(resident_peak()? + LATER)
}

/// The most that this process ever had, in bytes.
fn resident_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
