//! NCCL's functions and constants.

use std::ffi::{CStr, c_char, c_int, c_void};

use wattle_cuda::Nvidia;

use super::config::Config;
use crate::entry::{entry_points, open_first};
use crate::error::DistError;

/// `ncclComm_t`.
pub(super) type Comm = *mut c_void;
/// `cudaStream_t`, which is a `CUstream`.
pub(super) type Stream = *mut c_void;
/// `ncclDataType_t`.
pub(super) type DataType = c_int;
/// `ncclRedOp_t`.
pub(super) type RedOp = c_int;
/// `ncclResult_t`.
pub(super) type NcclResult = c_int;

pub(super) const UNIQUE_ID_BYTES: usize = 128;
pub(super) const SUCCESS: NcclResult = 0;
pub(super) const REMOTE_ERROR: NcclResult = 6;
pub(super) const IN_PROGRESS: NcclResult = 7;
pub(super) const U8: DataType = 1;
pub(super) const F32: DataType = 7;
pub(super) const F64: DataType = 8;
pub(super) const BF16: DataType = 9;
pub(super) const SUM: RedOp = 0;
pub(super) const MAX: RedOp = 2;

/// `ncclUniqueId`: what the ranks of one communicator have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct UniqueId {
    /// The library's; nothing is known of it.
    pub(super) bytes: [u8; UNIQUE_ID_BYTES],
}

const NOT_NCCL: &str =
    "it is not an NCCL of 2.14 or newer; pip install -U nvidia-nccl-cu13, or set WATTLE_NCCL";

entry_points! {
    /// NCCL's functions.
    Functions, else NOT_NCCL;
    get_version = ncclGetVersion(*mut c_int) -> NcclResult;
    get_unique_id = ncclGetUniqueId(*mut UniqueId) -> NcclResult;
    comm_init_rank_config = ncclCommInitRankConfig(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> NcclResult;
    comm_get_async_error = ncclCommGetAsyncError(Comm, *mut NcclResult) -> NcclResult;
    comm_abort = ncclCommAbort(Comm) -> NcclResult;
    get_error_string = ncclGetErrorString(NcclResult) -> *const c_char;
    get_last_error = ncclGetLastError(Comm) -> *const c_char;
    all_reduce = ncclAllReduce(
        *const c_void, *mut c_void, usize, DataType, RedOp, Comm, Stream,
    ) -> NcclResult;
    reduce_scatter = ncclReduceScatter(
        *const c_void, *mut c_void, usize, DataType, RedOp, Comm, Stream,
    ) -> NcclResult;
    reduce = ncclReduce(
        *const c_void, *mut c_void, usize, DataType, RedOp, c_int, Comm, Stream,
    ) -> NcclResult;
    all_gather = ncclAllGather(*const c_void, *mut c_void, usize, DataType, Comm, Stream) -> NcclResult;
    broadcast = ncclBroadcast(*const c_void, *mut c_void, usize, DataType, c_int, Comm, Stream) -> NcclResult;
    send = ncclSend(*const c_void, usize, DataType, c_int, Comm, Stream) -> NcclResult;
    recv = ncclRecv(*mut c_void, usize, DataType, c_int, Comm, Stream) -> NcclResult;
    group_start = ncclGroupStart() -> NcclResult;
    group_end = ncclGroupEnd() -> NcclResult;
    comm_finalize = ncclCommFinalize(Comm) -> NcclResult;
}

/// An NCCL that stays for as long as the process.
pub(super) struct Library {
    pub(super) functions: Functions,
    /// Its name or path, as it was opened.
    pub(super) file: String,
}

impl Library {
    /// Opens the one that is `named`, else the one that is found where NVIDIA's libraries are.
    pub(super) fn open(named: Option<String>) -> Result<Self, DistError> {
        let remedy = "pip install nvidia-nccl-cu13, or set WATTLE_NCCL to the library's path";
        let file = named.clone().unwrap_or_else(|| Nvidia::Nccl.file_name());
        let opened = match named {
            Some(name) => open_first(&[name], 0).map(|(opened, _)| opened),
            None => wattle_cuda::open(Nvidia::Nccl).map_err(|error| vec![error.to_string()]),
        };
        let opened = opened.map_err(|tried| DistError::NoLibrary { what: "NCCL", tried, remedy })?;
        let functions = Functions::of(&opened, &file)?;
        std::mem::forget(opened);
        Ok(Self { functions, file })
    }

    /// Makes an error of a result that is neither success nor under way.
    pub(super) fn check(&self, call: &'static str, result: NcclResult) -> Result<(), DistError> {
        if result == SUCCESS || result == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: both return static texts or null; the last error may be asked for without a communicator.
        let texts = unsafe {
            [(self.functions.get_error_string)(result), (self.functions.get_last_error)(std::ptr::null_mut())]
        };
        let reason = texts.iter().filter_map(|text| read(*text)).collect::<Vec<_>>().join("; ");
        if result == REMOTE_ERROR {
            return Err(DistError::Gone { gone: Vec::new(), reason: format!("{call}: {reason}") });
        }
        Err(DistError::Library { library: self.file.clone(), call, reason })
    }
}

fn read(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: NCCL's texts end in a zero.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_owned();
    (!text.is_empty()).then_some(text)
}
