//! The kernels of `kernels/`, loaded into a context.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Arc;

use super::context::Context;
use super::driver::{self, Handle};
use super::stream::Stream;
use crate::board::{BoardError, Launch};

/// What a fat binary begins with.
const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// Room for what the driver's compiler says of an error.
const LOG_BYTES: usize = 8192;
/// More arguments than a kernel has.
const MAX_ARGS: usize = 64;

/// Every kernel of some fat binaries, by name.
pub(super) struct Kernels {
    context: Arc<Context>,
    modules: Vec<Handle>,
    /// Filled once, so that a launch takes no lock.
    functions: HashMap<String, Handle>,
}

impl Kernels {
    /// Loads `fatbins`, each with the name of its source.
    pub(super) fn load(context: &Arc<Context>, fatbins: &[(&str, &[u8])]) -> Result<Self, BoardError> {
        context.bind()?;
        let mut kernels =
            Self { context: Arc::clone(context), modules: Vec::new(), functions: HashMap::new() };
        for (name, fatbin) in fatbins {
            kernels.add(name, fatbin)?;
        }
        Ok(kernels)
    }

    /// Queues a launch.
    pub(super) fn launch(&self, stream: &Stream, launch: &Launch<'_>) -> Result<(), BoardError> {
        let no_kernel = || BoardError::NoKernel(launch.kernel.to_owned());
        let function = *self.functions.get(launch.kernel).ok_or_else(no_kernel)?;
        assert!(launch.args.len() <= MAX_ARGS, "{} has {} arguments", launch.kernel, launch.args.len());
        let mut args = [ptr::null_mut(); MAX_ARGS];
        for (place, arg) in args.iter_mut().zip(launch.args) {
            *place = arg.as_ptr().cast_mut();
        }
        let ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]) = (launch.grid, launch.block);
        // SAFETY: the function lives as long as `self`. Each argument is read now, at most eight bytes of it; that
        // they are those of the kernel is the launcher's part, which stands beside it in `crates/ops`.
        let status = unsafe {
            (self.context.driver.launch)(
                function,
                grid_x,
                grid_y,
                grid_z,
                block_x,
                block_y,
                block_z,
                launch.shared_bytes,
                stream.handle,
                args.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        if status == 0 {
            return Ok(());
        }
        Err(BoardError::Launch { kernel: launch.kernel.to_owned(), why: self.context.driver.explain(status) })
    }

    fn add(&mut self, name: &str, fatbin: &[u8]) -> Result<(), BoardError> {
        let refused = |why: String| BoardError::Kernels { source_name: name.to_owned(), why };
        if fatbin.get(..4) != Some(&FATBIN_MAGIC.to_le_bytes()) {
            return Err(refused("it is no fat binary; build with nvcc, not with its stand-in".to_owned()));
        }
        let module = load_module(&self.context, fatbin).map_err(refused)?;
        self.modules.push(module);
        for function in functions_of(&self.context, module)? {
            let name = prepare(&self.context, function)?;
            self.functions.insert(name, function);
        }
        Ok(())
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.context.bind().is_err() {
            return;
        }
        for module in &self.modules {
            // SAFETY: loaded by `add`; the functions of it go with `self`.
            let _ = unsafe { (self.context.driver.module_unload)(*module) };
        }
    }
}

/// The module, or what the driver and its compiler say against it.
fn load_module(context: &Context, fatbin: &[u8]) -> Result<Handle, String> {
    // The driver reads words.
    let mut words = vec![0_u64; fatbin.len().div_ceil(8)];
    // SAFETY: the words have room for as many bytes, and do not overlap them.
    unsafe { ptr::copy_nonoverlapping(fatbin.as_ptr(), words.as_mut_ptr().cast(), fatbin.len()) };
    let mut log = vec![0_u8; LOG_BYTES];
    let mut options = [driver::JIT_ERROR_LOG_BUFFER, driver::JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG_BYTES - 1)];
    let mut module = Handle::NULL;
    // SAFETY: the image is a fat binary, which knows its own length; there are as many values as options, and the
    // log has the room that is said.
    let status = unsafe {
        (context.driver.module_load)(
            &raw mut module,
            words.as_ptr().cast(),
            options.len() as c_uint,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    if status == 0 {
        return Ok(module);
    }
    let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
    Err(format!("{} {log}", context.driver.explain(status)).trim_end().to_owned())
}

fn functions_of(context: &Context, module: Handle) -> Result<Vec<Handle>, BoardError> {
    let mut count = 0;
    // SAFETY: the pointer is to an integer of this frame, the module is loaded.
    let status = unsafe { (context.driver.function_count)(&raw mut count, module) };
    context.driver.check("cuModuleGetFunctionCount", status)?;
    let mut functions = vec![Handle::NULL; count as usize];
    // SAFETY: there is room for `count` handles.
    let status = unsafe { (context.driver.functions)(functions.as_mut_ptr(), count, module) };
    context.driver.check("cuModuleEnumerateFunctions", status)?;
    Ok(functions)
}

/// The kernel's name. It may use from now on all the shared memory that a block can have; that also loads it, which
/// the driver otherwise puts off to the first launch.
fn prepare(context: &Context, function: Handle) -> Result<String, BoardError> {
    let d = &context.driver;
    let mut name = ptr::null();
    // SAFETY: the pointer is to a pointer of this frame.
    d.check("cuFuncGetName", unsafe { (d.function_name)(&raw mut name, function) })?;
    // SAFETY: the call has succeeded: a string that ends with a zero and lives as long as the module.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    let mut fixed: c_int = 0;
    // SAFETY: the pointer is to an integer of this frame.
    let status = unsafe { (d.function_attribute)(&raw mut fixed, driver::FUNC_SHARED_BYTES, function) };
    d.check("cuFuncGetAttribute", status)?;
    let dynamic = context.attribute(driver::MAX_SHARED_BYTES_OPTIN)? - fixed;
    // SAFETY: the function is the loaded module's.
    let status =
        unsafe { (d.function_set_attribute)(function, driver::FUNC_MAX_DYNAMIC_SHARED_BYTES, dynamic) };
    d.check("cuFuncSetAttribute", status)?;
    Ok(name)
}
