//! Ranks as torchrun and srun start them, which tell one another what they have to say through GPUs: stand-ins for the driver
//! and NCCL, real processes.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::calls::{LONG, expected};
use crate::compile::standins;
use crate::connect::alone;
use crate::launchers::file_of_rank;
use crate::rank::{JOB, LARGE, OUT, SMALL};

/// Variables of a launcher for one rank of some, which meet on a port.
type Variables = fn(usize, usize, u16) -> Vec<(&'static str, String)>;

fn torchrun(rank: usize, world: usize, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("RANK", rank.to_string()),
        ("WORLD_SIZE", world.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", (port - 1).to_string()),
    ]
}

/// A port follows from the numbers of job and step, so that of the test is not used.
fn srun(rank: usize, world: usize, port: u16) -> Vec<(&'static str, String)> {
    vec![
        ("SLURM_PROCID", rank.to_string()),
        ("SLURM_LOCALID", rank.to_string()),
        ("SLURM_STEP_NUM_TASKS", world.to_string()),
        ("SLURM_STEP_NODELIST", "localhost".to_owned()),
        ("SLURM_JOB_ID", port.to_string()),
        ("SLURM_STEP_ID", "0".to_owned()),
    ]
}

struct Ranks {
    processes: Vec<Child>,
    dir: tempfile::TempDir,
}

impl Ranks {
    /// Each of `nodes` has as many ranks.
    fn start(job: &str, nodes: &[usize], variables: Variables) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let world: usize = nodes.iter().sum();
        let node_of = nodes.iter().enumerate().flat_map(|(node, n)| std::iter::repeat_n(node, *n));
        let start = |(rank, node): (usize, usize)| {
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["rank::rank", "--exact", "--ignored"]);
            command.env("LD_LIBRARY_PATH", standins()).env("STANDIN_DEVICES", world.to_string());
            command.env("WATTLE_NODE", format!("node {node}"));
            command.env(JOB, job).env(OUT, dir.path()).envs(variables(rank, world, port));
            command.stdout(Stdio::null()).spawn().unwrap()
        };
        Self { processes: node_of.enumerate().map(start).collect(), dir }
    }

    fn of_rank(&self, rank: usize) -> Vec<u8> {
        let began = Instant::now();
        while began.elapsed() < LONG {
            if let Ok(said) = fs::read(file_of_rank(self.dir.path(), rank)) {
                return said;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("rank {rank} said nothing");
    }

    fn text_of_rank(&self, rank: usize) -> String {
        String::from_utf8(self.of_rank(rank)).unwrap()
    }

    /// Waits until a rank has ended.
    fn code_of_rank(&mut self, rank: usize) -> Option<i32> {
        self.processes[rank].wait().unwrap().code()
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that is stopped does not end by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
fn ranks_hear_what_every_call_defines() {
    let launchers: [(&[usize], Variables); 3] = [(&[2], torchrun), (&[2], srun), (&[3, 1], torchrun)];
    for (nodes, variables) in launchers {
        let mut ranks = Ranks::start("nccl calls", nodes, variables);
        let world = nodes.iter().sum();
        for rank in 0..world {
            // They end together, and well.
            assert_eq!(ranks.code_of_rank(rank), Some(0), "rank {rank} of {world}");
            let all = [expected(rank, world, &SMALL), expected(rank, world, &LARGE)].concat();
            assert!(ranks.of_rank(rank) == all, "rank {rank} of {world}");
        }
    }
}

#[test]
fn places_are_by_machine() {
    // More than send one another their headers.
    let many = Ranks::start("nccl place", &[4, 6], torchrun).text_of_rank(8);
    assert!(many.contains("local_rank: 4, local_world: 6, node: 1, n_nodes: 2"), "{many}");
    let ranks = Ranks::start("nccl place", &[1, 2], torchrun);
    let of_rank = |rank| ranks.text_of_rank(rank);
    assert!(of_rank(0).contains("NCCL 2.28.0, 3 ranks\n"), "{}", of_rank(0));
    for (rank, place) in [
        (0, "local_rank: 0, local_world: 1, node: 0, n_nodes: 2"),
        (2, "local_rank: 1, local_world: 2, node: 1, n_nodes: 2"),
    ] {
        assert!(of_rank(rank).contains(place), "{}", of_rank(rank));
    }
}

#[test]
fn a_rank_that_is_stopped_or_busy_is_named() {
    for job in ["nccl stopped", "nccl busy"] {
        let mut ranks = Ranks::start(job, &[3], torchrun);
        for rank in [0, 2] {
            let text = ranks.text_of_rank(rank);
            let lines: Vec<&str> = text.lines().collect();
            let first = "rank 1 did not answer within 2 s: an exchange";
            assert_eq!(lines[0], first, "{job}: {text}");
            assert_eq!(lines[1], format!("a rank has ended: an earlier call failed: {first}"));
            let took: f64 = lines[2].parse().unwrap();
            assert!((1.9..30.0).contains(&took), "{job}: {took} s");
            assert_eq!(ranks.code_of_rank(rank), Some(76));
        }
    }
}

#[test]
fn a_rank_that_dies_or_parts_is_heard_before_the_deadline() {
    for (job, first) in
        [("nccl killed", "a rank has ended: "), ("nccl parts", "rank 1 has ended: the disk is full")]
    {
        let ranks = Ranks::start(job, &[3], torchrun);
        // At the deadline it would be said that a rank did not answer.
        let text = ranks.text_of_rank(0);
        assert!(text.starts_with(first), "{job}: {text}");
    }
}

#[test]
fn a_rank_that_never_comes_ends_the_start() {
    let text = Ranks::start("nccl alone", &[2], torchrun).text_of_rank(0);
    assert_eq!(text, "a rank did not answer within 2 s: joining NCCL's communicator");
}

#[test]
fn what_the_launcher_or_the_machine_lacks_is_said() {
    let standins = standins();
    let standins = standins.to_str().unwrap();
    let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LD_LIBRARY_PATH", standins)];
    let with = |more: &[(&'static str, &'static str)]| alone("nccl alone", &[&torchrun[..], more].concat());
    let error = with(&[]);
    assert!(error.contains("torchrun started this process, but NCCL_COMM_ID is not set"), "{error}");
    let met = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29700")];
    let error = with(&[met[0], met[1], ("WATTLE_NCCL", "/nowhere/libnccl.so.2")]);
    assert!(error.contains("no NCCL library can be opened"), "{error}");
    assert!(error.contains("pip install nvidia-nccl-cu13"), "{error}");
    let error = with(&[met[0], met[1], ("WATTLE_NCCL", "libnccl.so.2"), ("STANDIN_DEVICES", "0")]);
    assert!(error.contains("no GPU for this rank: the driver shows no CUDA device 0"), "{error}");
}
