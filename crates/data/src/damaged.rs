//! Damaged tokenizers: whatever is in a `tokenizer.json`, it is opened and used, or refused with its name.
//!
//! `WATTLE_FUZZ_CASES=10000 cargo test -p wattle-data damaged` tries more than the few of an ordinary run.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fuzz::Draws;
use serde_json::{Value, json};
use wattle_guard::guard;

use crate::encoder::Specials;
use crate::error::DataError;
use crate::foreign_tokenizers::{bert, byte_level, llama2, llama3, unigram, with};
use crate::passage::{Encoded, Passage};
use crate::tokenizer::Tokenizer;
use crate::word_cache::WordCache;

/// Files tried unless told otherwise.
const CASES: u64 = 300;

/// Texts that are encoded with each.
const TEXTS: [&str; 4] =
    ["", "  The cat, the <unk> hat.\n\n", "né à Nîmes 🙂\t12345<|endoftext|>aa", "A\u{301}\u{fdfa}    ."];

/// Most tokens for a byte of text, and most bytes for a token: what the bounds on a file's fields come to.
const MOST_GROWTH: usize = 1 << 16;

/// What a value is replaced by.
fn values() -> Vec<Value> {
    let numbers =
        [json!(0), json!(1), json!(-1), json!(1_000_000_000), json!(1u64 << 63), json!(0.5), json!(1e308)];
    let texts = ["", " ", "a", "<", "é", "\0", "(?=a)", "(a|aa)*b", "\\s*", "[", "$A", "AAAA"];
    let tables =
        [charsmap(9, b"bb\0"), charsmap(1, "é".as_bytes()), charsmap(0, &[b'x'; 5000]), "////fw==".into()];
    let wholes = [Value::Null, json!(true), json!([]), json!({}), json!([[]]), json!("€".repeat(2000))];
    let texts = texts.map(Value::from).into_iter().chain(tables.map(Value::from));
    numbers.into_iter().chain(texts).chain(wholes).collect()
}

/// Steps that the library cannot take, or that make a text much longer.
fn steps() -> Vec<Value> {
    let double = json!({"type": "BPEDecoder", "suffix": ""});
    let long = json!({"type": "Replace", "pattern": {"Regex": "."}, "content": "x".repeat(200)});
    let template = json!([{"Sequence": {"id": "B", "type_id": 0}}]);
    vec![
        json!({"type": "FixedLength", "length": 0}),
        json!({"type": "Strip", "content": "e", "start": 1, "stop": 3}),
        json!({"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": true}),
        json!({"type": "Replace", "pattern": {"String": ""}, "content": "ab"}),
        json!({"type": "Split", "pattern": {"String": ""}, "behavior": "MergedWithNext", "invert": true}),
        json!({"type": "Precompiled", "precompiled_charsmap": charsmap(0, b"bb")}),
        json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        json!({"type": "TemplateProcessing", "single": template, "pair": [], "special_tokens": {}}),
        json!({"type": "Sequence", "decoders": vec![&double; 20]}),
        json!({"type": "Sequence", "normalizers": vec![&long; 4]}),
        json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel", "add_prefix_space": false,
            "trim_offsets": false, "use_regex": false}); 30]}),
        double,
        long,
    ]
}

/// A table that maps "a" to "bb", as SentencePiece writes it.
pub(crate) fn charsmap(leaf: u32, texts: &[u8]) -> String {
    let mut units = [0u32; 256];
    units[0] = 1 << 10;
    let (a, value) = (1 ^ usize::from(b'a'), 200);
    units[a] = u32::from(b'a') | 1 << 8 | ((a ^ value) as u32) << 10;
    units[value] = 1 << 31 | leaf;
    let table = units.iter().flat_map(|unit| unit.to_le_bytes());
    let bytes: Vec<u8> =
        1024u32.to_le_bytes().into_iter().chain(table).chain(texts.iter().copied()).collect();
    BASE64_STANDARD.encode(bytes)
}

/// Every kind of step that the library has.
fn with_all_steps() -> Value {
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "Precompiled", "precompiled_charsmap": charsmap(0, b"bb\0")}, {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}, {"type": "NFKD"}, {"type": "StripAccents"},
        {"type": "Strip", "strip_left": true, "strip_right": true}, {"type": "Nmt"}, {"type": "Lowercase"},
        {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
         "lowercase": true}, {"type": "ByteLevel"}]});
    let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Whitespace"}, {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "Digits", "individual_digits": true}, {"type": "UnicodeScripts"},
        {"type": "CharDelimiterSplit", "delimiter": "c"}, {"type": "FixedLength", "length": 5},
        {"type": "Split", "pattern": {"Regex": "x*"}, "behavior": "Removed", "invert": false}]});
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "WordPiece", "prefix": "##", "cleanup": true}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Replace", "pattern": {"String": "a"}, "content": "b"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    let post_processor = json!({"type": "BertProcessing", "sep": ["<unk>", 0], "cls": ["<unk>", 0]});
    with(
        bert(),
        &[
            ("/normalizer", normalizer),
            ("/pre_tokenizer", pre_tokenizer),
            ("/decoder", decoder),
            ("/post_processor", post_processor),
            ("/added_tokens/0/normalized", true.into()),
        ],
    )
}

/// Pointers to every value of a file, of its vocabulary and merges to the first few.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    let most = if at.starts_with("/model/") { 3 } else { usize::MAX };
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(values) => {
            (0..).zip(values.iter().take(most)).map(|(i, v): (u32, _)| (i.to_string(), v)).collect()
        }
        Value::Object(values) => {
            values.iter().take(most).map(|(key, v)| (key.replace('/', "~1"), v)).collect()
        }
        _ => Vec::new(),
    };
    inner.into_iter().for_each(|(key, value)| pointers(value, &format!("{at}/{key}"), out));
}

/// A file and what becomes of it with the numbers of `draw`.
fn damaged(seeds: &[Value], mut draw: impl FnMut(usize) -> usize) -> Vec<u8> {
    let seed = &seeds[draw(seeds.len())];
    if draw(3) == 0 {
        let mut bytes = seed.to_string().into_bytes();
        // Most of a file is its vocabulary: what stands before and after it is hit as often.
        let (len, margin) = (bytes.len(), bytes.len().min(1000));
        (0..draw(4)).for_each(|_| {
            let at = [draw(margin), draw(len), len - 1 - draw(margin)][draw(3)];
            bytes[at] ^= 1 << draw(8);
        });
        let len = if draw(2) == 0 { draw(bytes.len() + 1) } else { bytes.len() };
        bytes.truncate(len);
        return bytes;
    }
    let mut file = seed.clone();
    for _ in 0..=draw(2) {
        let mut places = Vec::new();
        pointers(&file, "", &mut places);
        let place = places[draw(places.len())].clone();
        // A whole step goes where steps are.
        let part = ["/normalizer", "/pre_tokenizer", "/post_processor", "/decoder"][draw(4)].to_owned();
        let (place, value) = match draw(4) {
            0 => {
                let other = &seeds[draw(seeds.len())];
                let mut theirs = Vec::new();
                pointers(other, "", &mut theirs);
                (place, other.pointer(&theirs[draw(theirs.len())]).cloned().unwrap_or_default())
            }
            1 => (part, steps()[draw(steps().len())].clone()),
            _ => (place, values()[draw(values().len())].clone()),
        };
        if let Some(at) = file.pointer_mut(&place) {
            *at = value;
        }
    }
    file.to_string().into_bytes()
}

/// Opens a file and uses it in every way.
fn use_up(path: &Path) -> Result<(), DataError> {
    let tokenizer = Tokenizer::load(path)?.with_own_json();
    assert!(tokenizer.encodes_as(&tokenizer));
    let all: Vec<u32> = (0..tokenizer.vocab_size().min(40) as u32).collect();
    let mut outcome = used(&tokenizer, &all);
    for text in TEXTS {
        let encoded = tokenizer.encode(text).and_then(|ids| {
            assert!(ids.len() <= MOST_GROWTH * (text.len() + 1), "{} tokens for {text:?}", ids.len());
            used(&tokenizer, &ids)
        });
        let (mut cache, mut out) = (WordCache::default(), Encoded::default());
        let passage = Passage { before: "the é", text, after: " cat", conversation: None };
        let beside = tokenizer.encode_passage(passage, Specials::Text, &mut cache, &mut out);
        outcome = outcome.and(encoded).and(beside.map_err(|error| error.told(path)));
    }
    outcome
}

/// Decodes ids, at once and one by one.
fn used(tokenizer: &Tokenizer, ids: &[u32]) -> Result<(), DataError> {
    let text = tokenizer.decode(ids)?;
    assert!(text.len() <= MOST_GROWTH * (ids.len() + 1), "{} bytes for {} tokens", text.len(), ids.len());
    let mut stream = tokenizer.stream();
    ids.iter().try_for_each(|&id| stream.push(id).map(drop))?;
    stream.finish().map(drop)
}

/// What is said of a tokenizer.
fn refusal(json: &Value) -> String {
    Tokenizer::from_json(json.to_string(), Path::new("some.json")).unwrap_err().to_string()
}

#[test]
fn what_would_exhaust_memory_stack_or_a_lifetime_is_refused_with_its_field() {
    let step = |field: &str, step: Value| with(llama2(), &[(field, step)]);
    let bert_with = |field: &str, value: Value| with(bert(), &[(field, value)]);
    let (mut deep, mut far, mut tall) = (json!({"type": "NFC"}), bert(), unigram("first", 0.into()));
    (0..9).for_each(|_| deep = json!({"type": "Sequence", "normalizers": [deep]}));
    far["model"]["vocab"]["far"] = json!(u32::MAX);
    tall["model"]["vocab"].as_array_mut().unwrap().push(json!(["x".repeat(100_000), -1.0]));
    let prefixed = with(llama2(), &[("/model/continuing_subword_prefix", "€€€".into())]);
    let table =
        |leaf, texts: &[u8]| json!({"type": "Precompiled", "precompiled_charsmap": charsmap(leaf, texts)});
    for (json, field) in [
        (step("/normalizer", steps()[9].clone()), "normalizer.normalizers[1]"),
        (step("/pre_tokenizer", steps()[10].clone()), "pre_tokenizer.pretokenizers[4]"),
        (step("/decoder", steps()[8].clone()), "decoder.decoders[8]"),
        (step("/normalizer", deep), "normalizer.normalizers[0]"),
        (step("/pre_tokenizer", steps()[0].clone()), "pre_tokenizer.length = 0"),
        (step("/normalizer", table(0, &[b'x'; 5000])), "normalizer: "),
        (step("/normalizer", table(9, b"bb")), "normalizer.precompiled_charsmap points beyond"),
        (step("/normalizer", steps()[6].clone()), "normalizer.precompiled_charsmap is cut short"),
        (bert_with("/model/max_input_chars_per_word", json!(1_000_000)), "model.max_input_chars_per_word"),
        (bert_with("/model/unk_token", "x".repeat(1 << 20).into()), "model.unk_token"),
        (bert_with("/added_tokens/0/content", "x".repeat(1 << 20).into()), "added_tokens[0]"),
        (far, "model.vocab: \"far\" has the id 4294967295"),
        (tall, "model.vocab["),
        (prefixed, "model.merges[0]"),
        // What the library itself finds, with the field that it does not name.
        (step("/decoder", json!({"type": "Strip", "content": 3})), "decoder: "),
    ] {
        let said = refusal(&json);
        assert!(said.contains("some.json") && said.contains(field) && said.len() < 500, "{field}: {said}");
    }
    let twice = llama2().to_string().replacen('{', "{\"normalizer\":{\"type\":\"Precompiled\"},", 1);
    Tokenizer::from_json(twice, Path::new("the last of two counts")).unwrap();
}

#[test]
fn damaged_tokenizers_are_used_or_refused_by_name() {
    let cases = fuzz::size("WATTLE_FUZZ_CASES", CASES);
    let seeds = [byte_level(), llama2(), llama3(), bert(), unigram("first", 0.into()), with_all_steps()];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.json");
    for seed in &seeds {
        fs::write(&path, seed.to_string()).unwrap();
        Tokenizer::load(&path).unwrap();
    }
    let (mut n_used, mut n_refused) = (0, 0);
    for case in 0..cases {
        let mut draws = Draws::new(case);
        fs::write(&path, damaged(&seeds, |n| draws.below(n))).unwrap();
        match guard(|| use_up(&path)) {
            Ok(Ok(())) => n_used += 1,
            Ok(Err(DataError::UnknownCharacter { .. })) => n_used += 1,
            Ok(Err(error)) => {
                n_refused += 1;
                assert!(error.to_string().contains("damaged.json"), "case {case}: {error}");
            }
            Err(panic) => panic!("case {case} panics: {panic}"),
        }
    }
    assert!(n_used > cases / 20 && n_refused > cases / 20, "{n_used} used, {n_refused} refused");
}
