//! What one rank does: this binary starts itself under a launcher, and runs the one test here.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};
use wattle_dist::{DistError, EXIT_PARTED, Fabric, Launched, Mpi, Nccl, connect, nccl};

use crate::calls::{LONG, transcript};
use crate::launchers::file_of_rank;

/// What to do.
pub const JOB: &str = "WATTLE_TEST_JOB";
/// Where to leave what is to be said.
pub const OUT: &str = "WATTLE_TEST_OUT";

/// Sizes that take many rounds of [`SMALL_ROUND`], and such that take several of the usual ones.
pub const SMALL: [usize; 8] = [0, 1, 7, 999, 1000, 1001, 4097, 100_003];
pub const SMALL_ROUND: usize = 1000;
pub const LARGE: [usize; 3] = [70_001, 5_000_003, 0];

/// Waits that are to end in a deadline.
pub const SHORT: Duration = Duration::from_secs(2);

#[test]
#[ignore = "one rank, which the other tests start under mpirun"]
fn rank() {
    let dir = std::env::var(OUT).expect("started by the other tests");
    let leave = |fabric: &dyn Fabric, what: &[u8]| {
        fs::write(file_of_rank(Path::new(&dir), fabric.place().rank), what).unwrap();
    };
    let job = std::env::var(JOB).unwrap();
    match job.as_str() {
        "connect" => {
            let text = match connect::connect(None, LONG) {
                Ok(fabric) => format!("{}\n{:?}", fabric.describe(), fabric.place()),
                Err(error) => error.to_string(),
            };
            let rank = Launched::here().unwrap().map_or(0, |launched| launched.rank);
            fs::write(file_of_rank(Path::new(&dir), rank), text).unwrap();
        }
        "nccl" => {
            let launched = Launched::here().unwrap();
            if let Some(launched) = &launched {
                // SAFETY: this process does nothing else.
                unsafe { nccl::prepare(launched) };
            }
            let id = Nccl::open().and_then(|nccl| Ok((nccl.version(), nccl.unique_id()?)));
            let text = match id {
                Ok(((major, minor, patch), id)) => format!("NCCL {major}.{minor}.{patch}: {id:?}"),
                Err(error) => error.to_string(),
            };
            let rank = launched.map_or(0, |launched| launched.rank);
            fs::write(file_of_rank(Path::new(&dir), rank), text).unwrap();
        }
        "nccl alone" => {
            let rank = Launched::here().unwrap().unwrap().rank;
            if rank > 0 {
                sleep(60);
            }
            let text =
                connect_on_gpu(SHORT).map_or_else(|error| error.to_string(), |fabric| fabric.describe());
            fs::write(file_of_rank(Path::new(&dir), rank), text).unwrap();
        }
        "nccl place" => {
            let fabric = connect_on_gpu(LONG).unwrap();
            leave(&*fabric, format!("{}\n{:?}", fabric.describe(), fabric.place()).as_bytes());
        }
        "nccl calls" => {
            let fabric = connect_on_gpu(LONG).unwrap();
            let mut heard =
                thread::scope(|scope| scope.spawn(|| transcript(&*fabric, &SMALL)).join().unwrap());
            heard.append(&mut transcript(&*fabric, &LARGE));
            leave(&*fabric, &heard);
        }
        "nccl stopped" | "nccl killed" | "nccl busy" | "nccl parts" => {
            let fabric = connect_on_gpu(LONG).unwrap();
            part(&leave, &*fabric, |fabric| {
                fabric.place().rank == 1
                    && match &*job {
                        "nccl stopped" => ends_here(Signal::STOP),
                        "nccl killed" => ends_here(Signal::KILL),
                        "nccl busy" => sleep(30),
                        _ => says_why(fabric),
                    }
            });
        }
        "calls" => {
            let fabric = open().with_round_bytes(SMALL_ROUND);
            // From another thread than the one that opened it.
            let mut heard =
                thread::scope(|scope| scope.spawn(|| transcript(&fabric, &SMALL)).join().unwrap());
            let fabric = fabric.with_round_bytes(4 << 20);
            heard.append(&mut transcript(&fabric, &LARGE));
            leave(&fabric, &heard);
        }
        "stopped" => {
            part(&leave, &open(), |fabric| fabric.place().rank == 1 && ends_here(Signal::STOP));
        }
        "killed" => {
            part(&leave, &open(), |fabric| fabric.place().rank == 1 && ends_here(Signal::KILL));
        }
        "busy" => part(&leave, &open(), |fabric| fabric.place().rank == 1 && sleep(30)),
        "parts" => {
            part(&leave, &open(), |fabric| fabric.place().rank == 1 && says_why(fabric));
        }
        "waiting" => {
            let fabric = open();
            fabric.barrier(LONG).unwrap();
            let before = cpu_time();
            if fabric.place().rank == 1 {
                sleep(2);
            }
            fabric.barrier(LONG).unwrap();
            leave(&fabric, format!("{}", (cpu_time() - before).as_millis()).as_bytes());
        }
        "abort" => {
            let fabric = open();
            fabric.barrier(LONG).unwrap();
            if fabric.place().rank == 1 {
                fabric.abort(EXIT_PARTED);
            }
            let _ = fabric.barrier(LONG);
        }
        "never starts" => {
            if Launched::here().unwrap().unwrap().rank == 1 {
                sleep(60);
            }
            let _ = connect::connect(None, SHORT);
        }
        job => panic!("no job {job}"),
    }
}

/// The library that fits the launcher.
fn open() -> Mpi {
    let launched = Launched::here().unwrap().expect("under a launcher");
    let fabric = Mpi::open(&connect::names(launched.launcher), LONG).unwrap();
    assert_eq!((fabric.place().rank, Some(fabric.place().world)), (launched.rank, launched.world));
    fabric
}

/// `leave_others` takes a rank away; the others, of which rank 2 comes half a second late, wait for it in vain.
fn part(
    leave: &impl Fn(&dyn Fabric, &[u8]),
    fabric: &dyn Fabric,
    leave_others: impl Fn(&dyn Fabric) -> bool,
) {
    fabric.barrier(LONG).unwrap();
    if leave_others(fabric) {
        return;
    }
    if fabric.place().rank == 2 {
        thread::sleep(Duration::from_millis(500));
    }
    let (began, len) = (Instant::now(), 300_000 * fabric.place().world);
    let error = fabric.exchange(&vec![1; len], &mut vec![0; len], SHORT).unwrap_err();
    let again = fabric.barrier(LONG).unwrap_err();
    let text = format!("{error}\n{again}\n{}", began.elapsed().as_secs_f64());
    leave(fabric, text.as_bytes());
    // Rank 2 finds out half a second later.
    sleep(if fabric.place().rank == 2 { 0 } else { 2 });
    fabric.abort(EXIT_PARTED);
}

fn says_why(fabric: &dyn Fabric) -> bool {
    fabric.part("the disk is full");
    true
}

/// A rank that computes on the GPU of its number.
fn connect_on_gpu(within: Duration) -> Result<Arc<dyn Fabric>, DistError> {
    let launched = Launched::here().unwrap().unwrap();
    // SAFETY: no other thread of this process uses the environment now.
    unsafe { nccl::prepare(&launched) };
    connect::connect(Some(launched.local_rank.unwrap_or(0)), within)
}

/// Sends itself a signal. Any thread may take it, and until it does this one would go on.
fn ends_here(signal: Signal) -> bool {
    kill_process(getpid(), signal).unwrap();
    sleep(30)
}

fn sleep(seconds: u64) -> bool {
    thread::sleep(Duration::from_secs(seconds));
    true
}

/// CPU time of this process.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}
