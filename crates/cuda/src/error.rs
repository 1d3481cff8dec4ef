//! Why CUDA cannot be used.

use std::path::PathBuf;

use crate::library::Nvidia;
use crate::version::CudaVersion;

/// Why CUDA cannot be used here. Each message is one sentence that ends with what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CudaError {
    /// A library is nowhere.
    #[error(
        "there is no {} here: {} is {}; {}",
        library.what(), library.file_name(), not_in(searched), library.remedy()
    )]
    Absent {
        /// Which one.
        library: Nvidia,
        /// Where it was looked for, beside the loader's own path.
        searched: Vec<PathBuf>,
    },
    /// A library is there and cannot be opened.
    #[error("{} is there but cannot be opened: {why}; {}", library.what(), library.remedy())]
    Unloadable {
        /// Which one.
        library: Nvidia,
        /// What the loader said, with the path.
        why: String,
    },
    /// The driver is older than the code in this program.
    #[error(
        "the NVIDIA driver{} offers CUDA {offers}, and this program is built for CUDA {needs}; {}",
        kernel_module.as_ref().map(|version| format!(" {version}")).unwrap_or_default(), update(*needs)
    )]
    OldDriver {
        /// The driver's own version, as 535.129.03, if it is known.
        kernel_module: Option<String>,
        /// What it offers.
        offers: CudaVersion,
        /// What is needed.
        needs: CudaVersion,
    },
    /// The driver does not start.
    #[error("the NVIDIA driver does not start: {name} ({number}){}", start_remedy(*number))]
    Start {
        /// The error's name.
        name: String,
        /// The error's number.
        number: i32,
    },
    /// A library lacks an entry point.
    #[error("{} has no {symbol}: it is not of the CUDA {} that this program is built for; {}",
        library.file_name(), CudaVersion::BUILT_WITH, library.remedy())]
    NoSymbol {
        /// Which library.
        library: Nvidia,
        /// What it lacks.
        symbol: String,
    },
}

fn not_in(searched: &[PathBuf]) -> String {
    if searched.is_empty() {
        return "not in the loader's path".to_owned();
    }
    let others: String = searched.iter().map(|path| format!(" nor in {}", path.display())).collect();
    format!("neither in the loader's path{others}")
}

fn update(needs: CudaVersion) -> String {
    match needs.first_driver() {
        Some(branch) => format!("update the driver to {branch} or newer"),
        None => format!("update the driver to one of CUDA {needs} or newer"),
    }
}

/// What mends the errors that `cuInit` is known to give.
fn start_remedy(number: i32) -> &'static str {
    match number {
        100 => "; no GPU is there, or CUDA_VISIBLE_DEVICES hides it: nvidia-smi lists what the driver sees",
        802 => "; NVSwitch machines need nvidia-fabricmanager running",
        803 => "; the driver was updated while it ran: restart the machine",
        _ => "; nvidia-smi may say more",
    }
}
