//! Fabrics against each other: threads of one process are the reference, MPI is started by the launchers that there are.

mod calls;
mod connect;
mod failures;
mod launchers;
mod mpi;
mod rank;
mod threads;
