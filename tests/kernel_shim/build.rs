//! Compiles every file of `kernels/` as C++, against `shim/shim.h` instead of CUDA.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let kernels = here.join("../../kernels");
    println!("cargo:rerun-if-changed=shim");
    println!("cargo:rerun-if-changed={}", kernels.display());
    let one = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it")).join("kernels.cpp");
    fs::write(&one, translation_unit(&kernels)).expect("OUT_DIR can be written");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++20")
        .define("WATTLE_SHIM", None)
        .include(here.join("shim"))
        .include(&kernels)
        .file(here.join("shim/shim.cpp"))
        .file(&one)
        // Fast enough to train with, whatever the profile; each operation rounded by itself, as the kernels say.
        .opt_level(2)
        .flag("-ffp-contract=off")
        .flag("-Wno-unknown-pragmas")
        .warnings(true);
    if let Err(error) = build.try_compile("wattle_kernels") {
        panic!(
            "the kernels cannot be compiled for the CPU; a C++20 compiler is needed (Debian: apt-get install g++): {error}"
        );
    }
}

/// All kernels in one file, each in a namespace of its own: the linker keeps it whole for the sake of one symbol.
fn translation_unit(kernels: &Path) -> String {
    let mut sources: Vec<_> = fs::read_dir(kernels)
        .expect("kernels/ is there")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    let mut text = String::from("#include \"common.cuh\"\n#include \"philox.cuh\"\n#include \"norm.cuh\"\n");
    for source in sources {
        let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        text += &format!("namespace kernels_{stem} {{\n#include \"{stem}.cu\"\n}}\n");
    }
    text + "extern \"C\" void wattle_shim_keep() {}\n"
}
