//! Writes the trampolines of `symbols.txt`, and what a linker is to find in place of NVIDIA's libraries.
//!
//! On x86-64 Linux the linker gets empty libraries, since every entry point is defined here as a jump, and the static
//! CUDA runtime where the dynamic one is asked for. Elsewhere the program is linked in the ordinary way.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What candle and cudarc ask the linker for.
const EMPTY: [&str; 5] = ["cuda", "cublas", "cublasLt", "curand", "nvrtc"];

/// The version that is assumed where no nvcc says another.
const DEFAULT_VERSION: (u32, u32) = (13, 0);

fn main() -> Result<(), Box<dyn Error>> {
    for path in ["build.rs", "symbols.txt"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["CUDARC_CUDA_VERSION", "CUDA_HOME", "CUDA_PATH", "NVCC", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rustc-check-cfg=cfg(trampolines)");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let (major, minor) = version_from_env().or_else(version_of_nvcc).unwrap_or(DEFAULT_VERSION);
    fs::write(out.join("version.rs"), format!("CudaVersion {{ major: {major}, minor: {minor} }}\n"))?;
    if env::var("CARGO_CFG_TARGET_ARCH")? == "x86_64" && env::var("CARGO_CFG_TARGET_OS")? == "linux" {
        println!("cargo:rustc-cfg=trampolines");
        write_trampolines(&out)?;
        write_link_names(&out.join("link"))?;
    }
    Ok(())
}

/// `CUDARC_CUDA_VERSION=13000`, by which cudarc chooses its declarations.
fn version_from_env() -> Option<(u32, u32)> {
    let number: u32 = env::var("CUDARC_CUDA_VERSION").ok()?.parse().ok()?;
    Some((number / 1000, number % 1000 / 10))
}

fn version_of_nvcc() -> Option<(u32, u32)> {
    let nvcc = env::var_os("NVCC").unwrap_or_else(|| "nvcc".into());
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let release = text.split("release ").nth(1)?.split(',').next()?;
    let (major, minor) = release.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// One jump through a slot for each symbol, the slots, and a table that says whose they are.
fn write_trampolines(out: &Path) -> Result<(), Box<dyn Error>> {
    let text = fs::read_to_string("symbols.txt")?;
    let (mut jumps, mut slots, mut table) = (String::new(), String::new(), String::new());
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for (i, line) in lines.enumerate() {
        let (library, symbol) = line.split_once(' ').ok_or("symbols.txt: expected LIBRARY SYMBOL")?;
        writeln!(
            jumps,
            ".globl {symbol}\n.hidden {symbol}\n.type {symbol}, @function\n.p2align 4\n{symbol}:"
        )?;
        writeln!(jumps, "jmp qword ptr [rip + wattle_cuda_slots + {}]", 8 * i)?;
        slots.push_str(".quad wattle_cuda_not_loaded\n");
        writeln!(table, "    (Nvidia::{}, c\"{symbol}\"),", variant(library)?)?;
    }
    let stub = "wattle_cuda_not_loaded:\nmov eax, 100\nret\n";
    let data = ".pushsection .data.wattle_cuda_slots, \"aw\", @progbits\n.p2align 3\n.globl wattle_cuda_slots\n\
                .hidden wattle_cuda_slots\nwattle_cuda_slots:\n";
    fs::write(
        out.join("trampolines.s"),
        format!(
            ".pushsection .text.wattle_cuda, \"ax\", @progbits\n{stub}{jumps}.popsection\n{data}{slots}.popsection\n"
        ),
    )?;
    let n = slots.lines().count();
    fs::write(out.join("table.rs"), format!("const TABLE: [(Nvidia, &CStr); {n}] = [\n{table}];\n"))?;
    Ok(())
}

/// The library's name in `src/library.rs`.
fn variant(library: &str) -> Result<&'static str, String> {
    match library {
        "cuda" => Ok("Driver"),
        "cublas" => Ok("Cublas"),
        "cublasLt" => Ok("CublasLt"),
        "curand" => Ok("Curand"),
        "nvrtc" => Ok("Nvrtc"),
        _ => Err(format!("symbols.txt: no library {library:?} is known to src/library.rs")),
    }
}

/// Linker scripts under the libraries' names.
fn write_link_names(dir: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(dir)?;
    for name in EMPTY {
        fs::write(dir.join(format!("lib{name}.so")), "/* every symbol is a trampoline */ INPUT()\n")?;
    }
    // Without a toolkit code is only type-checked, and nothing of the runtime is called.
    let runtime = static_runtime().map_or_else(
        || "INPUT()".to_owned(),
        |path| format!("INPUT({} -ldl -lrt -lpthread)", path.display()),
    );
    fs::write(dir.join("libcudart.so"), format!("{runtime}\n"))?;
    println!("cargo:rustc-link-search=native={}", dir.display());
    Ok(())
}

/// `libcudart_static.a` of the toolkit that compiles.
fn static_runtime() -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
    let programs = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&programs).map(|dir| dir.join("nvcc")).find(|nvcc| nvcc.is_file());
    let compilers = env::var_os("NVCC").map(PathBuf::from).into_iter().chain(on_path);
    let of_compiler = |nvcc: PathBuf| Some(nvcc.canonicalize().ok()?.parent()?.parent()?.to_owned());
    let usual = ["/usr/local/cuda", "/usr"].into_iter().map(PathBuf::from);
    let roots = homes.chain(compilers.filter_map(of_compiler)).chain(usual);
    let places = ["lib64", "lib", "targets/x86_64-linux/lib", "lib/x86_64-linux-gnu"];
    let files = roots.flat_map(|root| places.map(|place| root.join(place).join("libcudart_static.a")));
    files.into_iter().find(|file| file.is_file())
}
