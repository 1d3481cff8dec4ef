//! NVIDIA's libraries, found and opened at run time.
//!
//! A program that is linked against `libcuda.so.1` does not start where there is no NVIDIA driver. This one is not:
//! candle's calls go to trampolines in here, and [`load`] points these at the libraries once they are found. So one
//! binary serves machines with and without a GPU, and what is missing is a sentence instead of a crash.
//!
//! It is a crate because it stands below everything that calls the driver, tests of `wattle-ops` included, and because
//! a crate has one build script: that of `wattle-ops` compiles kernels.
//!
//! - [`library`]: where a library is looked for, and how it is opened
//! - [`driver`]: whether the driver is there, new enough and willing
//! - [`version`]: CUDA's version numbers
//! - `trampolines`: the calls that are only found out about at run time (x86-64 Linux; elsewhere the linker knows)

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod driver;
pub mod error;
pub mod library;
pub mod version;

#[cfg(trampolines)]
mod trampolines;

pub use driver::{Driver, load};
pub use error::CudaError;
pub use library::{Nvidia, open};
pub use version::CudaVersion;
