//! Ranks that part.

use std::time::Duration;

use crate::launchers::{Ended, installed};

/// What rank `rank` heard of rank 1, which does not answer.
fn names_rank_1(ended: &Ended, rank: usize) {
    let text = ended.text_of_rank(rank);
    let lines: Vec<&str> = text.lines().collect();
    let first = "rank 1 did not answer within 2 s: an exchange";
    assert_eq!(lines[0], first, "rank {rank}: {text}");
    assert_eq!(lines[1], format!("a rank has ended: an earlier call failed: {first}"));
    // The deadline, and two seconds to find out who is silent.
    let took: f64 = lines[2].parse().unwrap();
    assert!((3.5..15.0).contains(&took), "rank {rank}: {took} s");
}

/// The launcher ends with the code of the rank that gave up.
fn expect_76(ended: &Ended) {
    // As it ends, mpirun of Open MPI 4.1.4 crashes now and then in its PMIx 4.2.2; all ranks are dead by then.
    let has_crashed = ["errorcode 76", "PMIx_server_finalize"].iter().all(|part| ended.said.contains(part));
    assert!(ended.status.code() == Some(76) || has_crashed, "{}: {}", ended.status, ended.said);
}

#[test]
fn a_rank_that_is_stopped_or_busy_is_named() {
    for mpirun in installed("a_rank_that_is_stopped_or_busy_is_named") {
        for job in ["stopped", "busy"] {
            let ended = mpirun.run(&[3], job, &[]);
            names_rank_1(&ended, 0);
            names_rank_1(&ended, 2);
            expect_76(&ended);
            assert!(ended.took < Duration::from_secs(40), "{mpirun:?} {job}: {:?}", ended.took);
        }
    }
}

#[test]
fn a_rank_that_is_killed_ends_all() {
    for mpirun in installed("a_rank_that_is_killed_ends_all") {
        let ended = mpirun.run(&[3], "killed", &[]);
        assert!(!ended.status.success(), "{mpirun:?}: {}", ended.said);
        assert!(ended.took < Duration::from_secs(15), "{mpirun:?}: {:?}", ended.took);
    }
}

#[test]
fn an_abort_ends_all_with_its_code() {
    for mpirun in installed("an_abort_ends_all_with_its_code") {
        let ended = mpirun.run(&[3], "abort", &[]);
        expect_76(&ended);
        assert!(ended.took < Duration::from_secs(15), "{mpirun:?}: {:?}", ended.took);
    }
}

#[test]
fn a_rank_that_never_starts_ends_all() {
    for mpirun in installed("a_rank_that_never_starts_ends_all") {
        let ended = mpirun.run(&[2], "never starts", &[]);
        expect_76(&ended);
        assert!(ended.took < Duration::from_secs(15), "{mpirun:?}: {:?}", ended.took);
    }
}
