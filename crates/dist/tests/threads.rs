//! Ranks that are threads of one process.

use std::thread;
use std::time::{Duration, Instant};

use wattle_dist::{DistError, Fabric, Solo, Threads};

use crate::calls::{LONG, expected, transcript};

pub const LENS: [usize; 6] = [0, 1, 7, 1000, 1001, 4097];

/// What `job` returns on each of `world` ranks.
pub fn on_ranks<T: Send>(world: usize, job: impl Fn(&Threads) -> T + Sync) -> Vec<T> {
    let ranks = Threads::ranks(world);
    thread::scope(|scope| {
        let running: Vec<_> = ranks.iter().map(|rank| scope.spawn(|| job(rank))).collect();
        running.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn every_call_does_as_defined() {
    assert_eq!(transcript(&Solo::new(), &LENS), expected(0, 1, &LENS));
    for world in [1, 2, 3, 4] {
        for (rank, heard) in on_ranks(world, |rank| transcript(rank, &LENS)).into_iter().enumerate() {
            assert!(heard == expected(rank, world, &LENS), "rank {rank} of {world}");
        }
    }
}

#[test]
fn a_late_rank_is_waited_for() {
    let waited = on_ranks(3, |rank| {
        if rank.place().rank == 1 {
            thread::sleep(Duration::from_millis(300));
        }
        let began = Instant::now();
        rank.barrier(LONG).unwrap();
        began.elapsed()
    });
    assert!(waited[0] > Duration::from_millis(200), "{waited:?}");
    assert!(waited[1] < waited[0], "{waited:?}");
}

#[test]
fn a_deadline_names_those_that_are_silent() {
    let within = Duration::from_millis(200);
    let errors = on_ranks(4, |rank| {
        let is_here = rank.place().rank % 2 == 0;
        is_here.then(|| rank.barrier(within).unwrap_err())
    });
    for error in errors.into_iter().flatten() {
        assert_eq!(error.to_string(), "ranks 1 and 3 did not answer within 0 s: a barrier");
        let DistError::Silent { silent, waited, .. } = error else { panic!("{error}") };
        assert_eq!((silent, waited), (vec![1, 3], within));
    }
}
