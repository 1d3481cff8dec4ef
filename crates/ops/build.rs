//! Compiles what is not Rust.

#[cfg(feature = "cuda")]
#[path = "build/cudnn.rs"]
mod cudnn;
#[cfg(feature = "cuda")]
#[path = "build/kernels.rs"]
mod kernels;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(cudnn)");
    #[cfg(feature = "cuda")]
    {
        cudnn::build();
        kernels::build();
    }
}
