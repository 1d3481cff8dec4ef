//! Compiles what is not Rust.

#[cfg(feature = "cudnn")]
#[path = "build/cudnn.rs"]
mod cudnn;
#[cfg(feature = "cuda")]
#[path = "build/kernels.rs"]
mod kernels;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(cudnn)");
    #[cfg(feature = "cudnn")]
    cudnn::build();
    #[cfg(feature = "cuda")]
    kernels::build();
}
