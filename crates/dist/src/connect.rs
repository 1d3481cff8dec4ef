//! The fabric for the way in which this process was started.

use std::sync::Arc;
use std::time::Duration;

use crate::error::DistError;
use crate::fabric::Fabric;
use crate::launch::{Launched, Launcher};
use crate::mpi::Mpi;
use crate::nccl::NcclFabric;
use crate::solo::Solo;

/// The MPI library to open: a name that the loader finds, or a path.
pub const LIBRARY: &str = "WATTLE_MPI";

/// Connects this process with the other ranks that its launcher started: [`Solo`] if none did, [`Mpi`] where the launcher
/// brings MPI, and [`NcclFabric`] where it does not and ranks compute on GPUs.
///
/// `gpu` is the CUDA ordinal of the GPU that this rank computes on, if it does; it is a GPU on all ranks or on none.
/// `within` is the deadline of the start.
///
/// # Errors
/// If no library can be opened, if the MPI library does not belong to the launcher, if ranks on CPUs were started by
/// torchrun, which brings no MPI, or if a rank does not answer in time.
pub fn connect(gpu: Option<usize>, within: Duration) -> Result<Arc<dyn Fabric>, DistError> {
    let Some(launched) = Launched::here()? else { return Ok(Arc::new(Solo::new())) };
    let Launched { launcher, world, .. } = launched;
    let brings_no_mpi = matches!(launcher, Launcher::Torchrun | Launcher::Slurm);
    if brings_no_mpi && world == Some(1) {
        return Ok(Arc::new(Solo::new()));
    }
    if let Some(ordinal) = gpu.filter(|_| brings_no_mpi) {
        return Ok(Arc::new(NcclFabric::open(&launched, ordinal, within)?));
    }
    if launcher == Launcher::Torchrun {
        let remedy = "ranks on CPUs need MPI: start them with mpirun, or with srun --mpi=pmix; ranks on GPUs need a build \
                      with --features cuda and NVIDIA's driver";
        let launched = world.unwrap_or_default();
        return Err(DistError::NotConnected { launcher: launcher.name(), launched, remedy });
    }
    let mpi = Mpi::open(&names(launcher), within)?;
    check_size(&launched, &mpi)?;
    Ok(Arc::new(mpi))
}

/// The MPI libraries to try under a launcher, in order: the one that [`LIBRARY`] names, or those of its kind first.
pub fn names(launcher: Launcher) -> Vec<String> {
    match std::env::var(LIBRARY) {
        Ok(named) => vec![named],
        Err(_) => launcher.libraries().iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// A library under another MPI's launcher starts as many jobs as there are ranks, of one rank each, and says nothing.
fn check_size(launched: &Launched, mpi: &Mpi) -> Result<(), DistError> {
    let connected = mpi.place().world;
    let launcher = launched.launcher;
    // Without a size, a rank beyond the first shows the same.
    let counted = launched.world.unwrap_or(connected.max(launched.rank + 1));
    if counted == connected {
        return Ok(());
    }
    Err(DistError::OtherMpi {
        launcher: launcher.name(),
        launched: counted,
        library: format!("{} ({})", mpi.version(), mpi.file()),
        connected,
        remedy: launcher.remedy(),
    })
}
