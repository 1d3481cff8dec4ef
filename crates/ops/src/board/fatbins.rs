//! The compiled kernels.

/// Source file's stem and fat binary of each.
pub(super) const KERNELS: &[(&str, &[u8])] = &[];
