//! Ranks that MPI connects.

use crate::calls::transcript;
use crate::launchers::installed;
use crate::rank::{LARGE, SMALL};
use crate::threads::on_ranks;

#[test]
fn every_call_hears_what_threads_hear() {
    for mpirun in installed("every_call_hears_what_threads_hear") {
        for world in [1, 2, 4] {
            let reference = on_ranks(world, |rank| {
                let mut heard = transcript(rank, &SMALL);
                heard.append(&mut transcript(rank, &LARGE));
                heard
            });
            let ended = mpirun.run(&[world], "calls", &[]).expect_success();
            for (rank, heard) in reference.iter().enumerate() {
                assert!(ended.of_rank(rank) == *heard, "{mpirun:?}: rank {rank} of {world} heard otherwise");
            }
        }
    }
}

#[test]
fn ranks_know_their_node() {
    for mpirun in installed("ranks_know_their_node") {
        let ended = mpirun.run(&[2, 1], "connect", &[]).expect_success();
        let places: Vec<String> = (0..3).map(|rank| ended.text_of_rank(rank)).collect();
        let expected = [
            "rank: 0, world: 3, local_rank: 0, local_world: 2, node: 0, n_nodes: 2",
            "rank: 1, world: 3, local_rank: 1, local_world: 2, node: 0, n_nodes: 2",
            "rank: 2, world: 3, local_rank: 0, local_world: 1, node: 1, n_nodes: 2",
        ];
        for (place, expected) in places.iter().zip(expected) {
            assert!(place.contains(expected), "{mpirun:?}: {place}");
            assert!(place.starts_with("MPI, 3 ranks ("), "{place}");
        }
        // Without a name for the node, the boot id tells that all are on one machine.
        let ended = mpirun.run(&[2], "connect", &[]).expect_success();
        let place = ended.text_of_rank(1);
        assert!(place.contains("local_rank: 1, local_world: 2, node: 0, n_nodes: 1"), "{place}");
    }
}

#[test]
fn waiting_costs_little_cpu_time() {
    for mpirun in installed("waiting_costs_little_cpu_time") {
        let ended = mpirun.run(&[2], "waiting", &[]).expect_success();
        let cpu_ms: u64 = ended.text_of_rank(0).parse().unwrap();
        // Polling without sleeps takes some 1,900 ms; sleeps of a millisecond take 30 to 60.
        assert!(cpu_ms < 300, "{mpirun:?}: {cpu_ms} ms of CPU time in 2 s");
    }
}
