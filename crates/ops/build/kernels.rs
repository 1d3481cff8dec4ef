//! Compiles `kernels/*.cu` to one fat binary each, and lists them for `board/fatbins.rs`.
//!
//! nvcc is that of `NVCC`, else of `CUDA_HOME`, else the one on `PATH`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for these; scripts/check_kernels.sh has the same.
const TARGETS: [&str; 4] = ["80", "86", "89", "90"];
/// Its PTX is compiled at load for whatever comes after.
const PTX: &str = "90";

pub fn build() {
    for variable in ["NVCC", "CUDA_HOME", "NVCC_APPEND_FLAGS"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = manifest.join("../../kernels");
    println!("cargo:rerun-if-changed={}", folder.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let mut table = String::from("&[\n");
    for source in sources(&folder) {
        let stem = source.file_stem().expect("it ends in .cu").to_string_lossy().into_owned();
        let fatbin = out.join(format!("{stem}.fatbin"));
        compile(&source, &fatbin);
        table += &format!("    ({stem:?}, include_bytes!({:?})),\n", fatbin.display().to_string());
    }
    fs::write(out.join("fatbins.rs"), table + "]\n").expect("OUT_DIR can be written");
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut sources: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    sources
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    env::var_os("CUDA_HOME").map_or_else(|| "nvcc".into(), |home| PathBuf::from(home).join("bin/nvcc"))
}

fn compile(source: &Path, fatbin: &Path) {
    let nvcc = nvcc();
    let mut command = Command::new(&nvcc);
    command.args(["-std=c++17", "-O3", "-lineinfo", "-fatbin"]);
    for target in TARGETS {
        command.arg(format!("-gencode=arch=compute_{target},code=sm_{target}"));
    }
    command.arg(format!("-gencode=arch=compute_{PTX},code=compute_{PTX}"));
    let status = command.arg("-o").arg(fatbin).arg(source).status().unwrap_or_else(|error| {
        panic!(
            "{}: {error}; feature cuda needs nvcc: eval \"$(scripts/cuda_toolkit.sh --env)\", or set NVCC or CUDA_HOME",
            nvcc.display()
        )
    });
    assert!(status.success(), "{} cannot compile {}: {status}", nvcc.display(), source.display());
}
