//! Damaged models: whatever is in a GGUF file, a safetensors file or a `config.json`, it is loaded, or refused with its
//! name.
//!
//! `WATTLE_FUZZ_CASES=10000 cargo test -p wattle-model --test damaged` tries more than the few of an ordinary run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Cursor;
use std::path::Path;

use serde_json::json;
use wattle_guard::guard;
use wattle_model::hugging_face::read_safetensors;
use wattle_model::{Directory, Family, GgufExport, GgufFile, ModelConfig, ModelError, WeightType};
use wattle_random::{Purpose, Stream};

mod saved;

use saved::{CPU, VOCAB, load, model, weights, write};

/// Files of each kind tried unless told otherwise.
const CASES: u64 = 400;

/// Numbers at which a length, count or offset goes wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 3, 9, 32, 255, 1 << 20, 1 << 30, u32::MAX as u64, 1 << 61, (1 << 63) + 8, u64::MAX - 15];

fn config(family: Family) -> ModelConfig {
    let mut config =
        ModelConfig { family, n_layers: 1, n_heads: 2, d_model: 32, context: 8, ..ModelConfig::default() };
    config.settle(&[]);
    config
}

/// A directory of a model, and the GGUF file of the same.
fn seed(dir: &Path, family: Family) -> Vec<u8> {
    let model = model(&config(family));
    write(dir, &model.config_json(), &weights(model.as_ref()));
    let vocab: serde_json::Map<_, _> =
        (0..VOCAB).map(|id| (char::from(b'a' + id as u8).to_string(), id.into())).collect();
    let tokenizer = json!({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": []});
    let export =
        GgufExport::of(&Directory::open(dir).unwrap(), &tokenizer.to_string(), WeightType::Q8_0).unwrap();
    let mut file = Cursor::new(Vec::new());
    export.write(&mut file).unwrap();
    file.into_inner()
}

/// What becomes of a file with the numbers of `draw`: it is cut, bits are turned, numbers are replaced. Most of that is
/// done to its first `head` bytes.
fn damaged(file: &[u8], head: usize, mut draw: impl FnMut(usize) -> usize) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..=draw(3) {
        let within = if draw(8) == 0 { bytes.len() } else { head.min(bytes.len()) };
        let at = draw(within);
        match draw(3) {
            0 => bytes[at] ^= 1 << draw(8),
            1 => {
                let number = NUMBERS[draw(NUMBERS.len())].to_le_bytes();
                let len = [1, 4, 8][draw(3)].min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&number[..len]);
            }
            // In JSON, numbers are digits.
            _ => {
                let number = NUMBERS[draw(NUMBERS.len())].to_string().into_bytes();
                let Some(from) = bytes[at..within].iter().position(u8::is_ascii_digit) else { continue };
                let from = at + from;
                let len = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(from..from + len, number);
            }
        }
    }
    if draw(6) == 0 {
        bytes.truncate(draw(bytes.len() + 1));
    }
    bytes
}

/// Writes damaged files of `name` in `dir` and has each used. How many were refused, each by its name.
fn refused(dir: &Path, name: &str, head: usize, load: impl Fn(&Path) -> Result<(), ModelError>) -> u64 {
    let cases = std::env::var("WATTLE_FUZZ_CASES").map_or(CASES, |n| n.parse().unwrap());
    let path = dir.join(name);
    let whole = fs::read(&path).unwrap();
    load(&path).unwrap();
    let mut n_refused = 0;
    for case in 0..cases {
        let random = Stream::new(case, Purpose::Order, 0);
        let mut element = 0;
        let draw = |below: usize| {
            element += 1;
            random.word(element) as usize % below.max(1)
        };
        fs::write(&path, damaged(&whole, head, draw)).unwrap();
        match guard(|| load(&path)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                n_refused += 1;
                let said = error.to_string();
                assert!(said.contains(dir.to_str().unwrap()) && said.len() < 10_000, "case {case}: {said}");
            }
            Err(panic) => panic!("{name}, case {case} panics: {panic}"),
        }
    }
    fs::write(&path, whole).unwrap();
    assert!(n_refused > cases / 10 && n_refused < cases, "{name}: {n_refused} of {cases} refused");
    n_refused
}

#[test]
fn damaged_models_are_loaded_or_refused_by_name() {
    for family in [Family::Gpt2, Family::Llama] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        fs::write(dir.join("model.gguf"), seed(dir, family)).unwrap();
        refused(dir, "model.gguf", 3000, |path| GgufFile::open(path)?.load(&CPU).map(drop));
        refused(dir, "config.json", 2000, |_| load(dir).map(drop));
        refused(dir, "model.safetensors", 2000, |path| {
            let whole = read_safetensors(path, &CPU).map(drop);
            // A directory has need of less than all tensors: what it refuses, so does whoever wants all.
            load(dir).map(drop).and(whole)
        });
    }
}
