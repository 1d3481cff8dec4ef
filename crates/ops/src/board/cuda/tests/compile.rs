//! The stand-ins for NVIDIA's libraries, compiled. Tests of `wattle-dist` use them too.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use wattle_cuda::Nvidia;

/// Where the sources lie, seen from any crate.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/src/board/cuda/tests");

/// A folder with the stand-ins under the names of the libraries: the driver, cuBLASLt and NCCL. It lies beside this test's
/// binary and stays there until the sources change.
pub fn standins() -> PathBuf {
    let sources = ["standin.cpp", "standin_nccl.cpp"].map(|name| Path::new(SOURCES).join(name));
    let mut hasher = DefaultHasher::new();
    sources.each_ref().map(|path| fs::read(path).unwrap()).hash(&mut hasher);
    let beside = env::current_exe().unwrap().parent().unwrap().to_owned();
    let built = beside.join(format!("standin-{:016x}", hasher.finish()));
    if !built.exists() {
        let dir = tempfile::tempdir_in(&beside).unwrap();
        compile(&sources, dir.path());
        // Another test may have been faster, with the same.
        let _ = fs::rename(dir.path(), &built);
    }
    built
}

fn compile(sources: &[PathBuf], dir: &Path) {
    let driver = Nvidia::Driver.file_name();
    let mut compiler = Command::new(env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args(["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread", "-o"]);
    let output = compiler.arg(dir.join(&driver)).args(sources).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // One file, so that the loader makes one library of them.
    let libraries = [Nvidia::CublasLt, Nvidia::Nccl, Nvidia::Cudnn, Nvidia::Runtime];
    for name in libraries.map(Nvidia::file_name) {
        std::os::unix::fs::symlink(&driver, dir.join(name)).unwrap();
    }
}
