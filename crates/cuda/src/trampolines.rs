//! The entry points that candle is linked against, each a jump through a slot that [`fill`] points at a library.
//!
//! Until then a slot leads to a stub that answers 100, `CUDA_ERROR_NO_DEVICE`. The symbols are hidden: they serve this
//! program, and no library that it opens.

use std::collections::HashMap;
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

/// Opens every library of the table and points the slots at them, or leaves them all as they are.
///
/// NVRTC may be missing: nothing in here compiles at run time, candle only could.
///
/// # Errors
/// If another library is missing, or lacks an entry point.
pub(crate) fn fill() -> Result<(), CudaError> {
    let mut libraries = HashMap::new();
    // cuBLAS asks the loader for it by name, in vain where wheels put both; once open, it is found.
    libraries.insert(Nvidia::CublasLt, open(Nvidia::CublasLt)?);
    let mut found = TABLE.map(|_| None);
    for (place, &(library, name)) in found.iter_mut().zip(&TABLE) {
        if !libraries.contains_key(&library) {
            match open(library) {
                Ok(opened) => libraries.insert(library, opened),
                Err(_) if library == Nvidia::Nvrtc => continue,
                Err(error) => return Err(error),
            };
        }
        *place = Some(address(&libraries[&library], library, name)?);
    }
    for (i, address) in found.into_iter().enumerate() {
        if let Some(address) = address {
            // SAFETY: `i` is below the table's length, which is the number of slots; `load` calls this once, before
            // anything is called through them.
            unsafe { (&raw mut wattle_cuda_slots[i]).write(address) };
        }
    }
    // They stay for as long as the process.
    libraries.into_values().for_each(std::mem::forget);
    Ok(())
}

fn address(opened: &Library, library: Nvidia, name: &CStr) -> Result<*const c_void, CudaError> {
    // SAFETY: only the address is taken; whoever calls it has the signature from cudarc.
    let symbol = unsafe { opened.get::<*const c_void>(name.to_bytes_with_nul()) };
    let symbol =
        symbol.map_err(|_| CudaError::NoSymbol { library, symbol: name.to_string_lossy().into_owned() })?;
    Ok(symbol.into_raw().cast_const())
}
