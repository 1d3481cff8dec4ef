//! Where NVIDIA's libraries are looked for, and how they are opened.
//!
//! First in the loader's path (`LD_LIBRARY_PATH`, `ld.so.conf`), then in a toolkit (`CUDA_HOME`, `CUDA_PATH`,
//! `/usr/local/cuda`), then where PyPI's wheels put them (the environment of `VIRTUAL_ENV`, then that of the `python3`
//! on `PATH`). The driver is looked for where containers and WSL put it instead.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use libloading::os::unix::Library;

use crate::error::CudaError;
use crate::version::CudaVersion;

/// One of NVIDIA's libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nvidia {
    /// The driver's, `libcuda`.
    Driver,
    /// Matrix products.
    Cublas,
    /// Matrix products with more choice; [`Nvidia::Cublas`] needs it.
    CublasLt,
    /// Random numbers, which candle opens with each device.
    Curand,
    /// A compiler at run time.
    Nvrtc,
    /// Fused attention.
    Cudnn,
    /// CUDA's runtime, which [`Nvidia::Cudnn`] is called through.
    Runtime,
    /// Sums between GPUs.
    Nccl,
}

impl Nvidia {
    /// The name of its file, with the major version that this program is built for.
    pub fn file_name(self) -> String {
        let CudaVersion { major, .. } = CudaVersion::BUILT_WITH;
        match self {
            Self::Driver => "libcuda.so.1".to_owned(),
            Self::Cublas => format!("libcublas.so.{major}"),
            Self::CublasLt => format!("libcublasLt.so.{major}"),
            Self::Nvrtc => format!("libnvrtc.so.{major}"),
            Self::Runtime => format!("libcudart.so.{major}"),
            // Its own count: 10 in every CUDA 11 to 13.
            Self::Curand => "libcurand.so.10".to_owned(),
            Self::Cudnn => "libcudnn.so.9".to_owned(),
            Self::Nccl => "libnccl.so.2".to_owned(),
        }
    }

    /// What it is called.
    pub fn what(self) -> &'static str {
        match self {
            Self::Driver => "NVIDIA driver",
            Self::Cublas => "cuBLAS",
            Self::CublasLt => "cuBLASLt",
            Self::Curand => "cuRAND",
            Self::Nvrtc => "NVRTC",
            Self::Cudnn => "cuDNN",
            Self::Runtime => "CUDA runtime",
            Self::Nccl => "NCCL",
        }
    }

    /// What to do where it is missing.
    pub fn remedy(self) -> String {
        let CudaVersion { major, .. } = CudaVersion::BUILT_WITH;
        let wheel = match self {
            Self::Driver => {
                let branch = CudaVersion::BUILT_WITH.first_driver();
                let which = branch.map_or_else(String::new, |branch| format!(", {branch} or newer"));
                return format!("with an NVIDIA GPU, install its driver{which}");
            }
            Self::Cublas | Self::CublasLt => "cublas".to_owned(),
            Self::Curand => "curand".to_owned(),
            Self::Nvrtc => "cuda-nvrtc".to_owned(),
            Self::Cudnn => format!("cudnn-cu{major}"),
            Self::Runtime => "cuda-runtime".to_owned(),
            Self::Nccl => format!("nccl-cu{major}"),
        };
        // Until CUDA 12 the wheels' names end in the version.
        let suffix = if major < 13 && !matches!(self, Self::Cudnn | Self::Nccl) {
            format!("-cu{major}")
        } else {
            String::new()
        };
        format!("pip install nvidia-{wheel}{suffix}, or set CUDA_HOME to a toolkit of CUDA {major}")
    }
}

/// Opens a library, wherever it is.
///
/// # Errors
/// [`CudaError::Absent`] names every place that was looked at, [`CudaError::Unloadable`] what kept a library that is
/// there from being opened.
pub fn open(library: Nvidia) -> Result<Library, CudaError> {
    let name = library.file_name();
    let said = match open_file(Path::new(&name)) {
        Ok(found) => return Ok(found),
        Err(said) => said,
    };
    let searched = Places::of_this_process().dirs(library);
    if let Some(file) = searched.iter().map(|dir| dir.join(&name)).find(|file| file.is_file()) {
        return open_file(&file).map_err(|why| CudaError::Unloadable { library, why });
    }
    // In the loader's words: the file itself is missing, and not one that it needs.
    if said.starts_with(&format!("{name}: cannot open shared object file")) {
        Err(CudaError::Absent { library, searched })
    } else {
        Err(CudaError::Unloadable { library, why: said })
    }
}

/// Errors are in the loader's words.
fn open_file(path: &Path) -> Result<Library, String> {
    // SAFETY: opening runs the library's initializers. It is NVIDIA's, or what the user put in its place.
    let opened = unsafe { Library::new(path) };
    opened.map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// What the search hangs on.
#[derive(Clone, Debug, Default)]
struct Places {
    /// `CUDA_HOME` and `CUDA_PATH`.
    toolkits: Vec<PathBuf>,
    /// `VIRTUAL_ENV`.
    virtual_env: Option<PathBuf>,
    /// `PATH`.
    programs: OsString,
}

impl Places {
    fn of_this_process() -> Self {
        let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).map(PathBuf::from);
        Self {
            toolkits: toolkits.chain(["/usr/local/cuda".into()]).collect(),
            virtual_env: env::var_os("VIRTUAL_ENV").map(PathBuf::from),
            programs: env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// The folders that there are, in order. The driver comes with no toolkit and with no wheel.
    fn dirs(&self, library: Nvidia) -> Vec<PathBuf> {
        let toolkits = self.toolkits.iter().flat_map(|home| ["lib64", "lib"].map(|lib| home.join(lib)));
        let driver =
            ["/usr/local/nvidia/lib64", "/usr/lib/wsl/lib", "/run/opengl-driver/lib"].map(PathBuf::from);
        let all: Vec<PathBuf> = match library {
            Nvidia::Driver => driver.into(),
            _ => toolkits.chain(self.wheels()).collect(),
        };
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in all.into_iter().filter(|dir| dir.is_dir()) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    /// Where wheels put libraries: of CUDA 13 on in one folder, before that in one for each.
    fn wheels(&self) -> Vec<PathBuf> {
        let major = CudaVersion::BUILT_WITH.major;
        let folders = [
            format!("cu{major}"),
            "cudnn".into(),
            "nccl".into(),
            "cublas".into(),
            "curand".into(),
            "cuda_nvrtc".into(),
            "cuda_runtime".into(),
        ];
        let sites = self.site_packages();
        sites
            .iter()
            .flat_map(|site| folders.iter().map(|f| site.join("nvidia").join(f).join("lib")))
            .collect()
    }

    fn site_packages(&self) -> Vec<PathBuf> {
        let has_python = |dir: &PathBuf| dir.join("python3").exists();
        let of_path = env::split_paths(&self.programs).find(has_python);
        let of_path = of_path.and_then(|bin| Some(bin.parent()?.to_owned()));
        let roots = self.virtual_env.iter().chain(&of_path);
        let lib = roots.flat_map(|root| subfolders(&root.join("lib")));
        let python =
            lib.filter(|dir| dir.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
        python.flat_map(|dir| ["site-packages", "dist-packages"].map(|site| dir.join(site))).collect()
    }
}

/// Folders within a folder, by name; none where it cannot be read.
fn subfolders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    folders.sort();
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_of_the_environment_and_toolkits_are_searched_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let major = CudaVersion::BUILT_WITH.major;
        let toolkit = dir.path().join("toolkit/lib64");
        let venv = dir.path().join(format!("venv/lib/python3.12/site-packages/nvidia/cu{major}/lib"));
        let system = dir.path().join(format!("usr/lib/python3.11/site-packages/nvidia/cu{major}/lib"));
        let bin = dir.path().join("usr/bin");
        for made in [&toolkit, &venv, &system, &bin] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(bin.join("python3"), "").unwrap();
        let places = Places {
            toolkits: vec![dir.path().join("gone"), dir.path().join("toolkit")],
            virtual_env: Some(dir.path().join("venv")),
            programs: bin.into(),
        };
        let here: Vec<_> =
            places.dirs(Nvidia::Cublas).into_iter().filter(|found| found.starts_with(dir.path())).collect();
        assert_eq!(here, [toolkit, venv, system]);
    }

    #[test]
    fn what_is_missing_says_where_it_was_looked_for_and_what_to_do() {
        let error =
            CudaError::Absent { library: Nvidia::Curand, searched: vec!["/opt/a".into(), "/opt/b".into()] };
        let text = error.to_string();
        let nowhere = CudaError::Absent { library: Nvidia::Driver, searched: Vec::new() }.to_string();
        assert!(
            nowhere.contains("libcuda.so.1 is not in the loader's path; with an NVIDIA GPU"),
            "{nowhere}"
        );
        for part in [
            "cuRAND",
            "libcurand.so.10",
            "nor in /opt/a nor in /opt/b",
            "pip install nvidia-curand",
            "CUDA_HOME",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
