//! Boards of several ranks, each a process of its own, on stand-ins for the driver and NCCL.

use std::env;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use wattle_dist::{Fabric, Launched, Nccl, connect, nccl};

use super::compile::standins;
use super::{CudaBoard, CudaOptions};
use crate::board::{Board, BoardError, Collectives, DevicePtr, Owned, Ptr};

/// What a rank does.
const JOB: &str = "WATTLE_TEST_JOB";
/// Where it leaves what is to be said.
const OUT: &str = "WATTLE_TEST_OUT";

/// How this binary is one rank.
const RANK: [&str; 4] = ["board::cuda::tests::ranks::rank", "--exact", "--ignored", "--nocapture"];

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// A wait that is to end in its deadline.
const SHORT: Duration = Duration::from_secs(2);

/// Elements of each rank's part.
const N: usize = 1001;

#[test]
fn ranks_sum_and_gather_in_steps_that_are_recorded_and_replayed() {
    for world in [1, 2, 4] {
        let ranks = Ranks::start("steps", world, &[]);
        for rank in 0..world {
            assert_eq!(ranks.said(rank), "as expected", "rank {rank} of {world}");
        }
    }
}

#[test]
fn ranks_that_mpi_connects_sum_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut mpirun = Command::new("mpirun.mpich");
    mpirun.args(["-n", "2"]).arg(env::current_exe().unwrap()).args(RANK);
    mpirun
        .env("LD_LIBRARY_PATH", standins())
        .env(JOB, "steps")
        .env(OUT, dir.path())
        .env("STANDIN_DEVICES", "2");
    match mpirun.stdout(Stdio::null()).status() {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => {
            assert!(env::var("WATTLE_TEST_MPI").is_err(), "mpirun.mpich: {error}");
            // Not by `eprintln!`, which the harness swallows where a test passes.
            let note = format!("ranks_that_mpi_connects_sum_too: SKIPPED, no mpirun.mpich: {error}\n");
            return std::io::stderr().write_all(note.as_bytes()).unwrap();
        }
    }
    for rank in 0..2 {
        assert_eq!(fs::read_to_string(said_by(dir.path(), rank)).unwrap(), "as expected");
    }
}

#[test]
fn a_rank_that_is_stopped_is_named_within_the_deadline() {
    for job in ["stopped", "stopped in a replay"] {
        let ranks = Ranks::start(job, 3, &[]);
        for rank in [0, 2] {
            let said = ranks.said(rank);
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines[0], "rank 1 did not answer within 2 s: a step on the GPUs", "{job}: {said}");
            assert!(lines[1].starts_with("a rank has ended: an earlier call failed: rank 1 did"), "{said}");
            // The deadline, as much again to ask who is there, and no wait as the board goes.
            let took: f64 = lines[2].parse().unwrap();
            assert!((2.0..40.0).contains(&took), "{job}: {took} s");
        }
    }
}

#[test]
fn a_rank_that_dies_ends_the_others_before_the_deadline() {
    let ranks = Ranks::start("killed", 3, &[]);
    for rank in [0, 2] {
        let said = ranks.said(rank);
        assert!(said.starts_with("a rank has ended: "), "{said}");
        assert!(said.contains("remote process exited"), "{said}");
        let took: f64 = said.lines().last().unwrap().parse().unwrap();
        assert!(took < LONG.as_secs_f64() / 2.0, "{took} s");
    }
}

#[test]
fn a_rank_that_parts_says_why_before_the_deadline() {
    let ranks = Ranks::start("parts", 3, &[]);
    for rank in [0, 2] {
        let said = ranks.said(rank);
        assert!(said.starts_with("rank 1 has ended: the disk is full\n"), "{said}");
        let took: f64 = said.lines().last().unwrap().parse().unwrap();
        assert!(took < LONG.as_secs_f64() / 2.0, "{took} s");
    }
}

#[test]
fn ranks_with_one_board_are_refused_unless_nccl_shares_it() {
    let one_device = ("STANDIN_DEVICES", "1");
    let said = Ranks::start("shared", 2, &[one_device]).said(1);
    assert!(said.starts_with("ranks 0 and 1 were given the same GPU"), "{said}");
    assert!(said.contains("NCCL_MULTI_RANK_GPU_ENABLE=1"), "{said}");
    let asked = (nccl::SHARED_BOARD, "1");
    let old = Ranks::start("shared", 2, &[one_device, asked, ("STANDIN_NCCL_VERSION", "22900")]);
    assert!(old.said(0).contains("same GPU"));
    let new = Ranks::start("shared", 2, &[one_device, asked, ("STANDIN_NCCL_VERSION", "23000")]);
    assert_eq!(new.said(0), "joined");
}

/// Processes as torchrun starts them, on a stand-in.
struct Ranks {
    processes: Vec<Child>,
    dir: tempfile::TempDir,
}

impl Ranks {
    fn start(job: &str, world: usize, variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The port after this one is free, and ranks meet there.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() - 1;
        let start = |rank: usize| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(RANK);
            command.env("LD_LIBRARY_PATH", standins()).env(JOB, job).env(OUT, dir.path());
            command.env("RANK", rank.to_string()).env("LOCAL_RANK", rank.to_string());
            command.env("WORLD_SIZE", world.to_string()).env("STANDIN_DEVICES", world.to_string());
            command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
            command.envs(variables.iter().copied()).stdout(Stdio::null()).spawn().unwrap()
        };
        Self { processes: (0..world).map(start).collect(), dir }
    }

    /// What a rank left.
    fn said(&self, rank: usize) -> String {
        let began = Instant::now();
        while began.elapsed() < LONG {
            if let Ok(said) = fs::read_to_string(said_by(self.dir.path(), rank)) {
                return said;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("rank {rank} said nothing");
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended is not there any more, and one that is stopped does not end by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn said_by(dir: &Path, rank: usize) -> PathBuf {
    dir.join(format!("rank-{rank}"))
}

#[test]
#[ignore = "one rank, which the other tests start"]
fn rank() {
    let launched = Launched::here().unwrap().expect("started by a launcher");
    // SAFETY: no other thread of this process uses the environment now.
    unsafe { nccl::prepare(&launched) };
    let job = env::var(JOB).unwrap();
    let said = match job.as_str() {
        "steps" => steps(&launched),
        "shared" => shared(&launched),
        _ => lose(&job, &launched),
    };
    let path = said_by(Path::new(&env::var(OUT).unwrap()), launched.rank);
    fs::write(path.with_extension("new"), said).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

fn fabric_of(launched: &Launched) -> Arc<dyn Fabric> {
    connect(launched.local_rank, LONG).unwrap()
}

fn joined(launched: &Launched, fabric: &Arc<dyn Fabric>) -> CudaBoard {
    let board = CudaBoard::open(launched.local_rank.unwrap(), &CudaOptions::default()).unwrap();
    assert_eq!(env::var("NCCL_NVLS_ENABLE").as_deref(), Ok("0"));
    board.with_ranks(Arc::clone(fabric), &Nccl::open().unwrap(), LONG).unwrap()
}

/// What rank `rank` adds to element `i` at `step`; sums are exact in any order.
fn value(rank: usize, step: usize, i: usize) -> f32 {
    ((rank + 1) * (i % 100 + 7 * step + 1)) as f32
}

/// A step's buffers: each rank's gradients, the sums of a part, what is gathered, and what is summed and given by owners.
struct Buffers {
    source: DevicePtr,
    x: DevicePtr,
    own: DevicePtr,
    all: DevicePtr,
    owned: DevicePtr,
}

impl Buffers {
    fn new(board: &CudaBoard, world: usize) -> Self {
        let allocate = |n| board.allocate(4 * N * n).unwrap();
        let [source, x, own, all, owned] = [world, world, 1, world, world].map(allocate);
        Self { source, x, own, all, owned }
    }

    /// Parts of which the last rank owns the first.
    fn parts(&self, world: usize) -> Vec<Owned> {
        let part =
            |idx: usize| Owned { at: self.owned.offset(4 * N * idx), n_bytes: 4 * N, owner: world - 1 - idx };
        (0..world).map(part).collect()
    }

    /// Sums over ranks, copies of the own part, and gathers those, beside a copy of the board's own.
    fn issue(&self, board: &CudaBoard, ranks: &dyn Collectives) -> Result<(), BoardError> {
        let (rank, world) = (ranks.rank(), ranks.world());
        board.copy(self.x, self.source, 4 * N * world)?;
        ranks.fork()?;
        ranks.reduce_scatter(Ptr::new(self.x), N)?;
        board.zero(self.all, 4 * N * world)?;
        ranks.join()?;
        board.copy(self.own, self.x.offset(4 * N * rank), 4 * N)?;
        board.copy(self.all.offset(4 * N * rank), self.own, 4 * N)?;
        board.copy(self.owned, self.source, 4 * N * world)?;
        ranks.fork()?;
        ranks.all_gather(self.all, 4 * N)?;
        ranks.reduce(&self.parts(world))?;
        ranks.broadcast(&self.parts(world))?;
        ranks.join()
    }

    fn write(&self, board: &CudaBoard, (rank, world): (usize, usize), step: usize) {
        let numbers = (0..N * world).flat_map(|i| value(rank, step, i).to_ne_bytes());
        board.write(self.source, &numbers.collect::<Vec<u8>>()).unwrap();
    }

    fn check(&self, board: &CudaBoard, world: usize, step: usize) {
        for at in [self.all, self.owned] {
            let numbers: Vec<f32> = super::read(board, at, 4 * N * world)
                .chunks_exact(4)
                .map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap()))
                .collect();
            for (i, number) in numbers.iter().enumerate() {
                let sum: f32 = (0..world).map(|rank| value(rank, step, i)).sum();
                assert_eq!(*number, sum, "element {i} at step {step}");
            }
        }
    }
}

fn steps(launched: &Launched) -> String {
    let board = joined(launched, &fabric_of(launched));
    let ranks = board.collectives().unwrap();
    let (rank, world) = (ranks.rank(), ranks.world());
    assert_eq!((rank, Some(world)), (launched.rank, launched.world));
    let buffers = [0; 2].map(|_| Buffers::new(&board, world));

    buffers[0].write(&board, (rank, world), 0);
    buffers[0].issue(&board, ranks).unwrap();
    buffers[0].check(&board, world, 0);

    let recorded = buffers.each_ref().map(|buffers| {
        board.begin_record().unwrap();
        board.mark(0).unwrap();
        buffers.issue(&board, ranks).unwrap();
        board.mark(1).unwrap();
        assert!(matches!(ranks.all_agree(true), Err(BoardError::NotRecordable(_))));
        board.end_record().unwrap()
    });
    assert!(ranks.all_agree(true).unwrap());
    for agrees in 0..world {
        assert_eq!(ranks.all_agree(rank == agrees).unwrap(), world == 1);
    }
    for step in 1..8 {
        let slot = step % 2;
        buffers[slot].write(&board, (rank, world), step);
        board.replay(recorded[slot]).unwrap();
        if step % 3 != 0 {
            assert!(board.elapsed_ms(0, 1).unwrap() >= 0.0);
            buffers[slot].check(&board, world, step);
        }
    }
    // A recording whose collectives were not joined is refused, and the board goes on.
    board.begin_record().unwrap();
    ranks.fork().unwrap();
    ranks.reduce_scatter(Ptr::new(buffers[0].x), N).unwrap();
    let error = board.end_record().unwrap_err();
    assert!(error.to_string().contains("cuStreamEndCapture"), "{error}");
    buffers[1].write(&board, (rank, world), 9);
    buffers[1].issue(&board, ranks).unwrap();
    buffers[1].check(&board, world, 9);
    "as expected".to_owned()
}

fn shared(launched: &Launched) -> String {
    let fabric: Arc<dyn Fabric> = connect(Some(0), LONG).unwrap();
    assert_eq!(fabric.place().rank, launched.rank);
    let board = CudaBoard::open(0, &CudaOptions::default()).unwrap();
    match board.with_ranks(fabric, &Nccl::open().unwrap(), LONG) {
        Ok(_) => "joined".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Sends itself a signal. Any thread may take it, and until it does this one would go on.
fn ends_here(signal: Signal) {
    kill_process(getpid(), signal).unwrap();
    thread::sleep(Duration::from_secs(30));
}

/// Rank 1 is lost; the others say what they hear of it, what comes of another call, and how long it all took.
fn lose(job: &str, launched: &Launched) -> String {
    let fabric = fabric_of(launched);
    let board = joined(launched, &fabric);
    let ranks = board.collectives().unwrap();
    let (rank, world) = (ranks.rank(), ranks.world());
    let buffers = Buffers::new(&board, world);
    buffers.write(&board, (rank, world), 0);
    buffers.issue(&board, ranks).unwrap();
    buffers.check(&board, world, 0);
    let recorded = (job == "stopped in a replay").then(|| {
        board.begin_record().unwrap();
        buffers.issue(&board, ranks).unwrap();
        board.end_record().unwrap()
    });
    if rank == 1 && job == "parts" {
        fabric.part("the disk is full");
        ends_here(Signal::KILL);
    }
    if rank == 1 {
        ends_here(if job == "killed" { Signal::KILL } else { Signal::STOP });
    }
    if job.starts_with("stopped") {
        ranks.set_deadline(SHORT);
    }
    let began = Instant::now();
    let done = match recorded {
        Some(recorded) => board.replay(recorded).and_then(|()| board.synchronize()),
        None => buffers.issue(&board, ranks).and_then(|()| board.read(buffers.all, &mut [0; 4])),
    };
    let error = done.unwrap_err();
    assert!(matches!(error, BoardError::Ranks(_)), "{error:?}");
    let again = board.write(buffers.source, &[0; 4]).unwrap_err();
    drop(board);
    format!("{error}\n{again}\n{}", began.elapsed().as_secs_f64())
}
