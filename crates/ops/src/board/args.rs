//! A launch and its arguments.

use super::BoardError;
use super::memory::{DevicePtr, DeviceTensor, Elem, Ptr};
use super::step_result::{GradNorm, StepResult};
use super::step_state::StepState;

/// One launch of a kernel.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// The kernel's symbol.
    pub kernel: &'a str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// What the kernel is given, in order.
    pub args: &'a [Arg],
}

/// Blocks that a grid has at most in each direction.
///
/// # References
/// CUDA C++ programming guide, technical specifications per compute capability.
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

impl Launch<'_> {
    /// Refuses a grid that no device launches.
    ///
    /// # Errors
    /// [`BoardError::Launch`] that names the kernel.
    pub fn check_grid(&self) -> Result<(), BoardError> {
        match self.grid.iter().zip(MAX_GRID).all(|(&blocks, most)| blocks <= most) {
            true => Ok(()),
            false => Err(BoardError::Launch {
                kernel: self.kernel.to_owned(),
                why: format!("a grid of {:?} blocks, where {MAX_GRID:?} are the most", self.grid),
            }),
        }
    }
}

/// A kernel's argument: a value of at most eight bytes, at the start of its place, and its type in C++.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Arg {
    value: [u8; 8],
    code: u8,
}

impl Arg {
    /// The number, of an argument that is one.
    pub fn number(&self) -> Option<i64> {
        let value = self.value;
        match self.code {
            b'i' => Some(i32::from_ne_bytes([value[0], value[1], value[2], value[3]]).into()),
            b'u' => Some(u32::from_ne_bytes([value[0], value[1], value[2], value[3]]).into()),
            b'q' => i64::try_from(u64::from_ne_bytes(value)).ok(),
            _ => None,
        }
    }

    /// The address, of an argument that is one and not null.
    pub fn address(&self) -> Option<DevicePtr> {
        let is_pointer = self.code.is_ascii_uppercase();
        is_pointer.then(|| DevicePtr::new(u64::from_ne_bytes(self.value)))
    }

    /// Where the value lies, as a launch takes it.
    pub fn as_ptr(&self) -> *const std::ffi::c_void {
        self.value.as_ptr().cast()
    }

    /// The type, as the stand-in of `tests/kernel_shim` names those of a kernel's parameters: a lower-case letter for a
    /// value, an upper-case one for a pointer, `0` for a null pointer to anything.
    pub const fn code(&self) -> u8 {
        self.code
    }

    fn new(value: &[u8], code: u8) -> Self {
        let mut place = [0; 8];
        place[..value.len()].copy_from_slice(value);
        Self { value: place, code }
    }

    fn pointer(to: DevicePtr, code: u8) -> Self {
        Self::new(&to.address().to_ne_bytes(), code)
    }
}

macro_rules! values {
    ($($type:ty => $code:literal),+) => {
        $(impl From<$type> for Arg {
            fn from(value: $type) -> Self {
                Self::new(&value.to_ne_bytes(), $code)
            }
        })+
    };
}

values!(i32 => b'i', u32 => b'u', u64 => b'q', f32 => b'f', f64 => b'd');

macro_rules! pointers {
    ($($type:ty => $code:literal),+) => {
        $(impl From<Ptr<$type>> for Arg {
            fn from(ptr: Ptr<$type>) -> Self {
                Self::pointer(ptr.bytes(), $code)
            }
        })+
    };
}

pointers!(u32 => b'U', f32 => b'F', f64 => b'D', StepState => b'S', GradNorm => b'N', StepResult => b'R');

impl From<DeviceTensor> for Arg {
    fn from(tensor: DeviceTensor) -> Self {
        let code = match tensor.elem() {
            Elem::F32 => b'F',
            Elem::Bf16 => b'H',
            Elem::E4m3 | Elem::E5m2 => b'B',
        };
        Self::pointer(tensor.bytes(), code)
    }
}

impl<T: Into<Arg>> From<Option<T>> for Arg {
    /// Nothing is a null pointer.
    fn from(optional: Option<T>) -> Self {
        optional.map_or(Self::new(&[], b'0'), Into::into)
    }
}

/// Elements of a pack of 16 bytes.
pub(crate) const fn pack_len(elem: Elem) -> usize {
    16 / elem.bytes()
}

/// Whether rows of `c` elements are whole packs at multiples of 16 bytes in each of `tensors`.
pub(crate) fn are_packs(c: usize, tensors: &[DeviceTensor]) -> bool {
    let is_whole = |tensor: &DeviceTensor| {
        c.is_multiple_of(pack_len(tensor.elem())) && tensor.bytes().address().is_multiple_of(16)
    };
    tensors.iter().all(is_whole)
}

/// Blocks of `threads` threads, a pack of 16 bytes each, over `n` elements.
pub(crate) fn pack_grid(n: usize, elem: Elem, threads: usize) -> u32 {
    u32::try_from(n.div_ceil(pack_len(elem) * threads)).unwrap_or(u32::MAX)
}

/// A kernel's symbol.
pub(crate) fn symbol(stem: &str, elem: Elem) -> String {
    format!("{stem}_{}", elem.suffix())
}

/// `args![a, b, …]`: what a kernel is given.
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$($crate::board::Arg::from($arg)),*] };
}
pub(crate) use args;
