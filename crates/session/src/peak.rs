//! What a process that trains will have of memory at most.
//!
//! A sum of buffers is not it: there are the program, its threads, the tokens that are mapped, and the huge pages
//! by which the allocator rounds buffers up (2 MiB each). So the plan is made real: `--dry-run` builds all that
//! training builds, writes to all of it and goes through one micro-batch, asks the system what the process has, and
//! adds what comes later. A checkpoint copies nothing large but what is copied in the rehearsal too.

use crate::memory::of_this_process;

/// What comes later whatever the model: the sampler's thread and sensors, stacks that grow, buffers that matrix
/// products pack into, lines and JSON. Measured: see `tests/memory.rs`.
const LATER: u64 = 5 << 20;

/// The peak in bytes, once the trainer has rehearsed; `None` where the system does not tell.
pub fn peak_of_training() -> Option<u64> {
    // The most that this process ever had in memory.
    Some(of_this_process("VmHWM:")? + LATER)
}
