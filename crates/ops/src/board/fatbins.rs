//! The compiled kernels.

/// Source file's stem and fat binary of each; none without feature `cuda`.
#[cfg(feature = "cuda")]
pub(super) const KERNELS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Source file's stem and fat binary of each; none without feature `cuda`.
#[cfg(not(feature = "cuda"))]
pub(super) const KERNELS: &[(&str, &[u8])] = &[];
