//! What a start takes: `cargo bench -p wattle-model --bench start`, with arguments `-- [124m|350m|1.5b] [threads N]
//! [dir PATH] [draw]`.
//!
//! Prints one line of JSON with the seconds for drawing a GPT-2's initial values and how many that is a second, for an
//! engine on a CPU to take them over, and for reading them from a file: into the model, and as a directory of weights.
//! `draw` stops after the first of these. Each number of threads (1 and 2, unless `threads` says otherwise) is a process
//! of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first fault")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use candle_core::Device;
use wattle_model::engine::EngineOptions;
use wattle_model::hugging_face::{load_weights, write_safetensors};
use wattle_model::{Directory, GradientType, MatrixUpdate, ModelConfig, Moments, Recompute, Share};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCAB_SIZE: usize = 50_257;

/// Name, layers, heads, width.
const SIZES: [(&str, usize, usize, usize); 3] =
    [("124m", 12, 12, 768), ("350m", 24, 16, 1024), ("1.5b", 48, 25, 1600)];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(n_threads) = option(&arguments, "threads") {
        return run(&arguments, n_threads.parse().unwrap());
    }
    for n_threads in ["1", "2"] {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new(program);
        assert!(command.args(&arguments).args(["threads", n_threads]).status().unwrap().success());
    }
}

/// The word after `key`.
fn option<'a>(arguments: &'a [String], key: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| argument == key)?;
    arguments.get(position + 1).map(String::as_str)
}

/// What `work` returns, and the seconds that it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs_f64())
}

fn run(arguments: &[String], n_threads: usize) {
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global().unwrap();
    let is_asked = |word: &str| arguments.iter().any(|argument| argument == word);
    let &(name, n_layers, n_heads, d_model) =
        SIZES.iter().find(|(name, ..)| is_asked(name)).unwrap_or(&SIZES[0]);
    let config = ModelConfig { n_layers, n_heads, d_model, context: 1024, ..ModelConfig::default() };
    let (model, draw_s) = timed(|| config.build(VOCAB_SIZE, 1, &Device::Cpu).unwrap());
    let n = model.n_parameters() as f64;
    let head = format!(
        r#""model":"{name}","threads":{n_threads},"draw_s":{draw_s:.3},"million_values_per_s":{:.1}"#,
        n / draw_s / 1e6
    );
    if is_asked("draw") {
        return println!("{{{head}}}");
    }
    let options = EngineOptions {
        micro_batch: 1,
        recompute: Recompute::Block,
        fp8: None,
        gradients: GradientType::F32,
        moments: Moments::F32,
        matrices: MatrixUpdate::AdamW,
        share: Share::default(),
    };
    let (engine, take_s) = timed(|| model.engine(options).unwrap());
    drop(engine);
    let root = option(arguments, "dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(root).unwrap();
    let path = dir.path().join("model.safetensors");
    write_safetensors(&path, &model.weights().unwrap()).unwrap();
    std::fs::write(dir.path().join("config.json"), model.config_json().to_string()).unwrap();
    let (_, load_s) = timed(|| load_weights(model.as_ref(), &path, &Device::Cpu).unwrap());
    drop(model);
    let (_, directory_s) =
        timed(|| Directory::open(dir.path()).unwrap().load(&Device::Cpu).unwrap().n_parameters());
    let gb = 4.0 * n / 1e9;
    println!(
        r#"{{{head},"engine_takes_s":{take_s:.3},"load_s":{load_s:.3},"load_gb_per_s":{:.2},"directory_s":{directory_s:.3},"directory_gb_per_s":{:.2}}}"#,
        gb / load_s,
        gb / directory_s
    );
}
