//! Compiles what is not Rust.

#[cfg(feature = "cudnn")]
#[path = "build/cudnn.rs"]
mod cudnn;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cudnn")]
    cudnn::build();
    #[cfg(not(feature = "cudnn"))]
    println!("cargo:rustc-check-cfg=cfg(cudnn)");
}
