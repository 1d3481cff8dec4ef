//! Compiles what is not Rust.

#[cfg(feature = "cuda")]
#[path = "build/kernels.rs"]
mod kernels;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    kernels::build();
}
