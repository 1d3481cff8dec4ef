//! What started this process, and as which of how many ranks, by its environment.

use crate::error::DistError;

/// A program that starts ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// A launcher that speaks PMI: the `mpirun` of MPICH, Intel MPI or MVAPICH (Hydra), or `srun --mpi=pmi2`.
    Pmi,
    /// A launcher that speaks PMIx, which tells the rank and not how many there are: `srun --mpi=pmix`, `prterun`.
    Pmix,
    /// PyTorch's `torchrun`, or whatever sets its variables.
    Torchrun,
    /// Slurm's `srun --mpi=none`.
    Slurm,
}

/// A process that a launcher started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// By what.
    pub launcher: Launcher,
    /// As which rank.
    pub rank: usize,
    /// Of how many, if it says so.
    pub world: Option<usize>,
    /// Its number on its machine, if the launcher says so.
    pub local_rank: Option<usize>,
    /// Ranks on its machine, if the launcher says so.
    pub local_world: Option<usize>,
    /// Where rank 0 can be reached, by torchrun and srun: host and port. torchrun's port is that of its own agent, srun's is
    /// derived from the number of the job step.
    pub master: Option<(String, u16)>,
}

/// The variables of one launcher.
struct Variables {
    launcher: Launcher,
    /// What must be set beside the rank for the launcher to be recognized.
    mark: &'static str,
    rank: &'static str,
    world: &'static [&'static str],
    local_rank: &'static str,
    local_world: &'static [&'static str],
}

/// The first whose mark and rank are set is it. An inner launcher inherits the variables of the outer one, so what
/// usually runs inside comes first.
const LAUNCHERS: [Variables; 6] = [
    Variables { mark: "TORCHELASTIC_RUN_ID", ..TORCHRUN },
    Variables {
        launcher: Launcher::OpenMpi,
        mark: "OMPI_COMM_WORLD_SIZE",
        rank: "OMPI_COMM_WORLD_RANK",
        world: &["OMPI_COMM_WORLD_SIZE"],
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_world: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
    },
    Variables {
        launcher: Launcher::Pmi,
        mark: "PMI_SIZE",
        rank: "PMI_RANK",
        world: &["PMI_SIZE"],
        local_rank: "MPI_LOCALRANKID",
        local_world: &["MPI_LOCALNRANKS"],
    },
    Variables {
        launcher: Launcher::Pmix,
        mark: "PMIX_NAMESPACE",
        rank: "PMIX_RANK",
        world: &["SLURM_STEP_NUM_TASKS"],
        local_rank: "SLURM_LOCALID",
        local_world: &["SLURM_NTASKS_PER_NODE"],
    },
    TORCHRUN,
    // A batch script itself has a rank and a number of tasks too; this is set in what srun starts alone.
    Variables {
        launcher: Launcher::Slurm,
        mark: "SLURM_STEP_NUM_TASKS",
        rank: "SLURM_PROCID",
        world: &["SLURM_STEP_NUM_TASKS"],
        local_rank: "SLURM_LOCALID",
        local_world: &["SLURM_NTASKS_PER_NODE"],
    },
];

const TORCHRUN: Variables = Variables {
    launcher: Launcher::Torchrun,
    mark: "WORLD_SIZE",
    rank: "RANK",
    world: &["WORLD_SIZE"],
    local_rank: "LOCAL_RANK",
    local_world: &["LOCAL_WORLD_SIZE"],
};

impl Launched {
    /// The variables by which a launcher is recognized. A child without them is a process that none started.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        LAUNCHERS.iter().flat_map(|of| [of.mark, of.rank])
    }

    /// How this process was started; none if no launcher did.
    ///
    /// # Errors
    /// If a variable of the launcher is not a number.
    pub fn here() -> Result<Option<Self>, DistError> {
        Self::of(|name| std::env::var(name).ok())
    }

    /// As [`Launched::here`], in the environment that `variable` looks up.
    ///
    /// # Errors
    /// As for [`Launched::here`].
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, DistError> {
        let is_set = |name| variable(name).is_some();
        let Some(found) = LAUNCHERS.iter().find(|of| is_set(of.mark) && is_set(of.rank)) else {
            return Ok(None);
        };
        let launcher = found.launcher;
        let number = |name| number(launcher, name, variable(name));
        let optional = |name| if is_set(name) { number(name).map(Some) } else { Ok(None) };
        let world = found.world.iter().find(|name| is_set(name)).map(|name| number(name)).transpose()?;
        let rank = number(found.rank)?;
        if world.is_some_and(|world| rank >= world) {
            let (value, expected) = (variable(found.rank), "less than the number of ranks");
            return Err(DistError::Environment {
                launcher: launcher.name(),
                variable: found.rank,
                value,
                expected,
            });
        }
        let local_rank = optional(found.local_rank)?;
        let local_world =
            found.local_world.iter().find(|name| is_set(name)).map(|name| number(name)).transpose()?;
        let master = match launcher {
            Launcher::Torchrun => master(&variable)?,
            Launcher::Slurm => master_of_slurm(&variable),
            _ => None,
        };
        Ok(Some(Self { launcher, rank, world, local_rank, local_world, master }))
    }
}

impl Launcher {
    /// Its name for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Pmi => "MPICH's mpirun (or another that speaks PMI)",
            Self::Pmix => "a launcher that speaks PMIx",
            Self::Torchrun => "torchrun",
            Self::Slurm => "srun",
        }
    }

    /// Names of MPI libraries, those that belong to this launcher first.
    pub fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::OpenMpi => &["libmpi.so.40", "libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"],
            Self::Pmi => &["libmpi.so.12", "libmpich.so.12", "libmpi_abi.so.1", "libmpi.so.40"],
            _ => &["libmpi_abi.so.1", "libmpi.so.40", "libmpi.so.12", "libmpich.so.12"],
        }
    }

    /// What to do if the library that was opened belongs to another MPI.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::OpenMpi => {
                "install Open MPI's library (Debian: libopenmpi3) or name it: WATTLE_MPI=libmpi.so.40; or start with \
                 the mpirun of the library's own MPI"
            }
            Self::Pmi => {
                "install MPICH's library (Debian: libmpich12) or name it: WATTLE_MPI=libmpich.so.12 (elsewhere \
                 libmpi.so.12); or start with the mpirun of the library's own MPI"
            }
            _ => {
                "start with the mpirun of the library's own MPI, or with srun --mpi=pmix (Open MPI) or --mpi=pmi2 \
                 (MPICH); or name the library that fits in WATTLE_MPI"
            }
        }
    }
}

fn number<T: std::str::FromStr>(
    launcher: Launcher,
    variable: &'static str,
    value: Option<String>,
) -> Result<T, DistError> {
    let parsed = value.as_deref().and_then(|value| value.trim().parse().ok());
    parsed.ok_or(DistError::Environment {
        launcher: launcher.name(),
        variable,
        value,
        expected: "a whole number",
    })
}

fn master(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<(String, u16)>, DistError> {
    let Some(host) = variable("MASTER_ADDR") else { return Ok(None) };
    Ok(Some((host, number(Launcher::Torchrun, "MASTER_PORT", variable("MASTER_PORT"))?)))
}

/// Rank 0 runs on the first machine of the step. Ports are below those that Linux hands out by itself, one for each of the
/// steps that may share a machine.
fn master_of_slurm(variable: &impl Fn(&str) -> Option<String>) -> Option<(String, u16)> {
    let nodes = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST"))?;
    let of_slurm = |name| variable(name).and_then(|value| value.trim().parse::<u64>().ok());
    let (job, step) = (of_slurm("SLURM_JOB_ID")?, of_slurm("SLURM_STEP_ID").unwrap_or(0));
    let port = FIRST_PORT + (job.wrapping_mul(31).wrapping_add(step) % N_PORTS) as u16;
    Some((first_host(&nodes)?, port))
}

/// From here, [`N_PORTS`] ports.
const FIRST_PORT: u16 = 20_000;
const N_PORTS: u64 = 12_000;

/// The first machine of Slurm's list, as `node01` of `node[01-04,7],other`.
fn first_host(nodes: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = nodes.trim();
    while let Some(end) = rest.find(['[', ',']) {
        host.push_str(&rest[..end]);
        if rest[end..].starts_with(',') {
            return (!host.is_empty()).then_some(host);
        }
        let (numbers, after) = rest[end + 1..].split_once(']')?;
        host.push_str(numbers.split(['-', ',']).next()?);
        rest = after;
    }
    host.push_str(rest);
    (!host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Launched>, DistError> {
        Launched::of(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const OPEN_MPI: [(&str, &str); 3] =
        [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")];
    const TORCHRUN: [(&str, &str); 5] = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "node7"),
        ("MASTER_PORT", "29500"),
    ];

    #[test]
    fn each_launcher_is_recognized_by_its_variables() {
        let slurm = [("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "1")];
        let pmix = [("PMIX_NAMESPACE", "slurm.pmix.1.0"), ("PMIX_RANK", "5")];
        let pmi = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("PMI_FD", "6")];
        let summary = |variables: &[(&str, &str)]| {
            of(variables).unwrap().map(|found| (found.launcher, found.rank, found.world, found.local_rank))
        };
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&OPEN_MPI), Some((Launcher::OpenMpi, 3, Some(4), Some(1))));
        assert_eq!(summary(&pmi), Some((Launcher::Pmi, 0, Some(2), None)));
        assert_eq!(summary(&slurm), Some((Launcher::Slurm, 5, Some(8), Some(1))));
        assert_eq!(summary(&pmix), Some((Launcher::Pmix, 5, None, None)));
        let within_slurm: Vec<_> = pmix.into_iter().chain(slurm).collect();
        assert_eq!(summary(&within_slurm), Some((Launcher::Pmix, 5, Some(8), Some(1))));
        assert_eq!(summary(&TORCHRUN), Some((Launcher::Torchrun, 1, Some(2), Some(0))));
        assert_eq!(of(&TORCHRUN).unwrap().unwrap().master, Some((String::from("node7"), 29500)));
    }

    #[test]
    fn the_first_machine_of_slurms_list_is_where_ranks_meet() {
        for (nodes, first) in [
            ("node7", "node7"),
            ("a,b", "a"),
            ("node[01-04,7]", "node01"),
            ("node[3,7-9],other", "node3"),
            ("rack[2-3]-gpu[08-15].local", "rack2-gpu08.local"),
            ("x[1-2]y,z", "x1y"),
        ] {
            assert_eq!(first_host(nodes).as_deref(), Some(first), "{nodes}");
        }
        assert_eq!((first_host(""), first_host("node[01")), (None, None));
        let step = [
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
            ("SLURM_STEP_NODELIST", "gpu[04-05]"),
            ("SLURM_JOB_ID", "4711"),
        ];
        let at = |id| of(&[&step[..], &[("SLURM_STEP_ID", id)]].concat()).unwrap().unwrap().master.unwrap();
        assert_eq!(at("0").0, "gpu04");
        assert!((20_000..32_000).contains(&at("0").1) && at("0").1 + 1 == at("1").1, "{:?}", at("0"));
        assert_eq!(of(&step[..2]).unwrap().unwrap().master, None);
    }

    #[test]
    fn the_inner_of_two_launchers_counts() {
        let launcher = |variables: Vec<(&str, &str)>| of(&variables).unwrap().map(|found| found.launcher);
        let torchrun_of_mpirun =
            OPEN_MPI.into_iter().chain(TORCHRUN).chain([("TORCHELASTIC_RUN_ID", "none")]);
        assert_eq!(launcher(torchrun_of_mpirun.collect()), Some(Launcher::Torchrun));
        // Scripts set torchrun's variables under mpirun too.
        assert_eq!(launcher(OPEN_MPI.into_iter().chain(TORCHRUN).collect()), Some(Launcher::OpenMpi));
        let mpirun_of_srun =
            [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")].into_iter().chain(OPEN_MPI);
        assert_eq!(launcher(mpirun_of_srun.collect()), Some(Launcher::OpenMpi));
        let without = |name: &str| Launched::variables().all(|variable| variable != name);
        assert!(OPEN_MPI[..2].iter().chain(&TORCHRUN[..2]).all(|(name, _)| !without(name)));
        // A batch script without srun.
        assert_eq!(launcher(vec![("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
    }

    #[test]
    fn a_variable_that_is_no_number_is_named() {
        let error = of(&[("PMI_SIZE", "two"), ("PMI_RANK", "0")]).unwrap_err().to_string();
        assert!(error.contains("PMI_SIZE is two; expected a whole number"), "{error}");
        let error = of(&[("PMI_SIZE", "2"), ("PMI_RANK", "2")]).unwrap_err().to_string();
        assert!(error.contains("PMI_RANK is 2; expected less than the number of ranks"), "{error}");
        let error = of(&TORCHRUN[..4]).unwrap_err().to_string();
        assert!(error.contains("MASTER_PORT is not set"), "{error}");
    }
}
