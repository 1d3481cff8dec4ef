//! Tests of tokenizers made elsewhere: what they would lose, and what they must not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::Tokenizer as Library;

use crate::bpe::WordCounts;
use crate::config::{DataConfig, TokenizerConfig};
use crate::dataset::Dataset;
use crate::error::DataError;
use crate::prepare::prepare_into;
use crate::prepare::tests::files_of;
use crate::tales;
use crate::tokenizer::{FILE_NAME, Tokenizer};
use crate::tokenizer_kind::TokenizerKind;

/// Tales with what tokenizers stumble over: blank lines, punctuation before line ends, other scripts.
fn text() -> String {
    let tale = |i| {
        tales::tale(5, i).text + ".\n\n\n  Né à Nîmes; naïve café — 12345 日本語 🙂!\r\n\r\n\tEnd\u{a0}x.\n"
    };
    (0..60).map(tale).collect()
}

/// Letters of [`text`], most of them with a merge.
fn letters() -> Vec<char> {
    let mut letters: Vec<char> = text().chars().collect();
    letters.sort_unstable();
    letters.dedup();
    letters
}

pub(crate) fn byte_level() -> Value {
    let mut words = WordCounts::new();
    words.add(&text());
    serde_json::from_str(Tokenizer::bpe(&words, 500).to_json()).unwrap()
}

pub(crate) fn with(mut json: Value, changes: &[(&str, Value)]) -> Value {
    changes.iter().for_each(|(pointer, value)| match json.pointer_mut(pointer) {
        Some(at) => *at = value.clone(),
        None => panic!("{pointer} is not in the file"),
    });
    json
}

fn tokenizer_json(model: Value, normalizer: Value, pre_tokenizer: Value, decoder: Value) -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [
        {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
         "normalized": false, "special": true}
    ], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": decoder, "model": model})
}

/// As Llama 2 has it: no words at all, "▁" for spaces and before the text, bytes for what is not known.
pub(crate) fn llama2() -> Value {
    let mut vocab = BTreeMap::from([("<unk>".to_owned(), 0)]);
    let add = |vocab: &mut BTreeMap<String, usize>, token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id);
    };
    (0..=255).for_each(|byte| add(&mut vocab, format!("<0x{byte:02X}>")));
    ('a'..='z').chain(".,▁\"TNHBJ".chars()).for_each(|c| add(&mut vocab, c.to_string()));
    let merges =
        [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "a"), ("i", "n"), ("e", "r"), (".", "▁"), ("▁", "T")];
    merges.iter().for_each(|(left, right)| add(&mut vocab, format!("{left}{right}")));
    let model = json!({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
        "merges": merges.map(|(left, right)| format!("{left} {right}"))});
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    tokenizer_json(model, normalizer, Value::Null, decoder)
}

/// As T5 and XLM-RoBERTa have it.
pub(crate) fn unigram(scheme: &str, unk_id: Value) -> Value {
    let mut vocab = vec![
        json!(["<unk>", 0.0]),
        json!(["▁", -3.0]),
        json!(["▁the", -4.0]),
        json!(["in", -4.5]),
        json!(["er", -4.5]),
    ];
    vocab.extend(
        letters().into_iter().filter(|c| !" 日本語".contains(*c)).map(|c| json!([c.to_string(), -6.0])),
    );
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let model = json!({"type": "Unigram", "unk_id": unk_id, "vocab": vocab, "byte_fallback": false});
    tokenizer_json(model, Value::Null, metaspace.clone(), metaspace)
}

/// As BERT has it: small letters without accents, words without the space between them.
pub(crate) fn bert() -> Value {
    let mut vocab = BTreeMap::from([("<unk>".to_owned(), 0)]);
    for c in ('a'..='z').chain("0123456789.,;:!?\"'-—日本".chars()) {
        for token in [c.to_string(), format!("##{c}")] {
            let id = vocab.len();
            vocab.insert(token, id);
        }
    }
    let model = json!({"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocab});
    let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true});
    let decoder = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    tokenizer_json(model, normalizer, json!({"type": "BertPreTokenizer"}), decoder)
}

/// As Llama 3 and Qwen have it: a pattern that joins line ends to the full stop before them.
pub(crate) fn llama3() -> Value {
    let pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    with(byte_level(), &[("/pre_tokenizer", json!({"type": "Sequence", "pretokenizers": [split, bytes]}))])
}

/// Prepares `text` by the tokenizer `json` into a folder in `root`.
fn prepared(root: &Path, name: &str, text: &str, json: &Value) -> Result<Dataset, DataError> {
    let (data, config) = configs(root, text, json);
    prepare_into(&root.join(name), &data, &config, &mut |_| {})
}

fn configs(root: &Path, text: &str, json: &Value) -> (DataConfig, TokenizerConfig) {
    let [input, file]: [PathBuf; 2] = ["text.txt", "given.json"].map(|name| root.join(name));
    fs::write(&input, text).unwrap();
    fs::write(&file, json.to_string()).unwrap();
    let data = DataConfig {
        input: vec![input],
        val_fraction: 0.0,
        cache_dir: Some(root.join("cache")),
        ..DataConfig::default()
    };
    (data, TokenizerConfig { kind: TokenizerKind::File, file: Some(file), ..TokenizerConfig::default() })
}

fn ids_of(dataset: &Dataset) -> Vec<u32> {
    let mut ids = vec![0; dataset.train.len() as usize];
    dataset.train.read(0, &mut ids).unwrap();
    ids
}

#[test]
fn a_text_in_blocks_has_the_tokens_of_the_whole() {
    let root = tempfile::tempdir().unwrap();
    let text = text();
    let prefixed = with(byte_level(), &[("/pre_tokenizer/add_prefix_space", true.into())]);
    let chunks = json!({"type": "FixedLength", "length": 7});
    let mut stripping = llama2();
    stripping["normalizer"]["normalizers"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"type": "Strip", "strip_left": true, "strip_right": true}));
    let tokenizers = [
        ("llama2", llama2()),
        ("stripping", stripping),
        ("always", unigram("always", 0.into())),
        ("first", unigram("first", 0.into())),
        ("never", unigram("never", 0.into())),
        ("bert", bert()),
        ("llama3", llama3()),
        ("prefixed", prefixed),
        ("chunks", with(unigram("never", 0.into()), &[("/pre_tokenizer", chunks)])),
    ];
    for (name, json) in tokenizers {
        let (data, config) = configs(root.path(), &text, &json);
        let library = Library::from_bytes(json.to_string()).unwrap();
        let expected = library.encode(text.as_str(), false).unwrap().get_ids().to_vec();
        let whole = files_of(&data, &config, 1, 1 << 22);
        assert_eq!(ids_of(&prepared(root.path(), name, &text, &json).unwrap()), expected, "{name}");
        if name == "chunks" {
            // Its tokens depend on text at any distance: that is noticed.
            continue;
        }
        for block_bytes in [700, 3000, 20_000] {
            let blocks = files_of(&data, &config, 2, block_bytes);
            // The first file holds counts; where a loss lies at a border, another stretch may have it.
            assert!(blocks[1..] == whole[1..], "{name} in blocks of {block_bytes}");
        }
    }
}

#[test]
fn text_larger_than_a_block_is_encoded_as_a_whole() {
    let root = tempfile::tempdir().unwrap();
    // Digits without end: what is cut into threes depends on where the first of them is.
    let digits: String =
        (0..1_300_000u32).map(|i| char::from(b'0' + (i % 1000 * (i % 997) % 7) as u8)).collect();
    let long = format!("{}\n{digits}\n", text());
    for (name, json, text) in [("llama2", llama2(), text().repeat(40)), ("llama3", llama3(), long)] {
        assert!(text.len() > 1 << 20);
        let library = Library::from_bytes(json.to_string()).unwrap();
        let expected = library.encode(text.as_str(), false).unwrap().get_ids().to_vec();
        assert!(ids_of(&prepared(root.path(), name, &text, &json).unwrap()) == expected, "{name}");
    }
}

#[test]
fn what_belongs_to_a_call_is_switched_off_and_named() {
    let root = tempfile::tempdir().unwrap();
    let clean = byte_level();
    let text = text();
    let expected = prepared(root.path(), "clean", &text, &clean).unwrap();
    let padding = |strategy: Value, multiple: Value| {
        json!({"strategy": strategy, "direction": "Right", "pad_to_multiple_of": multiple, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "!"})
    };
    let truncation = json!({"direction": "Left", "max_length": 64, "strategy": "LongestFirst", "stride": 0});
    let cases = [
        ("/truncation", truncation, "truncation to 64 tokens"),
        ("/padding", padding(json!({"Fixed": 100_000}), Value::Null), "padding to 100000 tokens"),
        ("/padding", padding(json!("BatchLongest"), 4096.into()), "padding to a multiple of 4096 tokens"),
        ("/model/dropout", json!(0.5), "dropout of merges at 0.5"),
    ];
    for (i, (pointer, value, name)) in cases.into_iter().enumerate() {
        let given = with(clean.clone(), &[(pointer, value)]);
        let dataset = prepared(root.path(), &i.to_string(), &text, &given).unwrap();
        assert_eq!(ids_of(&dataset), ids_of(&expected), "{name}");
        assert_eq!(dataset.manifest.tokenizer.switched_off, [name]);
        // What is stored is what encodes, for other tools too.
        let stored: Value = serde_json::from_slice(&fs::read(dataset.dir.join(FILE_NAME)).unwrap()).unwrap();
        assert_eq!(stored.pointer(pointer), Some(&Value::Null));
        assert!(dataset.tokenizer.switched_off().is_empty());
        let opened = Tokenizer::from_json(given.to_string(), Path::new(FILE_NAME)).unwrap();
        assert_eq!(opened.switched_off(), [name]);
        assert!(opened.encodes_as(&dataset.tokenizer) && opened.encodes_as(&opened));
        assert!(!opened.encodes_as(&Tokenizer::bytes()));
        assert_eq!(opened.encode(&text).unwrap(), ids_of(&dataset), "{name}");
        // A run that began with the file as it was goes on, if the tokens are the same.
        let mut before = dataset.clone();
        before.manifest.tokenizer.sha256 = opened.sha256();
        assert!(dataset.has_content(&before.content_hash()) && dataset.has_content(&dataset.content_hash()));
        assert!(!dataset.has_content(&expected.text_hash()));
    }
    let none = with(clean, &[("/model/dropout", json!(0.0))]);
    assert!(Tokenizer::from_json(none.to_string(), Path::new(FILE_NAME)).unwrap().switched_off().is_empty());
}

#[test]
fn characters_that_would_be_dropped_are_refused_with_their_place() {
    let root = tempfile::tempdir().unwrap();
    let text = "plain words, then a caf\u{e9} and more";
    let mut few = byte_level();
    few["model"]["vocab"].as_object_mut().unwrap().remove("\u{c3}");
    few["model"]["merges"] = json!([]);
    let lower = with(
        tokenizer_json(
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": []}),
            Value::Null,
            Value::Null,
            Value::Null,
        ),
        &[
            ("/normalizer", json!({"type": "Lowercase"})),
            ("/pre_tokenizer", json!({"type": "WhitespaceSplit"})),
        ],
    );
    let mut lower = lower;
    lower["added_tokens"] = json!([]);
    lower["model"]["vocab"] = ('a'..='z')
        .chain([','])
        .enumerate()
        .map(|(id, c)| (c.to_string(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for (name, json) in [("few", few), ("lower", lower), ("unigram", unigram("always", Value::Null))] {
        let text = if name == "unigram" { "plain words, then a ca日" } else { text };
        let error = prepared(root.path(), name, text, &json).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("text.txt"), "{name}: {said}");
        let opened = Tokenizer::from_json(json.to_string(), Path::new(FILE_NAME)).unwrap();
        assert!(opened.encode("plain words").is_ok() && opened.encode(text).is_err(), "{name}");
        if name != "unigram" {
            assert!(
                matches!(error, DataError::UnknownCharacter { character: 'é', position: 23, .. }),
                "{name}: {said}"
            );
            assert!(said.contains("tokenizer.kind"), "{said}");
        }
        assert!(!root.path().join(name).exists());
    }
}

#[test]
fn what_a_tokenizer_changes_or_does_not_know_is_counted() {
    let root = tempfile::tempdir().unwrap();
    let text = "Hello, World.\nna\u{ef}ve words \u{1f642} here";
    // Capitals, the line end, the accent and the face: 5 of 31 characters. The face is one token for the unknown.
    let dataset = prepared(root.path(), "bert", text, &bert()).unwrap();
    let split = &dataset.manifest.split.train;
    assert_eq!((split.chars, split.lost_chars, split.unknown_tokens), (32, Some(5), Some(1)));
    assert_eq!(split.bits_per_byte(1.0), None);
    for (name, json, text) in [
        ("llama2", llama2(), self::text()),
        ("llama3", llama3(), self::text()),
        ("bytes", byte_level(), self::text()),
        ("always", unigram("always", 0.into()), self::text().replace("日本語", "")),
    ] {
        let split = prepared(root.path(), name, &text, &json).unwrap().manifest.split.train;
        assert_eq!((split.lost_chars, split.unknown_tokens), (Some(0), Some(0)), "{name}");
        assert!(split.bits_per_byte(1.0).is_some());
    }
    let unknown = prepared(root.path(), "unknown", &self::text(), &unigram("always", 0.into())).unwrap();
    let split = unknown.manifest.split.train;
    assert_eq!((split.lost_chars, split.unknown_tokens), (Some(3 * 60), Some(60)), "the library fuses them");
    let nfkc = with(llama3(), &[("/normalizer", json!({"type": "NFKC"}))]);
    let split = prepared(root.path(), "nfkc", &self::text(), &nfkc).unwrap().manifest.split.train;
    assert_eq!(split.lost_chars, Some(60), "a no-break space in each tale becomes a space");
    assert!(split.lost_share().unwrap() > 1e-3 && split.bits_per_byte(1.0).is_none());
}
