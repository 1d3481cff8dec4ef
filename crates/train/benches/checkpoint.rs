//! How long training stands still for a checkpoint: `cargo bench -p wattle-train --bench checkpoint`, with arguments
//! `-- [124m|350m] [threads N] [dir PATH]`.
//!
//! A GPT-2 makes a few short steps and leaves a checkpoint after each: while training waits, and while it goes on. One
//! line of JSON for each gives the seconds that training stood still at a checkpoint and those that writing took beside
//! it (the smallest and the median), the bytes of memory of the copy, and the process's peak. Each is a process of its own.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and stops at the first fault")]

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::Device;
use wattle_data::{DataConfig, Dataset, TokenizerConfig, TokenizerKind, Verify};
use wattle_model::{Gpt2, ModelConfig};
use wattle_runlog::{EventBody, MonotonicNs, Phase, Span};
use wattle_train::error::ObserverError;
use wattle_train::{
    Checkpoints, Directive, Draft, Edge, ExtraFile, Observer, Progress, TrainConfig, Trainer, TrainerOptions,
};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCAB_SIZE: usize = 50_257;
const CONTEXT: usize = 32;
const STEPS: u64 = 4;

/// Name, layers, heads, width.
const SIZES: [(&str, usize, usize, usize); 2] = [("124m", 12, 12, 768), ("350m", 24, 16, 1024)];

/// Keeps the spans of checkpoints.
#[derive(Default)]
struct Recorder(Vec<Span>);

impl Observer for Recorder {
    fn event(&mut self, _t: MonotonicNs, _body: EventBody) -> Result<(), ObserverError> {
        Ok(())
    }

    fn span(&mut self, span: Span) {
        if span.phase == Phase::Checkpoint {
            self.0.push(span);
        }
    }

    fn edge(&mut self, _edge: Edge) {}

    fn progress(&mut self, _progress: Progress) {}

    fn directive(&mut self) -> Directive {
        Directive::Continue
    }

    fn before_commit(&mut self, _draft: &Draft) -> Vec<ExtraFile> {
        Vec::new()
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    if has("waits") || has("beside") {
        return run(&arguments, has("beside"));
    }
    for mode in ["waits", "beside"] {
        let program = std::env::current_exe().unwrap();
        assert!(Command::new(program).arg(mode).args(&arguments).status().unwrap().success());
    }
}

/// The word after `key`.
fn option<'a>(arguments: &'a [String], key: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| argument == key)?;
    arguments.get(position + 1).map(String::as_str)
}

fn run(arguments: &[String], is_beside: bool) {
    let n_threads = option(arguments, "threads").map_or(2, |n| n.parse().unwrap());
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global().unwrap();
    let is_asked =
        |(name, ..): &&(&str, usize, usize, usize)| arguments.iter().any(|argument| argument == name);
    let &(name, n_layers, n_heads, d_model) = SIZES.iter().find(is_asked).unwrap_or(&SIZES[0]);
    let root = option(arguments, "dir").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(root).unwrap();
    let dataset = dataset(dir.path());
    let config = ModelConfig { n_layers, n_heads, d_model, context: CONTEXT, ..ModelConfig::default() };
    let model = Gpt2::new(&config, VOCAB_SIZE, 1, &Device::Cpu).unwrap();
    let checkpoints = Checkpoints::open(&dir.path().join("checkpoints"), 1).unwrap();
    let options = TrainerOptions {
        train: TrainConfig { batch_size: 1, max_steps: STEPS, epochs: 0, ..TrainConfig::default() },
        checkpoint_every_steps: 1,
        checkpoint_in_background: is_beside,
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::new(&model, &dataset, &Device::Cpu, options, checkpoints).unwrap();
    let bytes = trainer.snapshot_bytes();
    let mut recorder = Recorder::default();
    trainer.run(&mut recorder).unwrap();
    let of = |overlaps: bool| {
        let spans = recorder.0.iter().filter(|span| span.overlaps == overlaps);
        let mut seconds: Vec<f64> = spans.map(|span| span.end_ns.since(span.start_ns).get()).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.first().map_or([0.0; 2], |first| [*first, seconds[seconds.len() / 2]])
    };
    let ([stall, usual_stall], [writing, usual_writing]) = (of(false), of(true));
    println!(
        r#"{{"model":"{name}","mode":"{}","threads":{n_threads},"stall_s":{stall:.3},"stall_median_s":{usual_stall:.3},"writing_s":{writing:.3},"writing_median_s":{usual_writing:.3},"copy_mb":{:.1},"peak_mb":{:.1}}}"#,
        if is_beside { "beside" } else { "waits" },
        bytes as f64 / 1e6,
        peak_mb()
    );
}

/// A few windows of text.
fn dataset(dir: &Path) -> Dataset {
    let path = dir.join("text.txt");
    std::fs::write(&path, "one and two make three. ".repeat(50)).unwrap();
    let data = DataConfig {
        input: vec![path],
        cache_dir: Some(dir.join("cache")),
        val_fraction: 0.0,
        ..DataConfig::default()
    };
    let tokenizer = TokenizerConfig { kind: TokenizerKind::Chars, ..TokenizerConfig::default() };
    wattle_data::prepare(&data, &tokenizer, Verify::FirstUse, &mut |_| {}).unwrap()
}

/// The most memory that the process ever had.
fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(0.0, |kib| kib * 1024.0 / 1e6)
}
