//! Addresses and element types.

/// An address in a board's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DevicePtr(u64);

impl DevicePtr {
    /// No address: what an optional argument of a kernel gets.
    pub const NULL: Self = Self(0);

    /// The address as the device counts it.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address as a number.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The address `n` elements further on.
    pub const fn add(self, n: usize, elem: Elem) -> Self {
        Self(self.0 + (n * elem.bytes()) as u64)
    }
}

/// The type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
}

impl Elem {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }

    /// As kernels' names end.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}
