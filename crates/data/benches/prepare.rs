//! Preparation by stage, in megabytes of text a second; see `README.md` beside this for figures and commands.
//!
//! `cargo bench -p wattle-data --bench prepare -- FILE [VOCAB] [ROUNDS] [OUT.json]` trains a byte-level encoding on
//! FILE, a text or documents (Parquet, JSON lines), checks the ids of a text's beginning against the library's, prepares the file with it ROUNDS times and prints
//! medians. The tokenizer is left in OUT.json for `peer.py` and `peer_parquet.py`. A FILE that is not there is written, with tales; without
//! one, tales are taken too.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tokenizers::Tokenizer as Library;
use wattle_data::{
    DataConfig, Dataset, Stage, Tokenizer, TokenizerConfig, TokenizerKind, prepare_into, tales,
};

/// Characters of the tales that are written without FILE.
const TALES_CHARS: u64 = 8_000_000;

/// Text whose ids are held against the library's.
const CHECKED_BYTES: u64 = 1 << 18;

const STAGES: [Stage; 3] = [Stage::Counting, Stage::TrainingTokenizer, Stage::Tokenizing];

fn main() {
    // Cargo tells a bench that it is one.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let scratch = tempfile::tempdir().unwrap();
    let input = args.first().map_or_else(|| scratch.path().join("tales.txt"), PathBuf::from);
    if !input.exists() {
        tales::write_corpus(&input, TALES_CHARS, 0.1, 1, &mut |_| {}).unwrap();
    }
    let vocab_size = args.get(1).map_or(2048, |vocab| vocab.parse().unwrap());
    let rounds: usize = args.get(2).map_or(5, |rounds| rounds.parse().unwrap());
    let data = DataConfig { input: vec![input.clone()], ..DataConfig::default() };
    let bpe = TokenizerConfig { kind: TokenizerKind::Bpe, vocab_size, file: None };

    let (trained, seconds) = timed(&scratch.path().join("trained"), &data, &bpe);
    let megabytes = trained.manifest.sources.iter().map(|source| source.bytes).sum::<u64>() as f64 / 1e6;
    println!("{} of {megabytes:.1} MB, vocabulary {}", input.display(), trained.vocab_size());
    println!("content hash {}", trained.content_hash());
    println!("with training: {:.2} s, of which counting words and training {:.2} s", seconds[3], seconds[1]);
    if trained.manifest.documents.is_none() {
        check(&trained.tokenizer, &input);
    }
    let file = args.get(3).map_or_else(|| scratch.path().join("bench.json"), PathBuf::from);
    trained.tokenizer.save(&file).unwrap();

    let known = TokenizerConfig { kind: TokenizerKind::File, vocab_size, file: Some(file) };
    let runs: Vec<[f64; 4]> = (0..rounds)
        .map(|round| timed(&scratch.path().join(format!("round-{round}")), &data, &known).1)
        .collect();
    for (name, stage) in [("counting and hashing", 0), ("encoding and writing", 2), ("all", 3)] {
        let mut seconds: Vec<f64> = runs.iter().map(|run| run[stage]).collect();
        seconds.sort_by(f64::total_cmp);
        let (low, median, high) = (seconds[0], seconds[rounds / 2], seconds[rounds - 1]);
        let rate = megabytes / median;
        println!("{name:22} {median:7.3} s ({low:.3} to {high:.3})  {rate:7.1} MB/s");
    }
    println!("peak memory {}", peak_memory().unwrap_or_else(|| "unknown".to_owned()));
}

/// The largest memory that the process had, as Linux tells it.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(format!("{:.0} MiB", kib / 1024.0))
}

/// Prepares into `dir`; seconds of each stage, and of all.
fn timed(dir: &Path, data: &DataConfig, tokenizer: &TokenizerConfig) -> (Dataset, [f64; 4]) {
    let start = Instant::now();
    let (mut seconds, mut last) = ([0.0; 4], start);
    let dataset = prepare_into(dir, data, tokenizer, &mut |progress| {
        if let Some(stage) = STAGES.iter().position(|&stage| stage == progress.stage) {
            seconds[stage] += last.elapsed().as_secs_f64();
        }
        last = Instant::now();
    });
    seconds[3] = start.elapsed().as_secs_f64();
    (dataset.unwrap(), seconds)
}

/// That the ids are the library's.
fn check(tokenizer: &Tokenizer, input: &Path) {
    let library = Library::from_bytes(tokenizer.to_json()).unwrap();
    let mut bytes = Vec::new();
    File::open(input).unwrap().take(CHECKED_BYTES).read_to_end(&mut bytes).unwrap();
    let text = bytes.utf8_chunks().next().unwrap().valid();
    assert_eq!(tokenizer.encode(text).unwrap(), library.encode_fast(text, false).unwrap().get_ids());
}
