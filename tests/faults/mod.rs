//! Campaigns against the whole program: system calls that fail, files that are damaged, boards that lie.
//!
//! Every campaign is seeded, so it is the same each time. `cargo test` runs a sample of it; `scripts/attack.sh` sets the
//! variables below to run the whole. A case that fails is printed with the command that repeats it.
//!
//! | variable | what it sets | default |
//! |---|---|---|
//! | `WATTLE_FAULT_CALLS` | faults injected for each command, kind of call and effect | 1 |
//! | `WATTLE_FUZZ_CASES` | damaged files for each reader | 2 |
//! | `WATTLE_DRIVER_CASES` | functions of NVML that go wrong in one way, under one command | 6 |

mod boards;
mod calls;
mod campaign;
mod damage;
mod injector;
mod readers;
mod seal;
mod slow;
