//! Fabrics against each other: threads of one process are the reference, MPI is started by the launchers that there are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod calls;
#[path = "../../ops/src/board/cuda/tests/compile.rs"]
mod compile;
mod connect;
mod failures;
mod launchers;
mod mpi;
mod nccl;
mod nccl_fabric;
mod rank;
mod threads;
