//! The article's configuration: its sizes, and that it trains.

use crate::workbench::{Workbench, expect};

#[test]
fn the_preset_has_the_articles_sizes() {
    let bench = Workbench::new();
    // Fewer tales and steps than the article's, of the same model.
    let smaller =
        ["--set", "data.embedded_chars=60_000", "--set", "train.batch_size=2", "--set", "train.max_steps=2"];
    let also = ["--set", "evaluate.batches=1", "--out", "run", "--device", "cpu"];
    expect(0, bench.wattle(&[&["train", "--preset", "article"], &smaller[..], &also[..]].concat()));

    let text = std::fs::read_to_string(bench.join("run/checkpoints/latest/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sizes =
        ["vocab_size", "n_embd", "n_head", "n_inner", "n_layer"].map(|key| config[key].as_u64().unwrap());
    assert_eq!(sizes, [10_000, 512, 8, 2048, 4]);
    assert_eq!(config["activation_function"], "relu");
    assert!((config["resid_pdrop"].as_f64().unwrap() - 0.1).abs() < 1e-6);

    // Before it has learnt, every token is about as likely as any other: ln 10,000 = 9.21.
    let steps = bench.steps("run");
    assert!((steps[0].loss - 10_000f32.ln()).abs() < 0.3, "{}", steps[0].loss);
    assert!(steps[1].loss < steps[0].loss);

    // Its ReLU is nothing that llama.cpp's gpt2 computes.
    let said = expect(1, bench.wattle(&["export", "run", "--type", "f16", "--out", "article.gguf"]));
    assert!(said.contains("model.activation = \"relu\"") && said.contains("gelu_tanh"), "{said}");
    assert!(!bench.join("article.gguf").exists());
}
