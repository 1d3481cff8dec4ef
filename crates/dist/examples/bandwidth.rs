//! Times `exchange` and `all_gather` against the MPI library's own, blocking `MPI_Alltoall` and `MPI_Allgather`.
//!
//! ```text
//! cargo build --release -p wattle-dist --example bandwidth
//! mpirun -n 2 target/release/examples/bandwidth [BYTES_OF_A_ROUND]
//! ```
//!
//! Each rank has as many bytes as a line says: for `exchange` to send and to receive, for `all_gather` to receive. Both
//! ways take turns, each from a barrier on; a time is the median over repetitions of the slowest rank's. Bandwidth is
//! what one rank receives, its own piece included.
#![allow(clippy::print_stdout, reason = "a table for whoever runs it")]

use std::error::Error;
use std::time::{Duration, Instant};

use wattle_dist::{DistError, Fabric, Launched, Mpi, connect};

const WITHIN: Duration = Duration::from_secs(60);
const LENS: [usize; 6] = [1 << 10, 16 << 10, 256 << 10, 4 << 20, 40 << 20, 160 << 20];
/// For each length, about.
const BYTES_IN_ALL: usize = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let launched = Launched::here()?.ok_or("start this under mpirun")?;
    let mut mpi = Mpi::open(&connect::names(launched.launcher), WITHIN)?;
    if let Some(round_bytes) = std::env::args().nth(1) {
        mpi = mpi.with_round_bytes(round_bytes.parse()?);
    }
    let leads = mpi.place().leads();
    if leads {
        println!("{}\n", mpi.describe());
        println!("| bytes | exchange | MPI_Alltoall | all_gather | MPI_Allgather |");
        println!("|--:|--:|--:|--:|--:|");
    }
    for len in LENS {
        let cells = line(&mpi, len)?;
        if leads {
            println!("| {len} | {} |", cells.join(" | "));
        }
    }
    Ok(())
}

/// Times of the four ways with `len` bytes a rank.
fn line(mpi: &Mpi, len: usize) -> Result<Vec<String>, DistError> {
    let world = mpi.place().world;
    let piece = len / world;
    let own: Vec<u8> = (0..piece * world).map(|at| (at + mpi.place().rank) as u8).collect();
    let (mut ours, mut theirs) = (vec![0; own.len()], vec![0; own.len()]);
    let n_repetitions = (BYTES_IN_ALL / len).clamp(7, 300);
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..n_repetitions {
        times[0].push(timed(mpi, || mpi.exchange(&own, &mut ours, WITHIN))?);
        times[1].push(timed(mpi, || mpi.blocking(true, &own, &mut theirs))?);
        assert!(ours == theirs, "an exchange of {len} bytes");
        times[2].push(timed(mpi, || mpi.all_gather(&own[..piece], &mut ours, WITHIN))?);
        times[3].push(timed(mpi, || mpi.blocking(false, &own[..piece], &mut theirs))?);
        assert!(ours == theirs, "a gathering of {len} bytes");
    }
    Ok(times.iter_mut().map(|times| cell(times, len)).collect())
}

/// How long `call` takes on the slowest rank.
fn timed(mpi: &Mpi, call: impl FnOnce() -> Result<(), DistError>) -> Result<Duration, DistError> {
    mpi.barrier(WITHIN)?;
    let began = Instant::now();
    call()?;
    let own = began.elapsed().as_secs_f64().to_le_bytes();
    let mut all = vec![0; own.len() * mpi.place().world];
    mpi.all_gather(&own, &mut all, WITHIN)?;
    let (words, _) = all.as_chunks();
    Ok(Duration::from_secs_f64(words.iter().map(|word| f64::from_le_bytes(*word)).fold(0.0, f64::max)))
}

fn cell(times: &mut [Duration], len: usize) -> String {
    times.sort();
    let seconds = times[times.len() / 2].as_secs_f64();
    format!("{:.3} ms, {:.2} GB/s", seconds * 1e3, len as f64 / seconds / 1e9)
}
