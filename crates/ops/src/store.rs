//! What a kernel does with what stands where its result goes.

/// Whether a result replaces what was there or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// `out = result`
    Overwrite,
    /// `out += result`
    Accumulate,
}
