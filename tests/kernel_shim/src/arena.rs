//! Memory with guards on both sides.

use std::fmt::Debug;

use wattle_ops::board::DevicePtr;

const ALIGNMENT: usize = 256;
const GUARD: usize = 4096;
const PATTERN: u8 = 0xA5;

/// One allocation.
pub(crate) struct Arena {
    memory: Vec<u8>,
    /// Where it starts within `memory`.
    offset: usize,
    len: usize,
}

impl Arena {
    pub(crate) fn new(len: usize) -> Self {
        let mut memory = vec![PATTERN; len + 2 * GUARD + ALIGNMENT];
        let address = memory.as_ptr() as usize + GUARD;
        let offset = address.next_multiple_of(ALIGNMENT) - memory.as_ptr() as usize;
        memory[offset..offset + len].fill(0);
        Self { memory, offset, len }
    }

    pub(crate) fn start(&self) -> DevicePtr {
        DevicePtr::new(self.memory.as_ptr() as u64 + self.offset as u64)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Panics if something was written beside the memory.
    pub(crate) fn check(&self, after: &impl Debug) {
        let before = &self.memory[..self.offset];
        let behind = &self.memory[self.offset + self.len..];
        let whole = before.iter().chain(behind).all(|&byte| byte == PATTERN);
        assert!(whole, "{after:?} wrote beside the memory it was given");
    }

    fn range(&self, at: DevicePtr, len: usize) -> Option<std::ops::Range<usize>> {
        let start = at.address().checked_sub(self.start().address())? as usize;
        (start + len <= self.len).then(|| self.offset + start..self.offset + start + len)
    }
}

/// Bytes at an address.
pub(crate) fn slice(arenas: &[Arena], at: DevicePtr, len: usize) -> &[u8] {
    arenas
        .iter()
        .find_map(|arena| Some(&arena.memory[arena.range(at, len)?]))
        .unwrap_or_else(|| panic!("{len} bytes at {at:?} are in no memory of this board"))
}

/// Bytes at an address.
pub(crate) fn slice_mut(arenas: &mut [Arena], at: DevicePtr, len: usize) -> &mut [u8] {
    arenas
        .iter_mut()
        .find_map(|arena| {
            let range = arena.range(at, len)?;
            Some(&mut arena.memory[range])
        })
        .unwrap_or_else(|| panic!("{len} bytes at {at:?} are in no memory of this board"))
}
