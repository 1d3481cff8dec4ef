//! Which fabric a process gets, by what started it.

use std::env;
use std::path::Path;
use std::process::Command;

use crate::launchers::{Mpirun, file_of_rank, installed};
use crate::rank::{JOB, OUT};

/// What `connect` says in a process of its own with these variables, which stand for a launcher.
fn connect(variables: &[(&str, &str)]) -> String {
    alone("connect", variables)
}

/// What a job says in a process of its own, with these variables.
pub fn alone(job: &str, variables: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["rank::rank", "--exact", "--ignored"]);
    command.env(JOB, job).env(OUT, dir.path()).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let rank =
        variables.iter().find(|(name, _)| *name == "RANK").map_or(0, |(_, rank)| rank.parse().unwrap());
    std::fs::read_to_string(file_of_rank(Path::new(dir.path()), rank)).unwrap()
}

#[test]
fn a_process_alone_is_one_rank() {
    let alone = connect(&[]);
    assert!(alone.starts_with("one process\n"), "{alone}");
    let torchrun = connect(&[("RANK", "0"), ("WORLD_SIZE", "1")]);
    assert!(torchrun.starts_with("one process\n"), "{torchrun}");
}

#[test]
fn where_no_library_can_be_opened_it_says_what_was_tried_and_what_to_install() {
    let launched = [("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("WATTLE_MPI", "/nowhere/libmpi.so")];
    let error = connect(&launched);
    for part in ["no MPI library can be opened", "/nowhere/libmpi.so", "openmpi-bin or mpich", "WATTLE_MPI"] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let error = connect(&[launched[0], launched[1], ("WATTLE_MPI", "libm.so.6")]);
    assert!(error.contains("libm.so.6 has no MPI_Init_thread: it is not an MPI 3 library"), "{error}");
}

#[test]
fn torchrun_without_gpus_is_told_to_use_mpirun() {
    let error = connect(&[("RANK", "0"), ("WORLD_SIZE", "8")]);
    assert!(error.contains("torchrun started this process as one of 8 ranks"), "{error}");
    assert!(error.contains("start them with mpirun"), "{error}");
}

#[test]
fn a_library_of_another_mpi_than_the_launchers_is_refused() {
    let foreign = [("mpirun.openmpi", "libmpich.so.12"), ("mpirun.mpich", "libmpi.so.40")];
    let there = installed("a_library_of_another_mpi_than_the_launchers_is_refused");
    if there.len() < foreign.len() {
        return;
    }
    for (program, library) in foreign {
        let mpirun = Mpirun { program: program.to_owned(), library: Some(library.to_owned()) };
        let ended = mpirun.run(&[2], "connect", &[]).expect_success();
        for rank in 0..2 {
            let error = ended.text_of_rank(rank);
            assert!(error.contains("started 2 ranks, but") && error.contains("connects 1"), "{error}");
            assert!(error.contains(library) && error.contains("WATTLE_MPI=libmpi"), "{error}");
        }
    }
}
