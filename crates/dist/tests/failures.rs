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
    assert_eq!(ended.status.code(), Some(76), "{}", ended.said);
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
fn a_rank_that_parts_is_heard_at_once_and_its_reason_is_told() {
    for mpirun in installed("a_rank_that_parts_is_heard_at_once_and_its_reason_is_told") {
        let ended = mpirun.run(&[3], "parts", &[]);
        let text = ended.text_of_rank(0);
        assert_eq!(text.lines().next().unwrap(), "rank 1 has ended: the disk is full", "{mpirun:?}: {text}");
        // Long before the deadline.
        let took: f64 = text.lines().nth(2).unwrap().parse().unwrap();
        assert!(took < 1.5, "{mpirun:?}: {took} s");
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
        // MPICH's launcher ends with the code of whichever rank it looks at: this one, or one that it killed.
        let says_why = ended.said.contains("did not return within 2 s; this process ends");
        assert!(!ended.status.success() && says_why, "{mpirun:?}: {}: {}", ended.status, ended.said);
        assert!(ended.took < Duration::from_secs(15), "{mpirun:?}: {:?}", ended.took);
    }
}
