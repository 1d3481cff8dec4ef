//! Sums between GPUs by NCCL, opened at run time.
//!
//! Never run on a GPU. Without one, opening the library, its version, its unique id and the errors of a communicator were
//! tried; signatures and constants are compared with `nccl.h` by `scripts/check_nccl_abi.sh`; a stand-in for the
//! library, which sums between processes over sockets, runs what is here and the collectives of a CUDA board
//! (`crates/ops/src/board/cuda/tests/standin_nccl.cpp`).
//!
//! Sums by NVLink's switches (NVLS) differ from run to run; `NCCL_NVLS_ENABLE=0` makes them repeatable
//! (github.com/NVIDIA/nccl/issues/1497). [`prepare`] sets it.
//!
//! - `library`: an opened library, its functions and constants
//! - `config`: how a communicator behaves
//! - `communicator`: ranks that sum
//! - `meeting`: where ranks meet, where only the launcher can tell them
//! - `driver`, `lane`: how a fabric's bytes go through a GPU
//! - `header`: what ranks say at the beginning of a fabric's call
//! - `fabric`: a [`Fabric`] over a communicator

mod communicator;
mod config;
mod driver;
mod fabric;
mod header;
mod lane;
mod library;
mod meeting;

use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::library::Library;
use crate::error::DistError;
use crate::fabric::Fabric;

pub use self::communicator::{Communicator, Element, Reduction};
pub use self::fabric::NcclFabric;
pub use self::library::UniqueId;
pub use self::meeting::{comm_id, prepare};

/// NCCL's library.
pub struct Nccl {
    library: Arc<Library>,
    version: (u32, u32, u32),
}

/// The library to open: a name that the loader finds, or a path.
const LIBRARY: &str = "WATTLE_NCCL";
/// First version with [`SHARED_BOARD`].
const SHARES_BOARDS_SINCE: (u32, u32, u32) = (2, 30, 0);
/// NCCL's own variable: set to 1, several ranks may use one GPU (experimental).
pub const SHARED_BOARD: &str = "NCCL_MULTI_RANK_GPU_ENABLE";

impl Nccl {
    /// Opens what `WATTLE_NCCL` names, or `libnccl.so.2` from the loader's path, a toolkit or PyPI's wheel.
    ///
    /// # Errors
    /// If it cannot be opened, or is too old.
    pub fn open() -> Result<Self, DistError> {
        let library = Library::open(std::env::var(LIBRARY).ok())?;
        let mut code: c_int = 0;
        // SAFETY: the version is written before the call returns.
        let result = unsafe { (library.functions.get_version)(&raw mut code) };
        library.check("ncclGetVersion", result)?;
        let code = code.unsigned_abs();
        let version = (code / 10_000, code / 100 % 100, code % 100);
        Ok(Self { library: Arc::new(library), version })
    }

    /// Major, minor and patch.
    pub fn version(&self) -> (u32, u32, u32) {
        self.version
    }

    /// Whether several ranks may use one GPU: this version can do it, and the user has asked for it.
    pub fn shares_boards(&self) -> bool {
        self.version >= SHARES_BOARDS_SINCE && std::env::var(SHARED_BOARD).is_ok_and(|value| value == "1")
    }

    /// An id for a new communicator. It opens a socket, or is that of `NCCL_COMM_ID` where that is set: then all
    /// processes get the same one.
    ///
    /// # Errors
    /// If there is no network interface to listen on, or the address cannot be used.
    pub fn unique_id(&self) -> Result<UniqueId, DistError> {
        let mut id = UniqueId { bytes: [0; library::UNIQUE_ID_BYTES] };
        // SAFETY: the id is written before the call returns.
        let result = unsafe { (self.library.functions.get_unique_id)(&raw mut id) };
        self.library.check("ncclGetUniqueId", result)?;
        Ok(id)
    }

    /// The same id on all ranks of a fabric: rank 0's.
    ///
    /// # Errors
    /// As for [`Nccl::unique_id`], and if a rank does not answer in time. If rank 0 has none, the others wait in vain
    /// until their deadline.
    pub fn shared_id(&self, fabric: &dyn Fabric, within: Duration) -> Result<UniqueId, DistError> {
        let mut id = UniqueId { bytes: [0; library::UNIQUE_ID_BYTES] };
        if fabric.place().leads() {
            id = self.unique_id()?;
        }
        fabric.broadcast(&mut id.bytes, 0, within)?;
        Ok(id)
    }

    /// Joins the communicator of `id` as rank `rank` of `world`, on the CUDA device that is current.
    ///
    /// # Errors
    /// If NCCL reports an error, such as no GPU, or ranks are missing when the deadline passes.
    pub fn join(
        &self,
        id: &UniqueId,
        (rank, world): (usize, usize),
        within: Duration,
    ) -> Result<Communicator, DistError> {
        let began = Instant::now();
        let communicator = Communicator::begin(Arc::clone(&self.library), id, (rank, world))?;
        communicator.settle("joining NCCL's communicator", within.saturating_sub(began.elapsed()))?;
        Ok(communicator)
    }
}
