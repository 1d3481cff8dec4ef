//! cuBLASLt's functions, and what it makes.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use wattle_cuda::Nvidia;

use super::driver::Handle;
use super::entry::entry_points;
use crate::board::{BoardError, Elem};

/// `CUBLAS_COMPUTE_32F`.
pub(super) const COMPUTE_32F: c_int = 68;
/// `CUBLAS_COMPUTE_32F_FAST_TF32`.
pub(super) const COMPUTE_32F_FAST_TF32: c_int = 77;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, an `int32_t`.
pub(super) const DESC_TRANSA: c_int = 3;
/// `CUBLASLT_MATMUL_DESC_TRANSB`, an `int32_t`.
pub(super) const DESC_TRANSB: c_int = 4;
/// `CUBLASLT_MATMUL_DESC_EPILOGUE`, a `uint32_t`.
pub(super) const DESC_EPILOGUE: c_int = 7;
/// `CUBLASLT_MATMUL_DESC_BIAS_POINTER`, a device address; its type is that of the result unless said.
pub(super) const DESC_BIAS_POINTER: c_int = 8;
/// `CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER`, a device address.
pub(super) const DESC_AUX_POINTER: c_int = 11;
/// `CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD`, an `int64_t`.
pub(super) const DESC_AUX_LD: c_int = 12;
/// `CUBLASLT_MATMUL_DESC_A_SCALE_POINTER`, a device address of one `f32`.
pub(super) const DESC_A_SCALE_POINTER: c_int = 17;
/// `CUBLASLT_MATMUL_DESC_B_SCALE_POINTER`, a device address of one `f32`.
pub(super) const DESC_B_SCALE_POINTER: c_int = 18;
/// `CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT`, an `int32_t`.
pub(super) const LAYOUT_BATCH_COUNT: c_int = 5;
/// `CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET`, an `int64_t`.
pub(super) const LAYOUT_BATCH_STRIDE: c_int = 6;
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`, a `uint64_t`.
pub(super) const PREF_MAX_WORKSPACE_BYTES: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{A,B,C,D}_BYTES`, each a `uint32_t`.
pub(super) const PREF_MIN_ALIGNMENTS: [c_int; 4] = [5, 6, 7, 8];
/// `CUBLASLT_EPILOGUE_DEFAULT`.
pub(super) const EPILOGUE_DEFAULT: u32 = 1;
/// `CUBLASLT_EPILOGUE_BIAS`.
pub(super) const EPILOGUE_BIAS: u32 = 4;
/// `CUBLASLT_EPILOGUE_GELU_AUX_BIAS`, whose GELU is the one with tanh.
pub(super) const EPILOGUE_GELU_AUX_BIAS: u32 = EPILOGUE_GELU_AUX | 4;
/// `CUBLASLT_EPILOGUE_GELU_AUX`.
pub(super) const EPILOGUE_GELU_AUX: u32 = 32 | 128;
/// `CUBLASLT_EPILOGUE_DGELU`.
pub(super) const EPILOGUE_DGELU: u32 = 64 | 128;
/// `CUBLASLT_EPILOGUE_BGRADA`: sums of the left factor over the inner size, of the type of the result unless said.
pub(super) const EPILOGUE_BGRADA: u32 = 256;
/// `CUBLASLT_EPILOGUE_BGRADB`: the same of the right factor.
pub(super) const EPILOGUE_BGRADB: u32 = 512;

/// `cudaDataType` of an element.
pub(super) const fn data_type(elem: Elem) -> c_int {
    match elem {
        Elem::F32 => 0,
        Elem::Bf16 => 14,
        Elem::E4m3 => 28,
        Elem::E5m2 => 29,
    }
}

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Heuristic {
    pub(super) algorithm: [u64; 8],
    pub(super) workspace_bytes: usize,
    pub(super) state: c_int,
    pub(super) waves: f32,
    reserved: [c_int; 4],
}

entry_points! {
    /// The part of cuBLASLt that a board needs.
    CublasLt of Nvidia::CublasLt;
    create = cublasLtCreate(*mut Handle) -> c_int;
    destroy = cublasLtDestroy(Handle) -> c_int;
    status_text = cublasLtGetStatusString(c_int) -> *const c_char;
    version = cublasLtGetVersion() -> usize;
    desc_create = cublasLtMatmulDescCreate(*mut Handle, c_int, c_int) -> c_int;
    desc_destroy = cublasLtMatmulDescDestroy(Handle) -> c_int;
    desc_set = cublasLtMatmulDescSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    layout_create = cublasLtMatrixLayoutCreate(*mut Handle, c_int, u64, u64, i64) -> c_int;
    layout_destroy = cublasLtMatrixLayoutDestroy(Handle) -> c_int;
    layout_set = cublasLtMatrixLayoutSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    preference_create = cublasLtMatmulPreferenceCreate(*mut Handle) -> c_int;
    preference_destroy = cublasLtMatmulPreferenceDestroy(Handle) -> c_int;
    preference_set = cublasLtMatmulPreferenceSetAttribute(Handle, c_int, *const c_void, usize) -> c_int;
    heuristics = cublasLtMatmulAlgoGetHeuristic(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Heuristic, *mut c_int,
    ) -> c_int;
    matmul = cublasLtMatmul(
        Handle, Handle, *const c_void, u64, Handle, u64, Handle, *const c_void, u64, Handle, u64, Handle,
        *const u64, u64, usize, Handle,
    ) -> c_int;
}

/// How an attribute of something is set.
type Setter = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int;
/// How something is destroyed.
type Destroy = unsafe extern "C" fn(Handle) -> c_int;

impl CublasLt {
    /// An error unless `status` is success.
    pub(super) fn check(&self, call: &'static str, status: c_int) -> Result<(), BoardError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: it takes any number.
        let text = unsafe { (self.status_text)(status) };
        let name = if text.is_null() {
            "unknown".into()
        } else {
            // SAFETY: not null: a static string that ends with a zero.
            unsafe { CStr::from_ptr(text) }.to_string_lossy()
        };
        Err(BoardError::Call { call, why: format!("{name} ({status})") })
    }
}

/// A description that cuBLASLt keeps.
pub(super) struct Description {
    table: Arc<CublasLt>,
    pub(super) handle: Handle,
    setter: Setter,
    destroy: Destroy,
}

impl Description {
    /// What is computed: in `compute`, with factors in `f32`.
    pub(super) fn of_product(table: &Arc<CublasLt>, compute: c_int) -> Result<Self, BoardError> {
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame.
        let status = unsafe { (table.desc_create)(&raw mut handle, compute, data_type(Elem::F32)) };
        table.check("cublasLtMatmulDescCreate", status)?;
        Ok(Self::made(table, handle, table.desc_set, table.desc_destroy))
    }

    /// How a matrix lies.
    pub(super) fn of_layout(
        table: &Arc<CublasLt>,
        elem: Elem,
        rows: usize,
        columns: usize,
        leading: usize,
    ) -> Result<Self, BoardError> {
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame.
        let status = unsafe {
            (table.layout_create)(
                &raw mut handle,
                data_type(elem),
                rows as u64,
                columns as u64,
                leading as i64,
            )
        };
        table.check("cublasLtMatrixLayoutCreate", status)?;
        Ok(Self::made(table, handle, table.layout_set, table.layout_destroy))
    }

    /// What an algorithm may need.
    pub(super) fn of_preference(table: &Arc<CublasLt>) -> Result<Self, BoardError> {
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is to a handle of this frame.
        let status = unsafe { (table.preference_create)(&raw mut handle) };
        table.check("cublasLtMatmulPreferenceCreate", status)?;
        Ok(Self::made(table, handle, table.preference_set, table.preference_destroy))
    }

    /// Sets an attribute, whose type in C is as large as `T`: cuBLASLt refuses any other size.
    pub(super) fn set<T: Copy>(&self, attribute: c_int, value: T) -> Result<(), BoardError> {
        let value: *const T = &raw const value;
        // SAFETY: the value is read during the call, and its size is said.
        let status = unsafe { (self.setter)(self.handle, attribute, value.cast(), size_of::<T>()) };
        self.table.check("cublasLt…SetAttribute", status)
    }

    fn made(table: &Arc<CublasLt>, handle: Handle, setter: Setter, destroy: Destroy) -> Self {
        Self { table: Arc::clone(table), handle, setter, destroy }
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: made by the constructor that named `destroy`, and not used after.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}
