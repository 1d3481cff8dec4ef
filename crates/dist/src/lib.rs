//! Ranks: processes that train one model together, and what they tell one another.
//!
//! - [`fabric`]: the calls, whatever carries them
//! - [`place`]: which rank this is, of how many, on which machine
//! - [`solo`]: one rank alone
//! - [`threads`]: ranks that are threads of one process
//! - [`mpi`]: ranks that an MPI library connects
//! - [`nccl`]: sums between GPUs by NCCL
//! - [`launch`]: what started this process, and as which rank
//! - [`mod@connect`]: the fabric for that

pub mod connect;
mod deadline;
mod entry;
pub mod error;
pub mod fabric;
pub mod launch;
pub mod mpi;
pub mod nccl;
mod node;
mod pace;
pub mod place;
pub mod solo;
pub mod threads;
pub mod watchdog;

pub use connect::connect;
pub use error::{DistError, names_of};
pub use fabric::Fabric;
pub use launch::{Launched, Launcher};
pub use mpi::Mpi;
pub use nccl::{Nccl, NcclFabric};
pub use place::Place;
pub use solo::Solo;
pub use threads::Threads;
pub use watchdog::EXIT_PARTED;
