//! Checkpoints as GGUF files, and these files put to use.

use std::fs;

use serde_json::Value;

use crate::workbench::{Workbench, expect};

/// A run of the small model by pairs of bytes, with a width of 32, and the folder it was trained on.
fn trained(bench: &Workbench, settings: &[&str]) {
    let prepare = ["prepare", "text.txt", "--out", "data", "--tokenizer", "bpe:300", "--val-fraction", "0.2"];
    expect(0, bench.wattle(&prepare));
    let own = ["data.input=[]", "data.dir=\"data\"", "model.d_model=32", "train.max_steps=30"];
    let sets: Vec<&str> = own.iter().chain(settings).flat_map(|set| ["--set", set]).collect();
    expect(0, bench.train(&[&["--out", "run"], &sets[..]].concat()));
}

fn export(bench: &Workbench, kind: &str) -> String {
    let output = bench.wattle(&["export", "run", "--type", kind, "--out", "m.gguf"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn loss(bench: &Workbench, checkpoint: &str) -> f64 {
    let args = ["evaluate", checkpoint, "--data", "data", "--device", "cpu", "--json"];
    let output = bench.wattle(&args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    found["loss"].as_f64().unwrap()
}

#[test]
fn a_smaller_type_is_a_smaller_file_with_a_loss_a_little_off() {
    let bench = Workbench::new();
    trained(&bench, &[]);
    let whole = loss(&bench, "run");
    let mut last = fs::metadata(bench.join("run/checkpoints/latest/model.safetensors")).unwrap().len();
    // The rounding of f16, of 8 and of 4 bits; each is an order of magnitude coarser.
    for (kind, tolerance) in [("f16", 2e-3), ("q8_0", 1e-2), ("q4_0", 0.3)] {
        let said = export(&bench, kind);
        assert!(said.contains(&format!(" of {kind}, ")) && said.contains("energy"), "{said}");
        let off = (loss(&bench, "m.gguf") - whole).abs();
        assert!(off > 0.0 && off < tolerance, "{kind}: {off}");
        let len = fs::metadata(bench.join("m.gguf")).unwrap().len();
        // The tokenizer, which the checkpoint has beside its weights, is in the file.
        let tokenizer = fs::metadata(bench.join("data/tokenizer.json")).unwrap().len();
        assert!(len < last + 2 * tokenizer, "{kind}: {len} bytes after {last}");
        last = len;
    }
    assert!(bench.list(".").iter().all(|name| !name.contains("partial")));
}

/// Settings of a Llama with grouped heads and a scaling that llama.cpp has a tensor for.
const LLAMA: [&str; 6] = [
    "model.family=llama",
    "model.dropout=0",
    "model.n_kv_heads=1",
    "model.rope_scaling=llama3",
    "model.rope_original_context=8",
    "model.rope_theta=100",
];

#[test]
fn a_file_writes_what_its_checkpoint_writes() {
    let gpt2 = ["model.bias=true", "model.tie_embeddings=false", "model.vocab_size=320"];
    for settings in [&gpt2[..], &LLAMA] {
        let bench = Workbench::new();
        trained(&bench, settings);
        export(&bench, "f16");
        let written = |checkpoint: &str| {
            let args =
                ["generate", checkpoint, "--prompt", "3 and", "--temperature", "0", "--max-tokens", "20"];
            let output = bench.wattle(&[&args[..], &["--device", "cpu"]].concat()).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(written("m.gguf"), written("run"));
        // f16 rounds weights to one part in 2,048.
        let off = (loss(&bench, "m.gguf") - loss(&bench, "run")).abs();
        assert!(off > 0.0 && off < 2e-3, "{settings:?}: {off}");
    }
}

#[test]
fn a_file_is_no_checkpoint_to_export() {
    let bench = Workbench::new();
    trained(&bench, &[]);
    export(&bench, "f16");
    let said = expect(2, bench.wattle(&["export", "m.gguf", "--type", "f16", "--out", "again.gguf"]));
    assert!(said.contains("m.gguf") && said.contains("already"), "{said}");
}

#[test]
fn a_llamas_table_of_divisors_has_to_be_that_of_its_keys() {
    let bench = Workbench::new();
    trained(&bench, &LLAMA);
    export(&bench, "f16");
    let mut file = fs::read(bench.join("m.gguf")).unwrap();
    // Another factor among the keys; an `f32` follows the key and its type.
    let key = b"wattle.rope_llama3.factor";
    let at = file.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    assert_eq!(file[at..at + 4], 8f32.to_le_bytes());
    file[at..at + 4].copy_from_slice(&4f32.to_le_bytes());
    fs::write(bench.join("m.gguf"), file).unwrap();
    let said = expect(1, bench.wattle(&["evaluate", "m.gguf", "--text", "text.txt", "--device", "cpu"]));
    assert!(said.contains("rope_freqs.weight") && said.contains("by the file's keys"), "{said}");
}

#[test]
fn rows_that_no_block_divides_are_kept_in_halves_and_named() {
    let bench = Workbench::new();
    trained(&bench, &["model.d_model=24", "model.d_ff=64"]);
    let said = export(&bench, "q4_0");
    assert!(said.contains("in f16") && said.contains("token_embd.weight"), "{said}");
    // Of a block's matrices, one has rows of the feed-forward's width.
    assert!(said.contains("2 tensors of q4_0") && !said.contains("ffn_down"), "{said}");
}

#[test]
fn a_damaged_file_is_an_error_that_names_it() {
    let bench = Workbench::new();
    trained(&bench, &[]);
    export(&bench, "q8_0");
    let whole = fs::read(bench.join("m.gguf")).unwrap();
    for len in [3, 200, whole.len() - 400] {
        fs::write(bench.join("cut.gguf"), &whole[..len]).unwrap();
        let said =
            expect(1, bench.wattle(&["evaluate", "cut.gguf", "--text", "text.txt", "--device", "cpu"]));
        assert!(said.contains("cut.gguf") && said.contains("wattle export"), "{len}: {said}");
    }
}

#[test]
fn an_existing_file_stays_when_the_export_is_refused() {
    let bench = Workbench::new();
    fs::write(bench.join("text.txt"), "é and e. ".repeat(200)).unwrap();
    expect(0, bench.train(&["--out", "run", "--set", "train.max_steps=2"]));
    fs::write(bench.join("m.gguf"), "old").unwrap();
    let said = expect(1, bench.wattle(&["export", "run", "--type", "f16", "--out", "m.gguf"]));
    assert!(said.contains("\"é\"") && said.contains("tokenizer.kind"), "{said}");
    assert_eq!(fs::read_to_string(bench.join("m.gguf")).unwrap(), "old");
}
