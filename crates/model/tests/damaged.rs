//! Damaged weight files: whatever is in them, they are loaded or refused with their name.
//!
//! `WATTLE_FUZZ_CASES=10000 cargo test -p wattle-model --test damaged` tries more than the few of an ordinary run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use serde_json::{Value, json};
use wattle_guard::guard;
use wattle_model::gguf::{GgufExport, GgufFile, WeightType};
use wattle_model::{Directory, Family, ModelConfig, ModelError};
use wattle_random::{Purpose, Stream};

mod saved;

use saved::{CPU, VOCAB, load, model, weights, write};

/// Files tried of each kind unless told otherwise.
const CASES: u64 = 200;
/// Keys, names and shapes lie within so many bytes of a file's beginning.
const HEAD_BYTES: usize = 3000;

fn gpt2() -> ModelConfig {
    ModelConfig { n_layers: 1, n_heads: 2, d_model: 32, context: 8, bias: true, ..ModelConfig::default() }
}

fn llama() -> ModelConfig {
    let mut config = ModelConfig { family: Family::Llama, ..gpt2() };
    config.bias = false;
    config.settle(&[]);
    config
}

/// A tokenizer of as many letters as the models know tokens.
fn tokenizer() -> Value {
    let vocab: serde_json::Map<_, _> =
        (0..VOCAB).map(|id| (char::from(b'a' + id as u8).to_string(), id.into())).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": byte_level,
           "post_processor": null, "decoder": byte_level, "truncation": null, "padding": null,
           "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": null, "dropout": null,
                     "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false}})
}

/// The directory of a model, and its bytes as GGUF.
fn saved_both_ways(config: &ModelConfig, dir: &Path) -> Vec<u8> {
    let model = model(config);
    write(dir, &model.config_json(), &weights(model.as_ref()));
    let export =
        GgufExport::of(&Directory::open(dir).unwrap(), &tokenizer().to_string(), WeightType::Q8_0).unwrap();
    let path = dir.join("model.gguf");
    export.write(&mut BufWriter::new(File::create(&path).unwrap())).unwrap();
    fs::read(path).unwrap()
}

/// `bytes` with a few bits turned over, numbers replaced or the end cut off.
fn damaged(bytes: &[u8], mut draw: impl FnMut(usize) -> usize) -> Vec<u8> {
    const NUMBERS: [u64; 7] = [0, 1, 255, 1 << 31, u32::MAX as u64, 1 << 63, u64::MAX];
    let mut bytes = bytes.to_vec();
    let head = bytes.len().min(HEAD_BYTES);
    for _ in 0..=draw(3) {
        let at = [draw(head), draw(bytes.len())][draw(4) / 3];
        match draw(3) {
            0 => bytes[at] ^= 1 << draw(8),
            1 => {
                let number = NUMBERS[draw(NUMBERS.len())].to_le_bytes();
                let number = &number[..number.len().min(bytes.len() - at).min(1 << draw(4))];
                bytes[at..at + number.len()].copy_from_slice(number);
            }
            _ => bytes[at] = b"0189-\"{}[],: \0\xff"[draw(15)],
        }
    }
    if draw(4) == 0 {
        bytes.truncate(draw(bytes.len() + 1));
    }
    bytes
}

fn draws(case: u64) -> impl FnMut(usize) -> usize {
    let random = Stream::new(case, Purpose::Order, 0);
    let mut element = 0;
    move |below| {
        element += 1;
        random.word(element) as usize % below
    }
}

/// Tries `read` on the file `name` of `dir` with many damages.
fn attack(dir: &Path, name: &str, read: impl Fn() -> Result<(), ModelError>) {
    let cases = std::env::var("WATTLE_FUZZ_CASES").map_or(CASES, |n| n.parse().unwrap());
    let (path, mut n_read, mut n_refused) = (dir.join(name), 0, 0);
    let whole = fs::read(&path).unwrap();
    read().unwrap();
    for case in 0..cases {
        fs::write(&path, damaged(&whole, draws(case))).unwrap();
        match guard(&read) {
            Ok(Ok(())) => n_read += 1,
            Ok(Err(error)) => {
                n_refused += 1;
                let (said, dir) = (error.to_string(), dir.display().to_string());
                assert!(said.contains(&dir) && said.len() < 4000, "{name}, case {case}: {said}");
            }
            Err(panic) => panic!("{name}, case {case} panics: {panic}"),
        }
    }
    fs::write(&path, whole).unwrap();
    assert!(n_read > cases / 50 && n_refused > cases / 50, "{name}: {n_read} read, {n_refused} refused");
}

#[test]
fn damaged_weights_are_read_or_refused_by_name() {
    for config in [gpt2(), llama()] {
        let dir = tempfile::tempdir().unwrap();
        saved_both_ways(&config, dir.path());
        let gguf = dir.path().join("model.gguf");
        attack(dir.path(), "model.gguf", || GgufFile::open(&gguf)?.load(&CPU).map(drop));
        fs::remove_file(&gguf).unwrap();
        attack(dir.path(), "model.safetensors", || load(dir.path()).map(drop));
        attack(dir.path(), "config.json", || load(dir.path()).map(drop));
    }
}

#[test]
fn an_alignment_of_zero_is_refused_with_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = saved_both_ways(&gpt2(), dir.path());
    // One key more, before the others: its length, its name, the type of a `u32`, and 0.
    let key = b"general.alignment";
    let entry: Vec<u8> =
        [&(key.len() as u64).to_le_bytes()[..], key, &4u32.to_le_bytes(), &0u32.to_le_bytes()].concat();
    bytes.splice(24..24, entry);
    bytes[16] += 1;
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    let said = GgufFile::open(&path).err().unwrap().to_string();
    assert!(said.contains("model.gguf") && said.contains("general.alignment"), "{said}");
}
