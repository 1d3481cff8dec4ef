//! cuDNN's fused attention, through the C interface of `cudnn.cpp`.
//!
//! cuDNN is opened at run time. A program that was built without its headers says so instead.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use wattle_cuda::{Nvidia, open};

use crate::attention::Kind;
use crate::board::{
    AttentionBackward, AttentionForward, AttentionPass, AttentionShape, BoardError, DevicePtr,
};

/// Room for a sentence of cuDNN's.
const MESSAGE_BYTES: usize = 1024;
/// Room for the names of plans, of about 40 bytes each.
const NAMES_BYTES: usize = 16 << 10;

/// cuDNN, working on one stream.
pub(crate) struct Cudnn {
    api: Api,
    handle: *mut c_void,
}

// SAFETY: a handle of cuDNN may be used by one thread at a time; who shares a `Cudnn` locks it.
unsafe impl Send for Cudnn {}

/// How one direction of one shape is computed.
pub(crate) struct CudnnPlan {
    api: Api,
    plan: *mut c_void,
    /// Bytes of workspace that each run needs.
    pub(crate) workspace_bytes: usize,
}

// SAFETY: a plan is bound to no thread.
unsafe impl Send for CudnnPlan {}

/// `wattle_attention_shape`.
#[repr(C)]
struct CShape {
    batch: i64,
    time: i64,
    n_heads: i64,
    n_kv_heads: i64,
    head_width: i64,
    qkv_row: i64,
    out_row: i64,
    scale: f32,
    deterministic: i32,
    /// 1 if no query sees a later position.
    causal: i32,
    /// Positions that a query sees back from itself, itself included; 0 for all.
    window: i32,
}

/// `wattle_attention_tensors`.
#[derive(Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct CTensors {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    stats: u64,
    grad_out: u64,
    grad_q: u64,
    grad_k: u64,
    grad_v: u64,
}

impl Cudnn {
    /// Opens cuDNN for work on `stream`, of the context that is bound.
    pub(crate) fn open(stream: *mut c_void) -> Result<Self, BoardError> {
        let api = Api::get()?;
        // cuDNN finds these by name once they are in the process, wherever they lie. What it does not need, it does
        // without; what it needs and does not find, it names.
        for library in [Nvidia::Cublas, Nvidia::Nvrtc] {
            if let Ok(library) = open(library) {
                std::mem::forget(library);
            }
        }
        std::mem::forget(open(Nvidia::Runtime)?);
        let library = open(Nvidia::Cudnn)?.into_raw();
        let mut handle = ptr::null_mut();
        said("cuDNN", |message, size| {
            // SAFETY: the library is cuDNN and stays open; the stream is of the bound context.
            unsafe { (api.open)(library, stream, &raw mut handle, message, size) }
        })?;
        Ok(Self { api, handle })
    }

    /// cuDNN's version, as 91900.
    pub(crate) fn version(&self) -> usize {
        // SAFETY: cuDNN is open.
        unsafe { (self.api.version)() }
    }

    /// The names of the plans that there are for a pass, cuDNN's best guess first. With `deterministic`, of those alone
    /// that sum gradients in one order.
    pub(crate) fn names(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        deterministic: bool,
    ) -> Result<Vec<String>, BoardError> {
        let (shape, mut names) = (CShape::of(shape, deterministic), vec![0_u8; NAMES_BYTES]);
        said("cuDNN's plans", |message, size| {
            let (names, names_size) = (names.as_mut_ptr().cast(), names.len());
            // SAFETY: the handle lives, and all pointers are to values of this frame, whose sizes are said.
            unsafe {
                let shape = &raw const shape;
                (self.api.names)(self.handle, shape, is_backward(pass), names, names_size, message, size)
            }
        })?;
        let lines = CStr::from_bytes_until_nul(&names).unwrap_or_default().to_string_lossy();
        Ok(lines.lines().map(ToOwned::to_owned).collect())
    }

    /// Makes the plan called `name`; this may take seconds.
    pub(crate) fn plan(
        &self,
        shape: &AttentionShape,
        pass: AttentionPass,
        deterministic: bool,
        name: &str,
    ) -> Result<CudnnPlan, BoardError> {
        let failed = |why: &str| BoardError::Call { call: "cuDNN's plan", why: why.to_owned() };
        let name = CString::new(name).map_err(|_| failed("its name has a zero"))?;
        let shape = CShape::of(shape, deterministic);
        let (mut plan, mut workspace_bytes) = (ptr::null_mut(), 0);
        said("cuDNN's plan", |message, size| {
            let (plan, bytes) = (&raw mut plan, &raw mut workspace_bytes);
            // SAFETY: the handle lives, and all pointers are to values of this frame.
            unsafe {
                let (shape, name) = (&raw const shape, name.as_ptr());
                (self.api.plan)(self.handle, shape, is_backward(pass), name, plan, bytes, message, size)
            }
        })?;
        let api = self.api;
        Ok(CudnnPlan { api, plan, workspace_bytes: usize::try_from(workspace_bytes).unwrap_or(0) })
    }

    /// Queues a plan. The tensors are as its shape says, and `workspace` has as many bytes as it needs.
    pub(crate) fn run(
        &self,
        plan: &CudnnPlan,
        tensors: &CTensors,
        workspace: DevicePtr,
    ) -> Result<(), BoardError> {
        let workspace = ptr::without_provenance_mut(workspace.address() as usize);
        said("cuDNN's attention", |message, size| {
            let tensors = ptr::from_ref(tensors);
            // SAFETY: handle and plan live; that the addresses are of such tensors is the caller's part.
            unsafe { (self.api.run)(self.handle, plan.plan, tensors, workspace, message, size) }
        })
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and not used after.
        unsafe { (self.api.close)(self.handle) };
    }
}

impl Drop for CudnnPlan {
    fn drop(&mut self) {
        // SAFETY: made by `Cudnn::plan`, and not used after.
        unsafe { (self.api.free)(self.plan) };
    }
}

fn is_backward(pass: AttentionPass) -> i32 {
    i32::from(pass == AttentionPass::Backward)
}

impl CShape {
    fn of(shape: &AttentionShape, deterministic: bool) -> Self {
        Self {
            batch: shape.batch as i64,
            time: shape.time as i64,
            n_heads: shape.n_heads as i64,
            n_kv_heads: shape.n_kv_heads as i64,
            head_width: shape.head_width as i64,
            qkv_row: shape.qkv_row_stride as i64,
            out_row: shape.out_row_stride as i64,
            scale: (1.0 / (shape.head_width as f64).sqrt()) as f32,
            deterministic: i32::from(deterministic),
            causal: i32::from(shape.kind != Kind::Full),
            // A window as long as the sequence is causal attention, for which cuDNN has more kernels.
            window: match shape.kind {
                Kind::Window(window) if window < shape.time => window as i32,
                _ => 0,
            },
        }
    }
}

impl From<&AttentionForward> for CTensors {
    fn from(tensors: &AttentionForward) -> Self {
        let AttentionForward { q, k, v, out, stats } = tensors;
        let [q, k, v, out] = [q, k, v, out].map(|tensor| tensor.bytes().address());
        let stats = stats.bytes().address();
        Self { q, k, v, out, stats, grad_out: 0, grad_q: 0, grad_k: 0, grad_v: 0 }
    }
}

impl From<&AttentionBackward> for CTensors {
    fn from(tensors: &AttentionBackward) -> Self {
        let AttentionBackward { forward, grad_out, grad_q, grad_k, grad_v } = tensors;
        let [grad_out, grad_q, grad_k, grad_v] =
            [grad_out, grad_q, grad_k, grad_v].map(|tensor| tensor.bytes().address());
        Self { grad_out, grad_q, grad_k, grad_v, ..Self::from(forward) }
    }
}

/// Does `call`, which gives 0 or writes a sentence.
fn said(name: &'static str, call: impl FnOnce(*mut c_char, usize) -> c_int) -> Result<(), BoardError> {
    let mut message = [0_u8; MESSAGE_BYTES];
    if call(message.as_mut_ptr().cast(), message.len()) == 0 {
        return Ok(());
    }
    let text = CStr::from_bytes_until_nul(&message).unwrap_or_default();
    Err(BoardError::Call { call: name, why: text.to_string_lossy().into_owned() })
}

/// Defines the functions of `cudnn.cpp`: a table of them, and where they come from.
macro_rules! functions {
    ($($field:ident = $symbol:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?;)+) => {
        /// The C interface of `cudnn.cpp`.
        #[derive(Clone, Copy)]
        struct Api {
            $($field: unsafe extern "C" fn($($type),*) $(-> $ret)?,)+
        }

        impl Api {
            /// What is part of the program.
            #[cfg(cudnn)]
            fn get() -> Result<Self, BoardError> {
                unsafe extern "C" {
                    $(fn $symbol($($arg: $type),*) $(-> $ret)?;)+
                }
                Ok(Self { $($field: $symbol,)+ })
            }

            /// What the stand-in for cuDNN has, where it is opened in place of cuDNN.
            #[cfg(all(not(cudnn), test))]
            fn get() -> Result<Self, BoardError> {
                let library = open(Nvidia::Cudnn).map_err(|_| not_built())?;
                let api = Self {
                    $(
                        // SAFETY: the stand-in defines it with the signature of `cudnn.cpp`.
                        $field: *unsafe { library.get(concat!(stringify!($symbol), "\0").as_bytes()) }
                            .map_err(|_| not_built())?,
                    )+
                };
                std::mem::forget(library);
                Ok(api)
            }

            #[cfg(not(any(cudnn, test)))]
            fn get() -> Result<Self, BoardError> {
                Err(not_built())
            }
        }
    };
}

functions! {
    open = wattle_attention_open(
        library: *mut c_void, stream: *mut c_void, handle: *mut *mut c_void, message: *mut c_char, size: usize,
    ) -> c_int;
    close = wattle_attention_close(handle: *mut c_void);
    version = wattle_attention_version() -> usize;
    names = wattle_attention_names(
        handle: *mut c_void, shape: *const CShape, backward: i32, names: *mut c_char, names_size: usize,
        message: *mut c_char, size: usize,
    ) -> c_int;
    plan = wattle_attention_plan(
        handle: *mut c_void, shape: *const CShape, backward: i32, name: *const c_char, plan: *mut *mut c_void,
        workspace_bytes: *mut i64, message: *mut c_char, size: usize,
    ) -> c_int;
    free = wattle_attention_free(plan: *mut c_void);
    run = wattle_attention_run(
        handle: *mut c_void, plan: *mut c_void, tensors: *const CTensors, workspace: *mut c_void,
        message: *mut c_char, size: usize,
    ) -> c_int;
}

#[cfg(not(cudnn))]
fn not_built() -> BoardError {
    let why = "this program was built without it; build where scripts/cuda_toolkit.sh --with cudnn has been, or with \
               CUDNN_FRONTEND_INCLUDE set to the headers of nvidia-cudnn-frontend and nvidia-cudnn-cu13";
    BoardError::Call { call: "cuDNN", why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_passed_on() {
        let error = said("cuDNN", |message, size| {
            let sentence = c"no engine for this shape";
            assert!(sentence.count_bytes() < size);
            // SAFETY: there is room, as was just checked.
            unsafe { ptr::copy_nonoverlapping(sentence.as_ptr(), message, sentence.count_bytes()) };
            1
        });
        assert_eq!(error.unwrap_err().to_string(), "cuDNN: no engine for this shape");
        assert!(said("cuDNN", |_, _| 0).is_ok());
    }

    #[test]
    fn a_window_as_long_as_the_sequence_is_causal_attention() {
        let of = |kind| {
            let shape = AttentionShape {
                batch: 2,
                time: 100,
                n_heads: 4,
                n_kv_heads: 2,
                head_width: 16,
                qkv_row_stride: 128,
                out_row_stride: 64,
                kind,
                has_documents: false,
            };
            let CShape { causal, window, .. } = CShape::of(&shape, false);
            (causal, window)
        };
        assert_eq!(of(Kind::Causal), (1, 0));
        assert_eq!(of(Kind::Full), (0, 0));
        assert_eq!([99, 100, 101].map(|window| of(Kind::Window(window))), [(1, 99), (1, 0), (1, 0)]);
    }

    #[cfg(not(cudnn))]
    #[test]
    fn without_its_headers_the_program_says_how_to_get_it() {
        let Err(error) = Cudnn::open(ptr::null_mut()) else { panic!("there is no cuDNN in this program") };
        assert!(error.to_string().contains("CUDNN_FRONTEND_INCLUDE"), "{error}");
    }
}
