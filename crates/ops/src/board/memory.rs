//! Addresses in a board's memory, and the types of what lies there.

use std::fmt;
use std::marker::PhantomData;

use candle_core::DType;

/// An address in a board's memory, of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DevicePtr(u64);

impl DevicePtr {
    /// The address as the device counts it.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address as a number.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on.
    #[must_use]
    pub const fn offset(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// The address of values of one type, whatever the type of activations: `f32`, `f64`, `u32`, or a structure that
/// kernels share with the host.
pub struct Ptr<T> {
    bytes: DevicePtr,
    of: PhantomData<fn() -> T>,
}

impl<T> Ptr<T> {
    /// What lies at `bytes`.
    pub const fn new(bytes: DevicePtr) -> Self {
        Self { bytes, of: PhantomData }
    }

    /// The address.
    pub const fn bytes(self) -> DevicePtr {
        self.bytes
    }

    /// The address `n` values further on.
    #[must_use]
    pub const fn add(self, n: usize) -> Self {
        Self::new(self.bytes.offset(n * size_of::<T>()))
    }
}

// Derived, these would ask the same of `T`.
impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ptr<T> {}

impl<T> PartialEq for Ptr<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for Ptr<T> {}

impl<T> fmt::Debug for Ptr<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: {}", self.bytes.address(), std::any::type_name::<T>())
    }
}

/// Numbers in a type that the engine chooses: where they lie, and their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceTensor {
    bytes: DevicePtr,
    elem: Elem,
}

impl DeviceTensor {
    /// What lies at `bytes`.
    pub const fn new(bytes: DevicePtr, elem: Elem) -> Self {
        Self { bytes, elem }
    }

    /// The address.
    pub const fn bytes(self) -> DevicePtr {
        self.bytes
    }

    /// The type.
    pub const fn elem(self) -> Elem {
        self.elem
    }

    /// The tensor that begins `n` elements further on.
    #[must_use]
    pub const fn add(self, n: usize) -> Self {
        Self { bytes: self.bytes.offset(n * self.elem.bytes()), ..self }
    }
}

impl From<Ptr<f32>> for DeviceTensor {
    fn from(ptr: Ptr<f32>) -> Self {
        Self::new(ptr.bytes(), Elem::F32)
    }
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
    /// Eight bits, four of them exponent: see [`fp8`](crate::fp8).
    E4m3,
    /// Eight bits, five of them exponent.
    E5m2,
}

impl Elem {
    /// As candle calls it; `None` for a type that engines on a board do not compute in.
    pub const fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::E4m3 | Self::E5m2 => 1,
        }
    }

    /// As kernels' names end.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::E4m3 => "e4m3",
            Self::E5m2 => "e5m2",
        }
    }

    /// Whether it has eight bits.
    pub const fn is_fp8(self) -> bool {
        matches!(self, Self::E4m3 | Self::E5m2)
    }
}
