//! Whether the driver is there, new enough and willing.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::fs;
use std::sync::OnceLock;

use libloading::os::unix::{Library, Symbol};

use crate::error::CudaError;
use crate::library::{Nvidia, open};
use crate::version::CudaVersion;

/// Where the kernel module tells its version.
const KERNEL_MODULE: &str = "/proc/driver/nvidia/version";

/// A driver that has started.
#[derive(Clone, Debug)]
pub struct Driver {
    /// The CUDA that it offers.
    pub version: CudaVersion,
    /// Its own version, as 580.65.06, if the kernel module tells.
    pub kernel_module: Option<String>,
    /// How many GPUs it shows to this process.
    pub n_devices: usize,
}

/// Opens NVIDIA's libraries and starts the driver, once a process; later calls give the same answer.
///
/// To be called before anything of candle's CUDA: until then each of its calls answers `CUDA_ERROR_NO_DEVICE`.
///
/// # Errors
/// If a library is missing, the driver too old for the code in this program, or there is no GPU.
pub fn load() -> Result<&'static Driver, &'static CudaError> {
    static LOADED: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
    LOADED.get_or_init(start).as_ref()
}

fn start() -> Result<Driver, CudaError> {
    let library = open(Nvidia::Driver)?;
    let entry = Entry::of(&library)?;
    let kernel_module = fs::read_to_string(KERNEL_MODULE).ok().as_deref().and_then(module_version);
    let (version, needs) = (entry.version()?, CudaVersion::BUILT_WITH);
    if version < needs {
        return Err(CudaError::OldDriver { kernel_module, offers: version, needs });
    }
    entry.init()?;
    let n_devices = entry.n_devices()?;
    #[cfg(trampolines)]
    crate::trampolines::fill()?;
    // It stays for as long as the process.
    std::mem::forget(library);
    Ok(Driver { version, kernel_module, n_devices })
}

/// The driver's calls that are made in here.
struct Entry<'a> {
    init: Symbol<unsafe extern "C" fn(c_uint) -> c_int>,
    driver_version: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    device_count: Symbol<unsafe extern "C" fn(*mut c_int) -> c_int>,
    error_name: Symbol<unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>,
    /// The symbols are valid no longer than it.
    _library: &'a Library,
}

impl<'a> Entry<'a> {
    fn of(library: &'a Library) -> Result<Self, CudaError> {
        // SAFETY: the signatures are those of cuda.h, unchanged since CUDA 6.
        unsafe {
            Ok(Self {
                init: symbol(library, c"cuInit")?,
                driver_version: symbol(library, c"cuDriverGetVersion")?,
                device_count: symbol(library, c"cuDeviceGetCount")?,
                error_name: symbol(library, c"cuGetErrorName")?,
                _library: library,
            })
        }
    }

    fn version(&self) -> Result<CudaVersion, CudaError> {
        let mut number = 0;
        // SAFETY: the pointer is to an integer of this frame; the call needs no cuInit before it.
        let status = unsafe { (self.driver_version)(&raw mut number) };
        self.check(status).map(|()| CudaVersion::from_number(number))
    }

    fn init(&self) -> Result<(), CudaError> {
        // SAFETY: zero is the only value of its flags.
        let status = unsafe { (self.init)(0) };
        self.check(status)
    }

    fn n_devices(&self) -> Result<usize, CudaError> {
        let mut count = 0;
        // SAFETY: the pointer is to an integer of this frame, and cuInit has succeeded.
        let status = unsafe { (self.device_count)(&raw mut count) };
        self.check(status).map(|()| usize::try_from(count).unwrap_or(0))
    }

    fn check(&self, number: c_int) -> Result<(), CudaError> {
        if number == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: the pointer is to a pointer of this frame, which is set to a static string or to null.
        let known = unsafe { (self.error_name)(number, &raw mut text) } == 0 && !text.is_null();
        // SAFETY: not null, and the driver's strings end with a zero and live as long as it.
        let name = known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned());
        Err(CudaError::Start { name: name.unwrap_or_else(|| "an unknown error".to_owned()), number })
    }
}

/// # Safety
/// `T` is a pointer to a function of the symbol's signature.
unsafe fn symbol<T>(library: &Library, name: &CStr) -> Result<Symbol<T>, CudaError> {
    // SAFETY: as the caller vouches.
    unsafe { library.get(name.to_bytes_with_nul()) }.map_err(|_| CudaError::NoSymbol {
        library: Nvidia::Driver,
        symbol: name.to_string_lossy().into_owned(),
    })
}

/// `580.65.06` of "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul …": the first word of numbers.
fn module_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    line.split_whitespace().find(is_version).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_modules_version_is_read_in_either_form() {
        let closed =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: 13.2.0\n";
        assert_eq!(module_version(closed).as_deref(), Some("535.129.03"));
        assert_eq!(module_version(open).as_deref(), Some("580.65.06"));
        assert_eq!(module_version("GCC version: 13.2.0\n"), None);
    }
}
