//! Damaged models: whatever is in a GGUF file, a safetensors file or a `config.json`, it is loaded, or refused with its
//! name.
//!
//! `WATTLE_FUZZ_CASES=10000 cargo test -p wattle-model --test damaged` tries more than the few of an ordinary run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Cursor;
use std::path::Path;

use fuzz::Draws;
use serde_json::json;
use wattle_guard::guard;
use wattle_model::hugging_face::read_safetensors;
use wattle_model::{Directory, Family, GgufExport, GgufFile, ModelConfig, ModelError, WeightType};

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
    with_alignment(&file.into_inner())
}

/// The GGUF file with its alignment of 32 stated, as other programs do. A text beside that key keeps the tensors where
/// they are aligned.
fn with_alignment(file: &[u8]) -> Vec<u8> {
    let added =
        [key("general.alignment", 4, &32u32.to_le_bytes()), key("x", 8, &text("0123456789"))].concat();
    assert_eq!(added.len() % 32, 0);
    let n_keys = u64::from_le_bytes(file[16..24].try_into().unwrap());
    [&file[..16], &(n_keys + 2).to_le_bytes(), &added, &file[24..]].concat()
}

/// A key of a GGUF file, with a value of type `kind`.
fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(name).as_slice(), &kind.to_le_bytes(), value].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
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
    let cases = fuzz::size("WATTLE_FUZZ_CASES", CASES);
    let path = dir.join(name);
    let whole = fs::read(&path).unwrap();
    load(&path).unwrap();
    let mut n_refused = 0;
    for case in 0..cases {
        let mut draws = Draws::new(case);
        fs::write(&path, damaged(&whole, head, |n| draws.below(n))).unwrap();
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

#[test]
fn what_a_header_must_not_say_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let said = |n_tensors: u64, n_keys: u64, rest: &[u8]| {
        let head =
            [b"GGUF".as_slice(), &3u32.to_le_bytes(), &n_tensors.to_le_bytes(), &n_keys.to_le_bytes(), rest];
        fs::write(&path, head.concat()).unwrap();
        // As long as a model: the lengths do fit.
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 26).unwrap();
        let error = GgufFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("model.gguf"), "{error}");
        error
    };
    let array = |kind: u32, len: u64| [kind.to_le_bytes().as_slice(), &len.to_le_bytes()].concat();
    let zero = said(0, 1, &key("general.alignment", 4, &[0; 4]));
    assert!(zero.contains("general.alignment: 0"), "{zero}");
    // A byte each in the file, 32 in memory.
    let long = said(0, 1, &key("tokenizer.ggml.scores", 9, &array(0, 1 << 24)));
    assert!(long.contains("tokenizer.ggml.scores") && long.contains("8388608 values"), "{long}");
    let nested = said(0, 1, &key("nested", 9, &array(9, 1).repeat(20)));
    assert!(nested.contains("nested: expected at most 8 arrays"), "{nested}");
    let dims = [1u64 << 40, 1 << 40].map(u64::to_le_bytes).concat();
    let tensor = [text("wide").as_slice(), &2u32.to_le_bytes(), &dims, &[0; 12]].concat();
    let wide = said(1, 0, &tensor);
    assert!(wide.contains("wide: its shape is"), "{wide}");
}

#[test]
fn offsets_whose_sum_is_beyond_all_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let each = (1u64 << 61) - 1;
    let tensor = |i: u64| json!({"dtype": "U8", "shape": [each], "data_offsets": [i * each, (i + 1) * each]});
    let header =
        json!((0..8).map(|i| (i.to_string(), tensor(i))).collect::<serde_json::Map<_, _>>()).to_string();
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()).unwrap();
    let error = read_safetensors(&path, &CPU).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("another checkpoint"), "{error}");
}
