//! What goes wrong between ranks.

use std::time::Duration;

/// Ranks could not find one another, or parted.
#[derive(Debug, thiserror::Error)]
pub enum DistError {
    /// Some ranks did not answer.
    #[error("{} did not answer within {:.0} s: {operation}", names_of(.silent), .waited.as_secs_f64())]
    Silent {
        /// Those that did not answer, as far as that could be found out; else empty.
        silent: Vec<usize>,
        /// What was waited for.
        operation: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// A rank has ended, or said that it cannot go on.
    #[error("{} has ended: {reason}", names_of(.gone))]
    Gone {
        /// Those that have ended, as far as known.
        gone: Vec<usize>,
        /// What is known of it.
        reason: String,
    },
    /// A library reported an error.
    #[error("{library}: {call} failed: {reason}")]
    Library {
        /// Its file.
        library: String,
        /// The function that was called.
        call: &'static str,
        /// The error in the library's words.
        reason: String,
    },
    /// No library can be opened.
    #[error("no {what} library can be opened ({}); {remedy}", .tried.join("; "))]
    NoLibrary {
        /// MPI or NCCL.
        what: &'static str,
        /// What the loader said of each name that was tried.
        tried: Vec<String>,
        /// What to install or set.
        remedy: &'static str,
    },
    /// A library lacks an entry point.
    #[error("{library} has no {symbol}: {remedy}")]
    NoSymbol {
        /// Its file.
        library: String,
        /// What it lacks.
        symbol: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The launcher started another number of ranks than the library connected.
    #[error(
        "{launcher} started {launched} ranks, but {library} connects {connected}: library and launcher belong to \
         different MPIs; {remedy}"
    )]
    OtherMpi {
        /// What started the process.
        launcher: &'static str,
        /// Number of ranks by its environment.
        launched: usize,
        /// The library: version and file.
        library: String,
        /// Number of ranks by `MPI_Comm_size`.
        connected: usize,
        /// Which library or launcher to use instead.
        remedy: &'static str,
    },
    /// The launcher's environment cannot be read.
    #[error("{launcher} started this process, but {variable} is {}; expected {expected}", value.as_deref().unwrap_or("not set"))]
    Environment {
        /// What started the process.
        launcher: &'static str,
        /// The variable.
        variable: &'static str,
        /// Its value, if it is set.
        value: Option<String>,
        /// What it should be.
        expected: &'static str,
    },
    /// A rank cannot use its GPU.
    #[error("no GPU for this rank: {why}")]
    Board {
        /// What the driver said, or what is missing.
        why: String,
    },
    /// Several ranks were given one GPU.
    #[error(
        "{} were given the same GPU ({board}): give each its own, by --device cuda (the GPU of its number on its machine) \
         or by CUDA_VISIBLE_DEVICES; NCCL_MULTI_RANK_GPU_ENABLE=1 lets them share one, from NCCL 2.30 on",
        names_of(.sharing)
    )]
    SharedBoard {
        /// The ranks.
        sharing: Vec<usize>,
        /// The GPU.
        board: String,
    },
    /// Ranks were started by something that cannot connect them.
    #[error("{launcher} started this process as one of {launched} ranks, and cannot connect them: {remedy}")]
    NotConnected {
        /// What started the process.
        launcher: &'static str,
        /// Number of ranks by its environment.
        launched: usize,
        /// What to start them with instead.
        remedy: &'static str,
    },
}

impl DistError {
    /// The ranks that it is about, as far as they are known.
    pub fn ranks(&self) -> &[usize] {
        match self {
            Self::Silent { silent, .. } => silent,
            Self::Gone { gone, .. } => gone,
            _ => &[],
        }
    }
}

/// Ranks for a person: `ranks 1 and 3`.
pub fn names_of(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
    match numbers.as_slice() {
        [] => String::from("a rank"),
        [one] => format!("rank {one}"),
        [others @ .., last] => format!("ranks {} and {last}", others.join(", ")),
    }
}
