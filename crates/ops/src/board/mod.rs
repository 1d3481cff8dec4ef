//! What an explicit engine asks of a GPU: memory, launches, matrix products, and a recorded step.
//!
//! Two implement [`Board`]: a CUDA device (`cuda`, with the feature), and the stand-in of `tests/kernel_shim`,
//! which runs the very same kernels as C++ on a CPU, so that an engine's every launch, offset and order is
//! checked where there is no GPU.
//!
//! Work is in the order of one stream: a call returns before the device has done it, but for
//! [`Board::read`] and [`Board::synchronize`]. [`Board::read_beside`] and [`Board::mark_beside`] have no place in that
//! order: they are done at once, while queued work goes on.

pub mod args;
pub mod attention;
pub mod collectives;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
#[cfg(any(feature = "cuda", test))]
mod fatbins;
pub mod gemm;
pub mod host_memory;
pub mod memory;
pub mod roof;
pub mod select;
pub mod step_result;
pub mod step_state;
pub mod ways;

use thiserror::Error;

pub use args::{Arg, Launch};
pub use attention::{
    AttentionBackward, AttentionForward, AttentionPass, AttentionShape, FusedAttention, Plans, Workspace,
};
pub use collectives::{Collectives, Owned};
pub use gemm::{Epilogue, Gemm, Matrix};
pub use host_memory::HostMemory;
pub use memory::{DevicePtr, DeviceTensor, Elem, Ptr};
pub use step_result::{GradNorm, StepResult};
pub use step_state::StepState;
pub use ways::{Choices, Job, Way, Work};

/// A GPU, or what stands in for one.
pub trait Board: Send + Sync {
    /// Name of the device.
    fn name(&self) -> String;

    /// Memory of `bytes`, set to zero, at an address that is a multiple of 256. It is freed when the board is
    /// dropped: an engine makes one arena and cuts it.
    ///
    /// # Errors
    /// [`BoardError::OutOfMemory`] if there is not so much.
    fn allocate(&self, bytes: usize) -> Result<DevicePtr, BoardError>;

    /// Bytes that are free, and bytes that there are.
    fn memory(&self) -> Result<MemoryInfo, BoardError>;

    /// Memory of the host for `len` numbers, into which [`Board::read`] copies as fast as the device can send. Taking much
    /// of it takes seconds; another thread may do so while steps are made.
    ///
    /// # Errors
    /// If there is not so much.
    fn host_memory(&self, len: usize) -> Result<HostMemory, BoardError> {
        HostMemory::ordinary(len).map_err(|error| BoardError::HostMemory {
            asked: (len * size_of::<f32>()) as u64,
            why: error.to_string(),
        })
    }

    /// Copies to the device. `bytes` may change as soon as this returns.
    fn write(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError>;

    /// Copies to the device beside the work under way: it waits for what was issued before the last call of this,
    /// and is waited for by what is issued after this one. So with two places written in turn, one is filled while
    /// the other is read. `bytes` may change as soon as this returns.
    fn write_ahead(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.write(to, bytes)
    }

    /// Copies from the device, and waits for all work before.
    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError>;

    /// Copies from the device at once, without waiting for queued work. Only what a finished step wrote may be read
    /// this way: a step is finished once [`Board::elapsed_ms`] has returned for its last mark.
    fn read_beside(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.read(from, out)
    }

    /// Copies within the device.
    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), BoardError>;

    /// Sets memory to zero.
    fn zero(&self, at: DevicePtr, bytes: usize) -> Result<(), BoardError>;

    /// Launches a kernel of `kernels/`.
    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError>;

    /// Most bytes of shared memory that one block may have.
    fn max_shared_bytes(&self) -> usize {
        48 << 10
    }

    /// Multiplies matrices.
    fn gemm(&self, gemm: &Gemm) -> Result<(), BoardError>;

    /// The ways in which this board can compute a product, and the job that a choice among them is for. `None` where
    /// there is one way.
    ///
    /// # Errors
    /// If it cannot compute the product at all.
    fn product_ways(&self, _gemm: &Gemm) -> Result<Option<(Job, Vec<String>)>, BoardError> {
        Ok(None)
    }

    /// Whether it multiplies numbers of eight bits.
    ///
    /// # Errors
    /// [`BoardError::NoFp8`]: why not.
    fn fp8(&self) -> Result<(), BoardError> {
        Err(BoardError::NoFp8(format!("{} has none", self.name())))
    }

    /// What choices depend on, by name: the device, and the versions of driver and libraries.
    fn identity(&self) -> Vec<(String, String)> {
        vec![("board".to_owned(), self.name())]
    }

    /// Which way this board does each job.
    fn choices(&self) -> &Choices;

    /// Does a job in the way that was chosen for it, else in the first of `ways`.
    ///
    /// # Errors
    /// If a way was chosen that is not among them, or it fails.
    fn choose(&self, job: &Job, ways: &[Way<'_>]) -> Result<(), BoardError> {
        (self.choices().pick(job, ways)?.run)()
    }

    /// Attention by a library of the vendor's.
    ///
    /// # Errors
    /// Why there is none.
    fn fused_attention(&self) -> Result<&dyn FusedAttention, BoardError> {
        Err(BoardError::NoAttention("the board has none of its own".to_owned()))
    }

    /// What it does together with the boards of other ranks; `None` for a board alone.
    fn collectives(&self) -> Option<&dyn Collectives> {
        None
    }

    /// Marks this moment as number `edge`. Within a recorded step the mark is taken anew at every replay.
    fn mark(&self, edge: usize) -> Result<(), BoardError>;

    /// Marks this moment as number `edge` without waiting for queued work, and returns once the device has taken the
    /// mark.
    fn mark_beside(&self, edge: usize) -> Result<(), BoardError> {
        self.synchronize()?;
        self.mark(edge)?;
        self.synchronize()
    }

    /// Milliseconds on the device between two marks. Waits until both have been passed.
    fn elapsed_ms(&self, from: usize, to: usize) -> Result<f32, BoardError>;

    /// Begins to record instead of doing: launches, products, copies within the device, zeros and marks.
    fn begin_record(&self) -> Result<(), BoardError>;

    /// Ends what was begun, and keeps it under a number for [`Board::replay`].
    fn end_record(&self) -> Result<usize, BoardError>;

    /// Does what was recorded, with the very arguments that were recorded: what differs from step to step lies
    /// in device memory.
    fn replay(&self, recorded: usize) -> Result<(), BoardError>;

    /// Waits for all work.
    fn synchronize(&self) -> Result<(), BoardError>;
}

/// A device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Bytes that can be allocated now.
    pub free: u64,
    /// Bytes that there are.
    pub total: u64,
}

/// Why a board did not do what was asked.
#[derive(Debug, Error)]
pub enum BoardError {
    /// More memory was asked for than there is.
    #[error("out of memory on {device}: {asked} bytes were asked for, {free} are free")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes.
        asked: u64,
        /// Bytes.
        free: u64,
    },
    /// The host has less memory than was asked for.
    #[error("the host has no {asked} bytes of memory: {why}")]
    HostMemory {
        /// Bytes.
        asked: u64,
        /// What the allocator said.
        why: String,
    },
    /// A kernel that no build of `kernels/` has.
    #[error("there is no kernel {0}; kernels/ and crates/ops do not belong together")]
    NoKernel(String),
    /// There are fewer devices.
    #[error("there is no CUDA device {ordinal}: the driver shows {count}, counted from 0")]
    NoDevice {
        /// The one that was asked for.
        ordinal: i32,
        /// How many there are.
        count: i32,
    },
    /// Kernels that the device does not take.
    #[error("kernels/{source_name}.cu: {why}")]
    Kernels {
        /// Stem of their file.
        source_name: String,
        /// What was said against them.
        why: String,
    },
    /// A way of doing a job that this program does not have.
    #[error(
        "{job}: there is no way {way:?} to do it; kernels.json is of another version, or was edited: leave it out to \
         choose anew"
    )]
    NoWay {
        /// The job.
        job: String,
        /// The way that was chosen.
        way: String,
    },
    /// A launch that was refused.
    #[error("kernel {kernel}: {why}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// What was said against it.
        why: String,
    },
    /// A matrix product that cannot be computed.
    #[error("no matrix product: {0}")]
    Product(String),
    /// There is no attention by a library of the vendor's.
    #[error("no fused attention: {0}")]
    NoAttention(String),
    /// The board does not multiply numbers of eight bits.
    #[error("no FP8 products: {0}")]
    NoFp8(String),
    /// What cannot be part of a recorded step.
    #[error("{0} cannot be recorded: end the recording first")]
    NotRecordable(&'static str),
    /// A number that [`Board::end_record`] did not give.
    #[error("nothing was recorded under number {0}")]
    NoRecording(usize),
    /// A number that [`Board::mark`] was not given.
    #[error("nothing was marked with number {0}")]
    NoMark(usize),
    /// The ranks have parted.
    #[error(transparent)]
    Ranks(#[from] wattle_dist::DistError),
    /// NVIDIA's driver or one of its libraries cannot be used.
    #[cfg(any(feature = "cuda", test))]
    #[error(transparent)]
    Cuda(#[from] wattle_cuda::CudaError),
    /// A call of the driver or of a library failed.
    #[error("{call}: {why}")]
    Call {
        /// What was called.
        call: &'static str,
        /// What it said.
        why: String,
    },
}

impl From<BoardError> for candle_core::Error {
    fn from(error: BoardError) -> Self {
        Self::wrap(error)
    }
}
