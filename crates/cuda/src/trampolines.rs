//! The entry points that candle is linked against, each a jump through a slot that [`fill`] points at a library.
//!
//! Until then a slot leads to a stub that answers 100, `CUDA_ERROR_NO_DEVICE`. The symbols are hidden: they serve this
//! program, and no library that it opens.

use std::ffi::{CStr, c_void};

use libloading::os::unix::Library;

use crate::error::CudaError;
use crate::library::{Nvidia, open};

include!(concat!(env!("OUT_DIR"), "/table.rs"));

std::arch::global_asm!(include_str!(concat!(env!("OUT_DIR"), "/trampolines.s")));

unsafe extern "C" {
    /// In the order of `TABLE`.
    static mut wattle_cuda_slots: [*const c_void; TABLE.len()];
}

/// In the order in which they are opened. cuBLAS asks the loader for cuBLASLt by its name, in vain where wheels put
/// both; once that is open, it is found.
const LIBRARIES: [Nvidia; 5] =
    [Nvidia::Driver, Nvidia::CublasLt, Nvidia::Cublas, Nvidia::Curand, Nvidia::Nvrtc];

/// Opens every library of the table and points the slots at them, or leaves them all as they are.
///
/// NVRTC may be missing: nothing in here compiles at run time, candle only could.
///
/// # Errors
/// If another library is missing, or lacks an entry point.
pub(crate) fn fill() -> Result<(), CudaError> {
    let mut found = TABLE.map(|_| None);
    let mut libraries = Vec::new();
    for library in LIBRARIES {
        let opened = match open(library) {
            Err(_) if library == Nvidia::Nvrtc => continue,
            opened => opened?,
        };
        for (place, (_, name)) in found.iter_mut().zip(&TABLE).filter(|(_, (whose, _))| *whose == library) {
            *place = Some(address(&opened, library, name)?);
        }
        libraries.push(opened);
    }
    for (i, address) in found.into_iter().enumerate() {
        if let Some(address) = address {
            // SAFETY: `i` is below the table's length, which is the number of slots; `load` calls this once, before
            // anything is called through them.
            unsafe { (&raw mut wattle_cuda_slots[i]).write(address) };
        }
    }
    // They stay for as long as the process.
    libraries.into_iter().for_each(std::mem::forget);
    Ok(())
}

fn address(opened: &Library, library: Nvidia, name: &CStr) -> Result<*const c_void, CudaError> {
    // SAFETY: only the address is taken; whoever calls it has the signature from cudarc.
    let symbol = unsafe { opened.get::<*const c_void>(name.to_bytes_with_nul()) };
    let symbol =
        symbol.map_err(|_| CudaError::NoSymbol { library, symbol: name.to_string_lossy().into_owned() })?;
    Ok(symbol.into_raw().cast_const())
}
