//! Cuts one allocation into buffers.

use wattle_ops::board::{DevicePtr, DeviceTensor, Elem, Ptr};

/// Every buffer starts at a multiple of this many bytes.
const ALIGNMENT: u64 = 256;

/// Hands out one piece of memory after the other. At address 0 it only counts: a plan is made by the very code
/// that cuts.
pub(super) struct Cutter {
    base: u64,
    len_bytes: u64,
}

impl Cutter {
    /// Cuts what starts at `base`.
    pub(super) fn new(base: DevicePtr) -> Self {
        Self { base: base.address(), len_bytes: 0 }
    }

    /// Room for `n` elements.
    pub(super) fn take(&mut self, n: usize, elem: Elem) -> DeviceTensor {
        DeviceTensor::new(self.take_bytes(n * elem.bytes()), elem)
    }

    /// Room for `n` values of a type of its own.
    pub(super) fn take_of<T>(&mut self, n: usize) -> Ptr<T> {
        Ptr::new(self.take_bytes(n * size_of::<T>()))
    }

    /// Room for `bytes`.
    pub(super) fn take_bytes(&mut self, bytes: usize) -> DevicePtr {
        let start = self.base + self.len_bytes;
        self.len_bytes += (bytes as u64).next_multiple_of(ALIGNMENT);
        DevicePtr::new(start)
    }

    /// Bytes handed out so far.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}
