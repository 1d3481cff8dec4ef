//! Host memory that a board copies to.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

/// Numbers in the host's memory. Memory that a board gives ([`Board::host_memory`](super::Board::host_memory)) is
/// page-locked where that makes copies from the device faster.
pub struct HostMemory(Box<dyn HostNumbers>);

/// What holds the numbers of a [`HostMemory`].
pub trait HostNumbers: Send + Sync {
    /// The numbers.
    fn numbers(&self) -> &[f32];

    /// The numbers, to be changed.
    fn numbers_mut(&mut self) -> &mut [f32];
}

impl HostMemory {
    /// Memory that `numbers` holds.
    pub fn new(numbers: impl HostNumbers + 'static) -> Self {
        Self(Box::new(numbers))
    }

    /// Ordinary memory for `len` numbers. The system has given all of it once this returns.
    ///
    /// # Errors
    /// If the allocator has not so much.
    pub fn ordinary(len: usize) -> Result<Self, TryReserveError> {
        let mut numbers = Vec::new();
        numbers.try_reserve_exact(len)?;
        // Pages come when they are written to. Zeros that are asked for are not written.
        numbers.resize(len, -0.0f32);
        Ok(Self::new(numbers))
    }
}

impl HostNumbers for Vec<f32> {
    fn numbers(&self) -> &[f32] {
        self
    }

    fn numbers_mut(&mut self) -> &mut [f32] {
        self
    }
}

impl Deref for HostMemory {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.0.numbers()
    }
}

impl DerefMut for HostMemory {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.0.numbers_mut()
    }
}
