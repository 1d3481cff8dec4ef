//! Compiles `src/board/cuda/cudnn.cpp`, if the headers that it needs are there.
//!
//! Looked for in `CUDNN_FRONTEND_INCLUDE` (folders, separated as in `PATH`), then in the toolkit of `CUDA_HOME`. They
//! are of the PyPI wheels nvidia-cudnn-cu13 and nvidia-cudnn-frontend, and CUDA's own. Without them the program says
//! so when fused attention is asked for, and computes attention by products.

use std::env;
use std::path::{Path, PathBuf};

const SOURCE: &str = "src/board/cuda/cudnn.cpp";

/// One header of each of the four that are needed.
const HEADERS: [&str; 4] = ["cudnn_frontend.h", "cudnn.h", "cuda_runtime_api.h", "nvrtc.h"];

pub fn build() {
    for variable in ["CUDNN_FRONTEND_INCLUDE", "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed={SOURCE}");
    let folders = folders();
    let missing: Vec<_> = HEADERS.into_iter().filter(|header| !is_in(&folders, header)).collect();
    if missing.is_empty() {
        compile(&folders);
    } else {
        let missing = missing.join(", ");
        println!(
            "cargo:warning=no fused attention: {missing} not in CUDNN_FRONTEND_INCLUDE or CUDA_HOME/include"
        );
    }
}

fn folders() -> Vec<PathBuf> {
    let named = env::var_os("CUDNN_FRONTEND_INCLUDE").unwrap_or_default();
    let toolkit = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("include"));
    env::split_paths(&named).filter(|folder| !folder.as_os_str().is_empty()).chain(toolkit).collect()
}

fn is_in(folders: &[PathBuf], header: &str) -> bool {
    folders.iter().any(|folder: &PathBuf| Path::new(folder).join(header).is_file())
}

fn compile(folders: &[PathBuf]) {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // It makes plans and hands over addresses: what it is made of is headers, and it is small or large by this.
        .opt_level_str("s")
        .warnings(false)
        // A binary that is carried elsewhere brings it along.
        .cpp_link_stdlib_static(true)
        .define("NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING", None)
        .includes(folders)
        .file(SOURCE)
        .compile("wattle_cudnn");
    println!("cargo:rustc-cfg=cudnn");
}
