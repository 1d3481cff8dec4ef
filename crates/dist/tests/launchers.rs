//! The `mpirun` programs of this machine.

use std::env;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::rank::{JOB, OUT};

/// Set to `required`, tests fail where no launcher is installed.
const REQUIRED: &str = "WATTLE_TEST_MPI";
/// One more launcher and the library for it, as `/opt/bin/mpirun,/opt/lib/libmpi_abi.so.1`.
const ANOTHER: &str = "WATTLE_TEST_MPIRUN";

/// An `mpirun`, and the library for it where it is not one that is found by itself.
#[derive(Clone, Debug)]
pub struct Mpirun {
    pub program: String,
    pub library: Option<String>,
}

/// What is left of ranks that were started.
pub struct Ended {
    pub status: ExitStatus,
    pub took: Duration,
    /// All that ranks and launcher printed.
    pub said: String,
    dir: tempfile::TempDir,
}

/// Few cores: one job at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Those that are installed; says so where one is not.
pub fn installed(test: &str) -> Vec<Mpirun> {
    let of_debian = ["mpirun.openmpi", "mpirun.mpich"].map(|name| (name.to_owned(), None));
    let another = env::var(ANOTHER).ok().map(|both| {
        let (program, library) = both.split_once(',').expect("a program and a library");
        (program.to_owned(), Some(library.to_owned()))
    });
    let (there, missing): (Vec<_>, Vec<_>) =
        of_debian.into_iter().chain(another).partition(|(program, _)| is_program(program));
    for (program, _) in missing {
        assert!(env::var(REQUIRED).is_err(), "{REQUIRED} is set and there is no {program}");
        // Not by `eprintln!`, which the harness swallows where a test passes.
        let note = format!("{test}: SKIPPED for {program}, which is not installed\n");
        std::io::stderr().write_all(note.as_bytes()).unwrap();
    }
    there.into_iter().map(|(program, library)| Mpirun { program, library }).collect()
}

fn is_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(name).is_file()) || Path::new(name).is_file()
}

impl Mpirun {
    /// Runs `job` on ranks of this test binary; one number of ranks for each faked node.
    pub fn run(&self, nodes: &[usize], job: &str, variables: &[(&str, &str)]) -> Ended {
        let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = Command::new(&self.program);
        if self.program.contains("openmpi") {
            command.arg("--oversubscribe");
            command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        }
        for (node, n_ranks) in nodes.iter().enumerate() {
            if node > 0 {
                command.arg(":");
            }
            command.args(["-n", &n_ranks.to_string()]);
            if nodes.len() > 1 {
                command.args(["env", &format!("WATTLE_NODE=node {node}")]);
            }
            command.arg(env::current_exe().unwrap());
            command.args(["rank::rank", "--exact", "--ignored", "--nocapture"]);
        }
        command.env(JOB, job).env(OUT, dir.path()).envs(variables.iter().copied());
        if let Some(library) = &self.library {
            command.env(wattle_dist::connect::LIBRARY, library);
        }
        let file = File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let began = Instant::now();
        let status = wait(command, Duration::from_secs(100));
        let took = began.elapsed();
        let said = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
        let status = status.unwrap_or_else(|| panic!("{} {job} did not end: {said}", self.program));
        Ended { status, took, said, dir }
    }
}

fn wait(mut command: Command, within: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    let mut child = command.spawn().unwrap();
    while began.elapsed() < within {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

impl Ended {
    /// What a rank left in its file.
    pub fn of_rank(&self, rank: usize) -> Vec<u8> {
        let path = file_of_rank(self.dir.path(), rank);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: {}", path.display(), self.said))
    }

    pub fn text_of_rank(&self, rank: usize) -> String {
        String::from_utf8(self.of_rank(rank)).unwrap()
    }

    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{}: {}", self.status, self.said);
        self
    }
}

/// Where a rank leaves what it has to say.
pub fn file_of_rank(dir: &Path, rank: usize) -> PathBuf {
    dir.join(format!("rank-{rank}"))
}
