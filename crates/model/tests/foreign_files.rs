//! Directories as other programs, servers and repositories leave them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use candle_core::DType;
use wattle_model::{Directory, Family, ModelConfig};

mod saved;

use saved::{Weights, load, logits, model, rounded, weights, write, write_sharded};

const HEAD: &str = "lm_head.weight";

fn gpt2() -> ModelConfig {
    ModelConfig { n_layers: 2, n_heads: 3, d_model: 21, context: 7, bias: true, ..ModelConfig::default() }
}

fn llama() -> ModelConfig {
    let mut config = ModelConfig { family: Family::Llama, n_heads: 3, d_model: 18, ..gpt2() };
    config.bias = false;
    config.settle(&[]);
    config
}

fn error(dir: &Path) -> String {
    load(dir).err().expect("it should be refused").to_string()
}

fn renamed(weights: Weights, name: impl Fn(String) -> String) -> Weights {
    weights.into_iter().map(|(old, tensor)| (name(old), tensor)).collect()
}

#[test]
fn an_index_may_list_a_tied_head_that_no_shard_holds() {
    for config in [gpt2(), llama()] {
        let saved = model(&config);
        let dir = tempfile::tempdir().unwrap();
        write_sharded(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
        let path = dir.path().join("model.safetensors.index.json");
        let index = std::fs::read_to_string(&path).unwrap();
        let head = format!("\"weight_map\":{{\"{HEAD}\":\"model-00002-of-00002.safetensors\",");
        let with_head = index.replace("\"weight_map\":{", &head);
        assert_ne!(with_head, index);
        std::fs::write(&path, with_head).unwrap();
        assert_eq!(logits(load(dir.path()).unwrap().as_ref()), logits(saved.as_ref()));
        // Where it is not tied, it is missed by its name, with what to do.
        let mut config = saved.config_json();
        config["tie_word_embeddings"] = false.into();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let said = error(dir.path());
        assert!(said.contains(HEAD) && said.contains("set tie_word_embeddings to true"), "{said}");
    }
}

#[test]
fn names_of_wrappers_are_taken_off_wherever_they_are() {
    let saved = model(&gpt2());
    let expected = logits(saved.as_ref());
    let middle = |name: String| name.replace(".attn.", "._checkpoint_wrapped_module.attn._orig_mod.");
    let changes: [&dyn Fn(String) -> String; 5] = [
        &|name| format!("_orig_mod.{name}"),
        &|name| format!("module.{name}"),
        &|name| format!("module._orig_mod.{name}"),
        &|name| format!("_fsdp_wrapped_module.{}", middle(name)),
        // Of a bare transformer.
        &|name| format!("_orig_mod.{}", name.trim_start_matches("transformer.")),
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &saved.config_json(), &renamed(weights(saved.as_ref()), change));
        assert_eq!(logits(load(dir.path()).unwrap().as_ref()), expected);
    }
}

#[test]
fn a_tied_head_saved_in_another_type_is_the_table_all_the_same() {
    for config in [gpt2(), llama()] {
        for (table_type, head_type) in
            [(DType::F32, DType::F16), (DType::F32, DType::BF16), (DType::BF16, DType::F32)]
        {
            let (saved, mut tensors) = rounded(&config, table_type);
            let table = if config.family == Family::Gpt2 {
                "transformer.wte.weight"
            } else {
                "model.embed_tokens.weight"
            };
            let head = tensors[table].to_dtype(head_type).unwrap();
            tensors.insert(HEAD.to_owned(), head.clone());
            let dir = tempfile::tempdir().unwrap();
            write(dir.path(), &saved.config_json(), &tensors);
            assert_eq!(logits(load(dir.path()).unwrap().as_ref()), logits(saved.as_ref()));
            // Another table is another table in any type.
            tensors.insert(HEAD.to_owned(), (head * 2.0).unwrap());
            write(dir.path(), &saved.config_json(), &tensors);
            assert!(error(dir.path()).contains("set tie_word_embeddings to false"), "{}", error(dir.path()));
        }
    }
}

#[test]
fn a_head_that_is_neither_there_nor_declared_tied_gets_the_remedy() {
    for config in [gpt2(), llama()] {
        let saved = model(&ModelConfig { tie_embeddings: true, ..config.clone() });
        let mut json = saved.config_json();
        match config.family {
            Family::Gpt2 => json["tie_word_embeddings"] = false.into(),
            // Without the key, a Llama is not tied.
            _ => drop(json.as_object_mut().unwrap().remove("tie_word_embeddings")),
        }
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &json, &weights(saved.as_ref()));
        let said = error(dir.path());
        assert!(
            said.contains("lm_head.weight is missing") && said.contains("set tie_word_embeddings to true"),
            "{said}"
        );
    }
}

#[test]
fn what_git_lfs_or_a_server_left_is_named_as_such() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 93000\n";
    let page = "<!DOCTYPE html>\n<html><head><title>404</title></head></html>";
    let saved = model(&gpt2());
    for (content, part) in
        [(pointer, "Git LFS pointer"), (page, "HTML page"), ("Entry not found", "Entry not found")]
    {
        for file in ["model.safetensors", "config.json", "model.safetensors.index.json"] {
            let dir = tempfile::tempdir().unwrap();
            write_sharded(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
            std::fs::write(dir.path().join(file), content).unwrap();
            let said = error(dir.path());
            let is_text = file.ends_with(".json") && !content.contains('\n');
            assert!(said.contains(file) && (is_text || said.contains(part)), "{said}");
        }
    }
}

#[test]
fn a_byte_order_mark_before_json_is_skipped() {
    let saved = model(&gpt2());
    let dir = tempfile::tempdir().unwrap();
    write_sharded(dir.path(), &saved.config_json(), &weights(saved.as_ref()));
    for name in ["config.json", "model.safetensors.index.json"] {
        let path = dir.path().join(name);
        let marked = format!("\u{feff}{}", std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, marked).unwrap();
    }
    assert_eq!(logits(load(dir.path()).unwrap().as_ref()), logits(saved.as_ref()));
    std::fs::write(dir.path().join("config.json"), b"\xff\xfe{\0}\0").unwrap();
    assert!(Directory::open(dir.path()).unwrap_err().to_string().contains("not UTF-8"));
}

#[test]
fn long_lists_of_names_are_cut() {
    let saved = model(&ModelConfig { n_layers: 12, ..gpt2() });
    let dir = tempfile::tempdir().unwrap();
    let other = renamed(weights(saved.as_ref()), |name| format!("encoder.{name}"));
    write(dir.path(), &saved.config_json(), &other);
    let said = error(dir.path());
    assert!(said.len() < 700, "{} bytes: {said}", said.len());
    let n = saved.parameters().len() - 3;
    for part in [
        format!(" and {n} more are missing"),
        format!(" and {n} more are not of this model"),
        "encoder.transformer.h.0.attn.c_attn.bias".to_owned(),
    ] {
        assert!(said.contains(&part), "{part:?} is not in: {said}");
    }
}
