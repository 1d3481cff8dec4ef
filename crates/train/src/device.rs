//! What to compute on.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
#[cfg(feature = "cuda")]
use wattle_dist::Nccl;
use wattle_ops::board::Board;
#[cfg(feature = "cuda")]
use wattle_ops::board::BoardError;
#[cfg(feature = "cuda")]
use wattle_ops::board::cuda::{CudaBoard, CudaOptions};
use wattle_runlog::ComputeDevice;

use crate::error::TrainError;
use crate::ranks::Ranks;

/// A request for a device, as the command line takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this CUDA ordinal; without one the first, or of several ranks on a machine the GPU of their number.
    Cuda(Option<usize>),
}

/// A device and why it was chosen.
pub struct ChosenDevice {
    /// candle's handle.
    pub device: Device,
    /// The same device as the meter knows it.
    pub compute: ComputeDevice,
    /// Its name, as its driver tells it; `None` for a CPU.
    pub name: Option<String>,
    /// Why this one, for a person.
    pub reason: String,
}

impl ChosenDevice {
    /// The reason in brackets where it is worth a line of every run; else nothing. That a machine without a GPU has
    /// none is not; that one with NVIDIA's driver trains on its CPU is.
    pub fn why_said(&self) -> String {
        let is_plain = self.device.is_cpu() && self.reason != AS_ASKED && !has_nvidia_driver();
        if is_plain { String::new() } else { format!(" ({})", self.reason) }
    }

    /// The board that explicit engines train on, where this is a GPU.
    ///
    /// # Errors
    /// If there is a GPU that cannot be had as a board.
    pub fn board(&self) -> Result<Option<Arc<dyn Board>>, TrainError> {
        self.training_board(&Ranks::default(), true)
    }

    /// The board for training, connected with those of the other ranks, each of which calls this. Its sums are in one order if
    /// `deterministic` (`train.deterministic`).
    ///
    /// # Errors
    /// If there is a GPU that cannot be had as a board, there is no NCCL, ranks were given the same GPU, or one does not
    /// answer in time.
    pub fn training_board(
        &self,
        ranks: &Ranks,
        deterministic: bool,
    ) -> Result<Option<Arc<dyn Board>>, TrainError> {
        open_board(&self.device, ranks, deterministic)
    }

    /// The device for a model's parameters, where that is another: a board takes a copy of its own from the host.
    pub fn home_of_parameters(&self, board: Option<&Arc<dyn Board>>) -> Option<Self> {
        (board.is_some() && !self.device.is_cpu()).then(|| cpu("a board has its own copy"))
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    /// `gpu` is another word for `cuda`, and case does not matter.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("expected auto, cpu, cuda or cuda:N, got {text:?}");
        let lower = text.to_ascii_lowercase();
        match lower.split_once(':').map_or((lower.as_str(), None), |(kind, n)| (kind, Some(n))) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            ("cuda" | "gpu", None) => Ok(Self::Cuda(None)),
            ("cuda" | "gpu", Some(n)) => n.parse().map(|n| Self::Cuda(Some(n))).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// If a GPU is asked for by name and cannot be had.
    pub fn open(self) -> Result<ChosenDevice, TrainError> {
        match self {
            Self::Cpu => Ok(cpu(AS_ASKED)),
            Self::Cuda(ordinal) => {
                let ordinal = ordinal.unwrap_or(0);
                open_cuda(ordinal).map(|cuda| cuda.chosen(AS_ASKED)).map_err(|why| {
                    TrainError::Device(format!("--device cuda:{ordinal} cannot be had: {why}"))
                })
            }
            Self::Auto => Ok(match open_cuda(0) {
                Ok(cuda) => cuda.chosen("a GPU was found"),
                Err(why) => cpu(&why),
            }),
        }
    }
}

impl DeviceChoice {
    /// The choice of one of several ranks, the one with number `local_rank` on its machine: where it names no GPU and there are
    /// some, the GPU of that number. A launcher may also show each rank one of its own (`CUDA_VISIBLE_DEVICES`).
    ///
    /// # Errors
    /// If there are fewer GPUs than that, or none and it asks for one.
    pub fn of_rank(self, local_rank: usize) -> Result<Self, TrainError> {
        let n_gpus = n_gpus();
        if n_gpus == 0 && matches!(self, Self::Cuda(_)) {
            // Before ranks look for each other, it says why.
            self.open()?;
        }
        self.among(local_rank, n_gpus)
    }

    /// The CUDA ordinal of the GPU that it takes, if it is one.
    pub fn gpu(self) -> Option<usize> {
        match self {
            Self::Cpu => None,
            Self::Cuda(ordinal) => Some(ordinal.unwrap_or(0)),
            Self::Auto => (n_gpus() > 0).then_some(0),
        }
    }

    fn among(self, local_rank: usize, n_gpus: usize) -> Result<Self, TrainError> {
        match (self, n_gpus) {
            (Self::Cpu | Self::Cuda(Some(_)), _) | (_, 0) => Ok(self),
            (_, 1) => Ok(Self::Cuda(Some(0))),
            (_, n) if local_rank < n => Ok(Self::Cuda(Some(local_rank))),
            (_, n) => Err(TrainError::Device(format!(
                "there is no GPU for rank {local_rank} of this machine, counted from 0: the driver shows {n}; start at most \
                 {n} ranks a machine, or add --device cpu"
            ))),
        }
    }
}

/// How many GPUs the driver shows to this process.
fn n_gpus() -> usize {
    #[cfg(feature = "cuda")]
    let n = wattle_cuda::load().map_or(0, |driver| driver.n_devices);
    #[cfg(not(feature = "cuda"))]
    let n = 0;
    n
}

/// The reason of a device that was named.
const AS_ASKED: &str = "as asked";

/// Set, one rank alone joins a communicator of its own too, which shows what that costs (`scripts/gpu_acceptance.sh`).
#[cfg(feature = "cuda")]
const ALONE_WITH_NCCL: &str = "WATTLE_NCCL_ALONE";

/// Whether the kernel's driver for NVIDIA boards is loaded, whatever else is missing.
fn has_nvidia_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

fn cpu(reason: &str) -> ChosenDevice {
    let (device, compute) = (Device::Cpu, ComputeDevice::cpu());
    ChosenDevice { device, compute, name: None, reason: reason.to_owned() }
}

/// A GPU that was opened.
struct OpenedGpu {
    device: Device,
    compute: ComputeDevice,
    name: Option<String>,
}

impl OpenedGpu {
    fn chosen(self, reason: &str) -> ChosenDevice {
        let Self { device, compute, name } = self;
        ChosenDevice { device, compute, name, reason: reason.to_owned() }
    }
}

/// The board that explicit engines train on, where `device` is a GPU.
///
/// # Errors
/// If there is a GPU that cannot be had as a board.
#[cfg(not(feature = "cuda"))]
pub(crate) fn open_board(
    _device: &Device,
    _ranks: &Ranks,
    _deterministic: bool,
) -> Result<Option<Arc<dyn Board>>, TrainError> {
    Ok(None)
}

/// The board that explicit engines train on, where `device` is a GPU.
///
/// # Errors
/// If there is a GPU that cannot be had as a board.
#[cfg(feature = "cuda")]
pub(crate) fn open_board(
    device: &Device,
    ranks: &Ranks,
    deterministic: bool,
) -> Result<Option<Arc<dyn Board>>, TrainError> {
    let Device::Cuda(cuda) = device else { return Ok(None) };
    let ordinal = cuda.cuda_stream().context().ordinal();
    let options = CudaOptions { any_order: !deterministic, ..CudaOptions::default() };
    let board = CudaBoard::open(ordinal, &options).map_err(|error| {
        TrainError::Device(format!(
            "the explicit engine cannot have cuda:{ordinal}: {error}; train.engine = \"autograd\" does without"
        ))
    });
    if !ranks.are_several() && std::env::var_os(ALONE_WITH_NCCL).is_none() {
        return Ok(Some(Arc::new(board?)));
    }
    let (board, nccl) = ranks.all_or_none(board.and_then(|board| Ok((board, Nccl::open()?))))?;
    match board.with_ranks(ranks.shared_fabric(), &nccl, ranks.between_steps()) {
        Ok(board) => Ok(Some(Arc::new(board))),
        Err(BoardError::Ranks(error)) => Err(error.into()),
        Err(error) => Err(TrainError::Device(format!("cuda:{ordinal} cannot join its ranks: {error}"))),
    }
}

/// While what it gives lives, candle keeps on the device what it uploads for an operation on this thread: the shape and
/// strides of what is broadcast, transposed or summed, which it otherwise uploads for every such operation. It keeps other
/// uploads of up to 4 KB too, by their content and for as long as the process, so only what uploads nothing of its own
/// belongs under it. Does nothing on a CPU.
#[cfg(feature = "cuda")]
pub(crate) fn keep_layouts(device: &Device) -> impl Sized + use<> {
    match device {
        Device::Cuda(cuda) => Some(cuda.enable_cuda_graph_htod_cache()),
        _ => None,
    }
}

/// Does nothing on a CPU.
#[cfg(not(feature = "cuda"))]
pub(crate) fn keep_layouts(_device: &Device) -> impl Sized + use<> {}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_ordinal: usize) -> Result<OpenedGpu, String> {
    Err("this binary was built without CUDA; build it with --features cuda".to_owned())
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<OpenedGpu, String> {
    cuda::open(ordinal)
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda::cudarc::driver::sys::{CUdevice_attribute, CUmemPool_attribute};
    use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result};
    use candle_core::{CudaDevice, Device};
    use wattle_runlog::{ComputeDevice, DeviceKind};

    use super::OpenedGpu;

    pub(super) fn open(ordinal: usize) -> Result<OpenedGpu, String> {
        // Before anything of candle's CUDA, whose calls go nowhere until then.
        let driver = wattle_cuda::load().map_err(ToString::to_string)?;
        if ordinal >= driver.n_devices {
            return Err(format!(
                "the driver shows {} GPUs to this process, counted from 0",
                driver.n_devices
            ));
        }
        let device = CudaDevice::new_with_stream(ordinal)
            .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        let context = device.cuda_stream().context().clone();
        keep_what_is_freed(&context).map_err(|e| e.to_string())?;
        // SAFETY: all of candle's work on this device is on the one stream that was just made, so no memory is used on one
        // stream while another writes or frees it. A board, which has streams of its own, shares no memory with candle.
        unsafe { context.disable_event_tracking() };
        let compute = ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal: ordinal as u32,
            uuid: uuid(&context),
            pci: pci(&context),
        };
        Ok(OpenedGpu { device: Device::Cuda(device), compute, name: context.name().ok() })
    }

    /// Makes the driver keep memory that candle frees, for its next tensor. Otherwise every wait for the device gives all
    /// that is free back to the system: each step reads its loss, and all of its temporaries would have to be mapped anew.
    fn keep_what_is_freed(context: &CudaContext) -> Result<(), DriverError> {
        if !context.has_async_alloc() {
            return Ok(());
        }
        let mut most = u64::MAX;
        // SAFETY: the device is the context's, and the attribute's value is a number of 64 bits.
        unsafe {
            let pool = result::device::get_default_mem_pool(context.cu_device())?;
            let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, threshold, (&raw mut most).cast())
        }
    }

    fn uuid(context: &CudaContext) -> Option<String> {
        let hex: String =
            context.uuid().ok()?.bytes.iter().map(|&byte| format!("{:02x}", byte as u8)).collect();
        Some(format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
    }

    fn pci(context: &CudaContext) -> Option<String> {
        let attribute = |which| context.attribute(which).ok();
        let domain = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let device = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Some(format!("{domain:08x}:{bus:02x}:{device:02x}.0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_take_the_gpu_of_their_number_unless_one_is_named() {
        use DeviceChoice::{Auto, Cpu, Cuda};
        let of = |choice: DeviceChoice, local_rank, n_gpus| choice.among(local_rank, n_gpus).unwrap();
        for choice in [Auto, Cuda(None)] {
            assert_eq!(of(choice, 3, 8), Cuda(Some(3)));
            assert_eq!(of(choice, 3, 1), Cuda(Some(0)), "each rank is shown one of its own");
            assert_eq!(of(choice, 3, 0), choice);
            let error = choice.among(2, 2).unwrap_err().to_string();
            assert!(error.contains("no GPU for rank 2") && error.contains("at most 2 ranks"), "{error}");
        }
        assert_eq!((of(Cuda(Some(5)), 3, 8), of(Cpu, 3, 8)), (Cuda(Some(5)), Cpu));
    }

    #[test]
    fn devices_are_asked_for_by_name() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(None)));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(Some(3))));
        assert_eq!("gpu".parse(), Ok(DeviceChoice::Cuda(None)));
        assert_eq!("GPU:1".parse(), Ok(DeviceChoice::Cuda(Some(1))));
        for wrong in ["tpu", "gpu:", "cuda:", "cuda:-1", "cpu:0"] {
            assert!(wrong.parse::<DeviceChoice>().unwrap_err().contains("cuda:N"), "{wrong}");
        }
    }
}
