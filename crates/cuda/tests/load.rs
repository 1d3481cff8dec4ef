//! Loading, against stand-ins for NVIDIA's libraries: each case in a process of its own.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wattle_cuda::{CudaVersion, Nvidia, load, open};

unsafe extern "C" {
    // Found in the crate's trampolines, as candle's calls are.
    fn cuDeviceGetCount(count: *mut c_int) -> c_int;
}

fn count() -> (c_int, c_int) {
    let mut count = -1;
    // SAFETY: the pointer is to an integer of this frame.
    let status = unsafe { cuDeviceGetCount(&raw mut count) };
    (status, count)
}

#[test]
#[ignore = "what the other tests start as a process"]
fn child() {
    let before = count();
    let said = match load() {
        Ok(driver) => format!("CUDA {} with {} GPUs", driver.version, driver.n_devices),
        Err(error) => error.to_string(),
    };
    println!("before {before:?}; {said}; after {:?}", count());
}

/// A folder of stand-ins.
struct Standins(TempDir);

impl Standins {
    /// A driver that behaves as `macros` say, without cuBLAS and cuRAND.
    fn driver(macros: &[&str], lacks: &str) -> Self {
        let standins = Self(tempfile::tempdir().unwrap());
        let own = ["cuDriverGetVersion", "cuInit", "cuDeviceGetCount", "cuGetErrorName", lacks];
        let rest: Vec<_> = symbols("cuda").into_iter().filter(|name| !own.contains(&name.as_str())).collect();
        let mut macros = macros.to_vec();
        macros.push("DRIVER");
        standins.library(&standins.path().join(Nvidia::Driver.file_name()), &rest, &macros, &[]);
        standins
    }

    /// The other libraries, in `dir`; cuBLAS needs cuBLASLt, as NVIDIA's does, and does not say where that is.
    fn mathematics(&self, dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        let lt = dir.join(Nvidia::CublasLt.file_name());
        self.library(&lt, &["cublasLtCreate".to_owned()], &[], &[]);
        let needs = ["NEEDS=cublasLtCreate"];
        self.library(&dir.join(Nvidia::Cublas.file_name()), &symbols("cublas"), &needs, &[&lt]);
        self.library(&dir.join(Nvidia::Curand.file_name()), &symbols("curand"), &[], &[]);
    }

    fn library(&self, path: &Path, rest: &[String], macros: &[&str], needs: &[&Path]) {
        let soname = path.file_name().unwrap().to_str().unwrap();
        let rest: String = rest.iter().map(|name| format!("F({name})")).collect();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin.c");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-Wl,--no-as-needed", &format!("-Wl,-soname,{soname}")]);
        command.args(macros.iter().map(|text| format!("-D{text}"))).arg(format!("-DREST={rest}"));
        let status = command.arg("-o").arg(path).arg(source).args(needs).status().unwrap();
        assert!(status.success(), "cc could not make {}", path.display());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What a process says that finds them.
    fn loaded(&self) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("LD_LIBRARY_PATH", self.path())
            .env("VIRTUAL_ENV", self.path())
            .env("CUDA_HOME", self.path().join("toolkit"))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text.lines().find(|line| line.contains("before")).unwrap().to_owned()
    }
}

/// The entry points of a library in symbols.txt.
fn symbols(library: &str) -> Vec<String> {
    let text = include_str!("../symbols.txt");
    let names = text.lines().filter_map(|line| line.strip_prefix(library)?.strip_prefix(' '));
    names.map(str::to_owned).collect()
}

/// The version in this program, as a driver would give it.
fn built_with() -> String {
    let CudaVersion { major, minor } = CudaVersion::BUILT_WITH;
    format!("VERSION={}", major * 1000 + minor * 10)
}

#[test]
fn calls_reach_the_libraries_once_they_are_loaded() {
    let standins = Standins::driver(&[&built_with(), "DEVICES=3"], "");
    standins.mathematics(standins.path());
    let said = standins.loaded();
    assert!(said.contains("before (100, -1)"), "{said}");
    assert!(said.contains("with 3 GPUs"), "{said}");
    assert!(said.contains("after (0, 3)"), "{said}");
}

#[test]
fn libraries_are_found_where_wheels_put_them() {
    let standins = Standins::driver(&[&built_with()], "");
    let wheels = format!("lib/python3.12/site-packages/nvidia/cu{}/lib", CudaVersion::BUILT_WITH.major);
    standins.mathematics(&standins.path().join(wheels));
    let said = standins.loaded();
    assert!(said.contains("after (0, 2)"), "{said}");
}

#[test]
fn libraries_are_found_in_a_toolkit() {
    let standins = Standins::driver(&[&built_with()], "");
    standins.mathematics(&standins.path().join("toolkit/lib64"));
    assert!(standins.loaded().contains("after (0, 2)"));
}

#[test]
fn an_old_driver_is_told_with_its_version() {
    let said = Standins::driver(&["VERSION=11040"], "").loaded();
    let built = CudaVersion::BUILT_WITH;
    assert!(said.contains("offers CUDA 11.4"), "{said}");
    assert!(said.contains(&format!("built for CUDA {built}; update the driver")), "{said}");
    assert!(said.contains("after (100, -1)"), "{said}");
}

#[test]
fn a_driver_without_a_board_is_told_by_its_errors_name() {
    let said = Standins::driver(&[&built_with(), "INIT=100"], "").loaded();
    assert!(said.contains("does not start: CUDA_ERROR_NO_DEVICE (100); no GPU is there"), "{said}");
    let said = Standins::driver(&[&built_with(), "INIT=803"], "").loaded();
    assert!(said.contains("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"), "{said}");
    assert!(said.contains("restart the machine"), "{said}");
    let said = Standins::driver(&[&built_with(), "INIT=12345"], "").loaded();
    assert!(said.contains("an unknown error (12345)"), "{said}");
}

#[test]
fn a_library_that_is_not_whole_is_told_by_what_it_lacks() {
    let standins = Standins::driver(&[&built_with()], "cuLaunchKernel");
    standins.mathematics(standins.path());
    let said = standins.loaded();
    assert!(said.contains("libcuda.so.1 has no cuLaunchKernel"), "{said}");
    assert!(said.contains("after (100, -1)"), "no slot is filled unless all can be: {said}");
}

#[test]
fn a_library_that_cannot_be_opened_is_told_in_the_loaders_words() {
    let standins = Standins::driver(&[&built_with()], "");
    fs::write(standins.path().join(Nvidia::CublasLt.file_name()), "no library").unwrap();
    let said = standins.loaded();
    assert!(said.contains("cuBLASLt is there but cannot be opened"), "{said}");
    assert!(said.contains("file too short") || said.contains("invalid ELF header"), "{said}");
}

#[test]
fn a_missing_library_is_told_with_the_places() {
    // On a machine that has them, they are found.
    if open(Nvidia::CublasLt).is_ok() {
        println!("not tested: this machine has cuBLASLt");
        return;
    }
    let standins = Standins::driver(&[&built_with()], "");
    let wheels: PathBuf = standins.path().join("toolkit/lib64");
    fs::create_dir_all(&wheels).unwrap();
    let said = standins.loaded();
    assert!(said.contains("there is no cuBLASLt here"), "{said}");
    assert!(said.contains(&format!("nor in {}", wheels.display())), "{said}");
    assert!(said.contains("pip install nvidia-cublas"), "{said}");
}
