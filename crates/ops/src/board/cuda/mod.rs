//! A CUDA device as a [`Board`].
//!
//! The driver and cuBLASLt are called through tables that are filled when the libraries are opened, so that nothing
//! of NVIDIA's is linked against, and a board needs no CUDA of candle's. It shares the device's primary context with
//! candle, and has streams of its own: what candle writes is seen here once candle's stream is synchronized, and the
//! other way round.
//!
//! - `context`: device and primary context
//! - `stream`: streams and events
//! - `module`: the kernels of `kernels/`
//! - `pinned`: page-locked memory
//! - `staging`, `ring`: copies from page-locked memory
//! - `ahead`: copies to the device beside the work under way
//! - `beside`: reads and marks that do not wait for the work under way
//! - `column_major`, `matmul`, `cublaslt`: products
//! - `attention`: fused attention, if there is cuDNN
//! - `collectives`: what boards of several ranks do together, by NCCL
//! - `patience`: waits that end where a rank is lost
//! - `recording`, `marks`: a recorded step, and moments
//!
//! While a step is recorded, what does work at once (writes, reads, allocations, waiting) is refused.

mod ahead;
mod arena;
mod attention;
mod beside;
mod collectives;
mod column_major;
mod context;
mod cublaslt;
mod cudnn;
mod driver;
mod entry;
mod marks;
mod matmul;
mod module;
mod patience;
mod pinned;
mod recording;
mod ring;
mod staging;
mod stream;
#[cfg(test)]
mod tests;

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wattle_dist::{Fabric, Nccl};

use self::ahead::Ahead;
use self::arena::Arenas;
use self::attention::CudaAttention;
use self::beside::Beside;
use self::collectives::CudaCollectives;
use self::context::Context;
use self::marks::Marks;
use self::matmul::Matmul;
use self::module::Kernels;
use self::pinned::Pinned;
use self::recording::Recording;
use self::staging::Staging;
use self::stream::{Event, Stream};
use super::fatbins;
use super::{
    Board, BoardError, Choices, Collectives, DevicePtr, FusedAttention, Gemm, HostMemory, Job, Launch,
    MemoryInfo,
};

/// Bytes of page-locked memory through which [`Board::write`] goes.
const STAGING_BYTES: usize = 16 << 20;

/// What can be chosen of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CudaOptions {
    /// Whether products of `f32` may round their factors to TF32 (10 bits of mantissa), which tensor cores take.
    /// Off by default, as in PyTorch.
    pub tf32: bool,
    /// Whether cuDNN may sum attention's gradients in an order that differs from run to run, which is faster
    /// (`train.deterministic = false`). Off by default: a run resumes to the bit.
    pub any_order: bool,
}

/// A CUDA device.
///
/// Fields are dropped in their order: what lives in the context before the context. Once a rank is lost nothing is freed,
/// since the driver would wait for work that never ends; it goes with the process.
pub struct CudaBoard {
    recordings: Mutex<Vec<Recording>>,
    marks: Mutex<Marks>,
    staging: Mutex<Staging>,
    ahead: Mutex<Ahead>,
    beside: Beside,
    collectives: Option<CudaCollectives>,
    attention: ManuallyDrop<Result<CudaAttention, BoardError>>,
    matmul: ManuallyDrop<Matmul>,
    kernels: Kernels,
    arenas: Arc<Mutex<Arenas>>,
    /// Recorded and waited for where all work has to be done.
    end: Event,
    stream: Arc<Stream>,
    choices: Arc<Choices>,
    name: String,
    compute_capability: (i32, i32),
    max_shared_bytes: usize,
    context: Arc<Context>,
}

/// The first compute capability whose tensor cores multiply numbers of eight bits: Ada's.
const FP8_SINCE: (i32, i32) = (8, 9);

impl CudaBoard {
    /// Opens device `ordinal`, counted as the driver does, and loads the kernels of `kernels/` into it.
    ///
    /// # Errors
    /// If there is no driver, no cuBLASLt, no such device, or a kernel does not load.
    pub fn open(ordinal: usize, options: &CudaOptions) -> Result<Self, BoardError> {
        let context = Arc::new(Context::of_device(ordinal)?);
        let compute_capability = context.compute_capability()?;
        let name = context.name();
        let stream = Arc::new(Stream::new(&context)?);
        let kernels = Kernels::load(&context, fatbins::KERNELS)?;
        let mut arenas = Arenas::new(&context, &name);
        let workspace_bytes = match compute_capability {
            (9.., _) => matmul::WORKSPACE_BYTES_HOPPER,
            _ => matmul::WORKSPACE_BYTES,
        };
        let workspace = arenas.allocate(workspace_bytes, &stream)?;
        let matmul = Matmul::new(workspace, workspace_bytes, options.tf32)?;
        let arenas = Arc::new(Mutex::new(arenas));
        let choices = Arc::default();
        let attention = CudaAttention::open(&stream, &choices, !options.any_order);
        Ok(Self {
            recordings: Mutex::default(),
            marks: Mutex::new(Marks::new(&context)),
            staging: Mutex::new(Staging::new(&context, STAGING_BYTES)?),
            ahead: Mutex::new(Ahead::new(&context)?),
            beside: Beside::new(&context)?,
            collectives: None,
            attention: ManuallyDrop::new(attention),
            matmul: ManuallyDrop::new(matmul),
            kernels,
            arenas,
            end: Event::fence(&context)?,
            stream,
            choices,
            name,
            compute_capability,
            max_shared_bytes: context.attribute(driver::MAX_SHARED_BYTES_OPTIN)?.max(0) as usize,
            context,
        })
    }

    /// Joins the boards of the other ranks; each rank does so, in the same order of calls of `fabric`. From then on no wait
    /// for the device is longer than `within`, or what [`Collectives::set_deadline`] sets in its place.
    ///
    /// # Errors
    /// If ranks were given the same device, NCCL reports an error, or a rank does not answer in time.
    pub fn with_ranks(
        mut self,
        fabric: Arc<dyn Fabric>,
        nccl: &Nccl,
        within: Duration,
    ) -> Result<Self, BoardError> {
        let of = (&self.context, &self.stream);
        self.collectives = Some(CudaCollectives::open(of, fabric, nccl, within)?);
        Ok(self)
    }

    /// Generation and step of the device's architecture, as (9, 0) for Hopper.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.compute_capability
    }

    /// cuBLASLt's version, as 130100 for 13.1.0.
    pub fn cublaslt_version(&self) -> usize {
        self.matmul.version()
    }

    /// cuDNN's version, as 91900, or why there is no fused attention.
    pub fn attention(&self) -> Result<usize, &BoardError> {
        self.attention.as_ref().map(CudaAttention::version)
    }

    /// Binds the context for work that can be recorded.
    fn for_work(&self) -> Result<(), BoardError> {
        self.stream.note_work();
        self.context.bind()
    }

    /// Binds the context for what cannot be recorded.
    fn at_once(&self, what: &'static str) -> Result<(), BoardError> {
        if self.stream.is_recording() {
            return Err(BoardError::NotRecordable(what));
        }
        self.context.bind()
    }
}

impl Board for CudaBoard {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr, BoardError> {
        self.at_once("an allocation")?;
        let at = lock(&self.arenas).allocate(bytes, &self.stream)?;
        self.synchronize()?;
        Ok(at)
    }

    fn memory(&self) -> Result<MemoryInfo, BoardError> {
        self.context.memory()
    }

    /// Steps may be queued, recorded and replayed meanwhile.
    fn host_memory(&self, len: usize) -> Result<HostMemory, BoardError> {
        Ok(HostMemory::new(Pinned::new(&self.context, len * size_of::<f32>())?))
    }

    fn write(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.at_once("a write")?;
        self.for_work()?;
        lock(&self.staging).send(&self.stream, to, bytes)
    }

    fn write_ahead(&self, to: DevicePtr, bytes: &[u8]) -> Result<(), BoardError> {
        self.at_once("a write")?;
        lock(&self.ahead).send(&self.stream, to, bytes)
    }

    fn read(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.at_once("a read")?;
        if self.collectives.is_some() {
            // A copy to ordinary memory returns when it is done, and has no deadline.
            self.synchronize()?;
        }
        // SAFETY: `out` is borrowed until the copy is done, which `synchronize` waits for.
        let queued = unsafe { self.stream.queue_read(from, out) };
        self.synchronize()?;
        queued
    }

    fn read_beside(&self, from: DevicePtr, out: &mut [u8]) -> Result<(), BoardError> {
        self.at_once("a read")?;
        self.beside.read(from, out)
    }

    fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.for_work()?;
        let copy = self.context.driver.copy_within;
        // SAFETY: that both addresses are of as many bytes in the arena is the caller's part.
        let status = unsafe { copy(to.address(), from.address(), bytes, self.stream.handle) };
        self.context.driver.check("cuMemcpyDtoDAsync", status)
    }

    fn zero(&self, at: DevicePtr, bytes: usize) -> Result<(), BoardError> {
        self.for_work()?;
        arena::zero(&self.stream, at, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), BoardError> {
        launch.check_grid()?;
        self.for_work()?;
        self.kernels.launch(&self.stream, launch)
    }

    fn max_shared_bytes(&self) -> usize {
        self.max_shared_bytes
    }

    fn gemm(&self, gemm: &Gemm) -> Result<(), BoardError> {
        self.for_work()?;
        self.matmul.run(gemm, &self.choices, &self.stream)
    }

    fn product_ways(&self, gemm: &Gemm) -> Result<Option<(Job, Vec<String>)>, BoardError> {
        if gemm.m == 0 || gemm.n == 0 || gemm.batch == 0 {
            return Ok(None);
        }
        self.context.bind()?;
        let with_work = |(job, names): (Job, _)| (job.moving(gemm.bytes()).computing(gemm.flops()), names);
        self.matmul.ways(gemm).map(|ways| Some(with_work(ways)))
    }

    fn fp8(&self) -> Result<(), BoardError> {
        let (major, minor) = self.compute_capability;
        match (major, minor) >= FP8_SINCE {
            true => Ok(()),
            false => Err(BoardError::NoFp8(format!(
                "{} has compute capability {major}.{minor}, and they need 8.9 (Ada) or above",
                self.name
            ))),
        }
    }

    fn identity(&self) -> Vec<(String, String)> {
        let (major, minor) = self.compute_capability;
        let version = |version: Result<String, BoardError>| version.unwrap_or_else(|_| "unknown".to_owned());
        [
            ("board", self.name.clone()),
            ("compute_capability", format!("{major}.{minor}")),
            ("driver", version(self.context.driver_version())),
            ("cublaslt", self.cublaslt_version().to_string()),
            ("cudnn", self.attention().map_or("none".to_owned(), |version| version.to_string())),
            ("wattle", env!("CARGO_PKG_VERSION").to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn choices(&self) -> &Choices {
        &self.choices
    }

    fn fused_attention(&self) -> Result<&dyn FusedAttention, BoardError> {
        let attention = self.attention.as_ref().map(|attention| attention as _);
        attention.map_err(|error| BoardError::NoAttention(error.to_string()))
    }

    fn collectives(&self) -> Option<&dyn Collectives> {
        self.collectives.as_ref().map(|collectives| collectives as _)
    }

    fn mark(&self, edge: usize) -> Result<(), BoardError> {
        self.context.bind()?;
        lock(&self.marks).mark(edge, &self.stream)
    }

    fn mark_beside(&self, edge: usize) -> Result<(), BoardError> {
        self.at_once("a mark beside the work")?;
        lock(&self.marks).mark_on(edge, self.beside.stream())?;
        self.beside.wait()
    }

    fn elapsed_ms(&self, from: usize, to: usize) -> Result<f32, BoardError> {
        self.at_once("a duration")?;
        lock(&self.marks).elapsed_ms(from, to)
    }

    fn begin_record(&self) -> Result<(), BoardError> {
        self.at_once("another recording")?;
        recording::begin(&self.stream)
    }

    fn end_record(&self) -> Result<usize, BoardError> {
        self.context.bind()?;
        let ended = Recording::end(&self.stream)?;
        let mut recordings = lock(&self.recordings);
        recordings.push(ended);
        Ok(recordings.len() - 1)
    }

    fn replay(&self, recorded: usize) -> Result<(), BoardError> {
        self.at_once("a replay")?;
        self.for_work()?;
        let recordings = lock(&self.recordings);
        recordings.get(recorded).ok_or(BoardError::NoRecording(recorded))?.replay(&self.stream)
    }

    fn synchronize(&self) -> Result<(), BoardError> {
        self.at_once("waiting")?;
        self.collectives.as_ref().map_or(Ok(()), CudaCollectives::join_if_apart)?;
        self.end.record(&self.stream)?;
        self.end.wait()
    }
}

impl Drop for CudaBoard {
    fn drop(&mut self) {
        // What is under way uses what is about to go. An error has nobody to go to.
        let _ = self.synchronize();
        if !self.context.is_lost() {
            // SAFETY: nothing uses them after this.
            unsafe {
                ManuallyDrop::drop(&mut self.attention);
                ManuallyDrop::drop(&mut self.matmul);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
