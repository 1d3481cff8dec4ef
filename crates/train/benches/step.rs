//! One training step at the two shapes of the project's measurements: `cargo bench -p wattle-train`, or with
//! arguments `-- small|big [engine auto|autograd] [steps N] [threads N] [recompute none|mlp|block]`.
//!
//! The tokens are random: every step takes the same time whatever they are. Prints the median of the steps'
//! times, the processor time of a step on all threads, tokens a second, the last loss and the process's peak memory
//! as one line of JSON per shape;
//! `scripts/peers/run.sh` sets them beside PyTorch's. Each shape runs in a process of its own, for its peak.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first fault")]

use std::process::Command;
use std::time::Instant;

use candle_core::Device;
use rustix::time::{ClockId, clock_gettime};
use wattle_data::Batch;
use wattle_model::{Gpt2, ModelConfig};
use wattle_runlog::MonotonicNs;
use wattle_train::engine::{Step, choose};
use wattle_train::{TrainConfig, TrainerOptions};

/// As in the program: a step of autograd makes and drops hundreds of tensors.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCAB_SIZE: usize = 65;
/// Steps that touch memory for the first time, and do not count.
const N_WARM_UP: usize = 3;

struct Shape {
    name: &'static str,
    n_layers: usize,
    n_heads: usize,
    d_model: usize,
    context: usize,
    batch_size: usize,
    steps: usize,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "small", n_layers: 4, n_heads: 4, d_model: 128, context: 64, batch_size: 12, steps: 200 },
    Shape { name: "big", n_layers: 6, n_heads: 6, d_model: 384, context: 256, batch_size: 8, steps: 12 },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match SHAPES.iter().find(|shape| arguments.iter().any(|argument| argument == shape.name)) {
        Some(shape) => run(shape, &arguments),
        None => SHAPES.iter().for_each(|shape| {
            let program = std::env::current_exe().unwrap();
            assert!(Command::new(program).arg(shape.name).args(&arguments).status().unwrap().success());
        }),
    }
}

/// The word after `key`.
fn option<'a>(arguments: &'a [String], key: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| argument == key)?;
    arguments.get(position + 1).map(String::as_str)
}

fn run(shape: &Shape, arguments: &[String]) {
    let n_threads = option(arguments, "threads").map_or(2, |n| n.parse().unwrap());
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global().unwrap();
    let config = ModelConfig {
        n_layers: shape.n_layers,
        n_heads: shape.n_heads,
        d_model: shape.d_model,
        context: shape.context,
        ..ModelConfig::default()
    };
    let model = Gpt2::new(&config, VOCAB_SIZE, 1, &Device::Cpu).unwrap();
    let engine = option(arguments, "engine").unwrap_or("auto");
    let options = options(shape, engine, option(arguments, "recompute").unwrap_or("none"));
    let mut steps = choose(&model, None, &options).unwrap();
    let learning_rate = options.optimizer.learning_rate;
    let n_steps = option(arguments, "steps").map_or(shape.steps, |n| n.parse().unwrap());
    let batches: Vec<Batch> = (0..4).map(|i| random_batch(shape, i)).collect();
    let mut seconds = Vec::new();
    let mut loss = 0.0f32;
    let mut cpu_start = 0.0;
    for n in 0..n_steps + N_WARM_UP {
        if n == N_WARM_UP {
            cpu_start = cpu_seconds();
        }
        let start = Instant::now();
        let (number, batch) = (n as u64 + 1, &batches[n % 4]);
        steps.step(&Step { number, learning_rate, batch, began: MonotonicNs::now() }).unwrap();
        loss = steps.drain().unwrap().results[0].loss;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let cpu_ms = (cpu_seconds() - cpu_start) / n_steps as f64 * 1e3;
    let seconds = &mut seconds[N_WARM_UP..];
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let tokens = (shape.batch_size * shape.context) as f64;
    println!(
        r#"{{"shape":"{}","engine":"{engine}","threads":{n_threads},"ms":{:.3},"cpu_ms":{cpu_ms:.3},"tokens_per_s":{:.0},"loss":{loss:.6},"peak_mb":{:.1}}}"#,
        shape.name,
        median * 1e3,
        tokens / median,
        peak_mb()
    );
}

fn options(shape: &Shape, engine: &str, recompute: &str) -> TrainerOptions {
    TrainerOptions {
        seed: 1,
        train: TrainConfig {
            batch_size: shape.batch_size,
            engine: serde_json::from_value(engine.into()).unwrap(),
            recompute: serde_json::from_value(recompute.into()).unwrap(),
            ..TrainConfig::default()
        },
        ..TrainerOptions::default()
    }
}

fn random_batch(shape: &Shape, idx: u32) -> Batch {
    let n = shape.batch_size * shape.context;
    let purpose = wattle_random::Purpose::Init { parameter_idx: idx };
    let stream = wattle_random::Stream::new(7, purpose, 0);
    let tokens: Vec<u32> = (0..2 * n as u64).map(|i| stream.word(i) % VOCAB_SIZE as u32).collect();
    let (inputs, targets) = tokens.split_at(n);
    Batch::plain(inputs.to_vec(), targets.to_vec(), shape.batch_size, shape.context)
}

/// Time that all threads have run: on a shared machine, the best there is to compare by.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The most memory that this process ever had, as the kernel counts it.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    kib * 1024.0 / 1e6
}
