//! A launch and its arguments.

use super::memory::{DevicePtr, Elem};

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

/// A kernel's argument: a value of at most eight bytes, at the start of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Arg([u8; 8]);

impl Arg {
    /// Where the value lies, as a launch wants it.
    pub fn as_ptr(&self) -> *const std::ffi::c_void {
        self.0.as_ptr().cast()
    }
}

macro_rules! arg_from {
    ($($type:ty),+) => {
        $(impl From<$type> for Arg {
            fn from(value: $type) -> Self {
                let mut place = [0; 8];
                let bytes = value.to_ne_bytes();
                place[..bytes.len()].copy_from_slice(&bytes);
                Self(place)
            }
        })+
    };
}

arg_from!(i32, u32, u64, f32);

impl From<DevicePtr> for Arg {
    fn from(ptr: DevicePtr) -> Self {
        ptr.address().into()
    }
}

/// Elements of a pack of 16 bytes.
pub(crate) const fn pack_len(elem: Elem) -> usize {
    16 / elem.bytes()
}

/// Blocks of `threads` threads, a pack of 16 bytes each, over `n` elements.
pub(crate) fn pack_grid(n: usize, elem: Elem, threads: usize) -> u32 {
    n.div_ceil(pack_len(elem) * threads) as u32
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
