//! Sums between GPUs by NCCL, opened at run time.
//!
//! Not wired into a board yet, and never run on a GPU. Without one, opening the library, its version, its unique id
//! and the errors of a communicator were tried; signatures and constants are compared with `nccl.h` by
//! `scripts/check_nccl_abi.sh`.
//!
//! Sums by NVLink's switches (NVLS) differ from run to run; `NCCL_NVLS_ENABLE=0` makes them repeatable
//! (github.com/NVIDIA/nccl/issues/1497).
//!
//! - `library`: an opened library, its functions and constants
//! - `config`: how a communicator behaves
//! - `communicator`: ranks that sum

mod communicator;
mod config;
mod library;

use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::library::Library;
use crate::error::DistError;
use crate::fabric::Fabric;
use crate::launch::Launched;

pub use self::communicator::{Communicator, Element, Reduction};
pub use self::library::UniqueId;

/// NCCL's library.
pub struct Nccl {
    library: Arc<Library>,
    version: (u32, u32, u32),
}

/// The library to open: a name that the loader finds, or a path.
const LIBRARY: &str = "WATTLE_NCCL";
/// Where ranks meet, by NCCL's own variable.
const COMM_ID: &str = "NCCL_COMM_ID";

impl Nccl {
    /// Opens `libnccl.so.2`, or what `WATTLE_NCCL` names.
    ///
    /// # Errors
    /// If it cannot be opened, or is too old.
    pub fn open() -> Result<Self, DistError> {
        let name = std::env::var(LIBRARY).unwrap_or_else(|_| String::from("libnccl.so.2"));
        let library = Library::open(&[name])?;
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

/// Under torchrun: where ranks meet, for [`set_comm_id`]. Its agent holds `MASTER_PORT`, so this is the next one.
pub fn comm_id(launched: &Launched) -> Option<String> {
    let (host, port) = launched.master.as_ref()?;
    // An IPv6 address is written in brackets.
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Some(format!("{host}:{}", port.checked_add(1)?))
}

/// Lets [`Nccl::unique_id`] give the same id to all processes that set the same address, unless the user has set one.
///
/// # Safety
/// No other thread reads or writes the environment meanwhile: call it before any is started.
pub unsafe fn set_comm_id(address: &str) {
    if std::env::var_os(COMM_ID).is_none() {
        // SAFETY: the caller's.
        unsafe { std::env::set_var(COMM_ID, address) };
    }
}
