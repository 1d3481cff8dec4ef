//! Documents from files to shards.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use wattle_data::manifest::Separator;
use wattle_data::{
    DataConfig, DataError, Dataset, Format, Origin, TokenStore, Tokenizer, TokenizerConfig, TokenizerKind,
    Verify, prepare,
};

fn configs(root: &Path, kind: TokenizerKind) -> (DataConfig, TokenizerConfig) {
    let data = DataConfig { cache_dir: Some(root.join("cache")), ..DataConfig::default() };
    (data, TokenizerConfig { kind, vocab_size: 300, ..TokenizerConfig::default() })
}

fn quietly(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<Dataset, DataError> {
    prepare(data, tokenizer, Verify::FirstUse, &mut |_| {})
}

fn text_of(dataset: &Dataset, store: &TokenStore) -> String {
    let mut ids = vec![0; store.len() as usize];
    store.read(0, &mut ids).unwrap();
    dataset.tokenizer.decode(&ids).unwrap()
}

fn jsonl(root: &Path, name: &str, texts: &[&str]) -> PathBuf {
    let path = root.join(name);
    let lines = texts.iter().map(|text| serde_json::json!({"n": 1, "text": text}).to_string() + "\n");
    fs::write(&path, lines.collect::<String>()).unwrap();
    path
}

#[test]
fn documents_are_ended_by_a_token_and_split_whole() {
    let root = tempfile::tempdir().unwrap();
    let texts = ["one one one", "", "two <|endoftext|> spelt out", "drei ü", "four\n"];
    let input = vec![jsonl(root.path(), "docs.jsonl", &texts)];
    for (kind, vocab_size) in
        [(TokenizerKind::Bytes, 257), (TokenizerKind::Chars, 21), (TokenizerKind::Bpe, 260)]
    {
        let (data, tokenizer) = configs(root.path(), kind);
        let data = DataConfig { input: input.clone(), val_fraction: 0.25, ..data };
        let dataset = quietly(&data, &TokenizerConfig { vocab_size: 260, ..tokenizer }).unwrap();
        assert_eq!(dataset.vocab_size(), vocab_size, "{kind:?}");
        let end = dataset.tokenizer.end_of_text().unwrap();
        assert_eq!(end as usize, vocab_size - 1);
        let train = "one one one<|endoftext|>two <|endoftext|> spelt out<|endoftext|>drei ü<|endoftext|>";
        assert_eq!(text_of(&dataset, &dataset.train), train);
        assert_eq!(text_of(&dataset, dataset.val.as_ref().unwrap()), "four\n<|endoftext|>");
        let mut ids = vec![0; dataset.train.len() as usize];
        dataset.train.read(0, &mut ids).unwrap();
        assert_eq!(ids.iter().filter(|&&id| id == end).count(), 3, "text was taken for a token");
        let documents = dataset.manifest.documents.clone().unwrap();
        assert_eq!((documents.train, documents.val, documents.empty), (3, 1, 1));
        assert_eq!(documents.separator, Separator::Token { text: "<|endoftext|>".to_owned(), id: end });
        let split = &dataset.manifest.split;
        assert_eq!((split.train.bytes, split.train.chars), (45, 44));
        assert_eq!(dataset.manifest.sources[0].bytes, 50);
        assert!(dataset.tokenizer.tokenizer_config_json(8).contains("\"eos_token\": \"<|endoftext|>\""));
    }
}

#[test]
fn a_foreign_tokenizer_without_an_end_gets_line_ends_between_documents() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("mine.json");
    Tokenizer::chars(&['\n', 'a', 'b']).save(&path).unwrap();
    let config =
        TokenizerConfig { kind: TokenizerKind::File, file: Some(path.clone()), ..Default::default() };
    let (data, _) = configs(root.path(), TokenizerKind::File);
    let of = |name: &str, texts: &[&str]| DataConfig {
        input: vec![jsonl(root.path(), name, texts)],
        val_fraction: 0.0,
        ..data.clone()
    };
    let dataset = quietly(&of("a.ndjson", &["ab", "b"]), &config).unwrap();
    assert_eq!(text_of(&dataset, &dataset.train), "ab\n\nb\n\n");
    assert_eq!(dataset.manifest.split.train.bytes, 3);
    let documents = dataset.manifest.documents.unwrap();
    assert_eq!(documents.separator, Separator::Text("\n\n".to_owned()));
    let error = quietly(&of("b.jsonl", &["ab", "bac"]), &config).unwrap_err().to_string();
    assert!(error.contains("b.jsonl\", line 2: character 'c' at character 2"), "{error}");

    Tokenizer::bytes().with_end_of_text().save(&path).unwrap();
    let dataset = quietly(&of("a.ndjson", &["ab", "b"]), &config).unwrap();
    assert_eq!(text_of(&dataset, &dataset.train), "ab<|endoftext|>b<|endoftext|>");
}

#[test]
fn text_between_separators_and_gzip_are_documents_too() {
    let root = tempfile::tempdir().unwrap();
    let text = "Once upon a time.\nThe end.\n<|endoftext|>\nTwice.\n<|endoftext|>\n";
    let path = root.path().join("tales.txt.gz");
    let mut gzip = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), Default::default());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    gzip.finish().unwrap();
    let (data, config) = configs(root.path(), TokenizerKind::Bytes);
    let data = DataConfig { input: vec![path], val_fraction: 0.5, ..data };
    let as_text = quietly(&data, &config).unwrap();
    assert_eq!((as_text.vocab_size(), as_text.manifest.sources[0].bytes), (256, text.len() as u64));
    let known_format = Some(Format::Separated { line: "<|endoftext|>".to_owned() });
    let dataset = quietly(&DataConfig { known_format, ..data }, &config).unwrap();
    assert_eq!(text_of(&dataset, &dataset.train), "Once upon a time.\nThe end.<|endoftext|>");
    assert_eq!(text_of(&dataset, dataset.val.as_ref().unwrap()), "Twice.<|endoftext|>");
}

#[test]
fn the_field_is_part_of_the_caches_key_and_a_small_vocabulary_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.jsonl");
    fs::write(&path, "{\"text\": \"aa\", \"title\": \"bbb\"}\n").unwrap();
    let (data, config) = configs(root.path(), TokenizerKind::Bytes);
    let data = DataConfig { input: vec![path], val_fraction: 0.0, ..data };
    let of_title = DataConfig { text_field: "title".to_owned(), ..data.clone() };
    assert_eq!(quietly(&data, &config).unwrap().train.len(), 3);
    assert_eq!(quietly(&of_title, &config).unwrap().train.len(), 4);
    assert_eq!(quietly(&data, &config).unwrap().origin, Origin::Cached);
    let bpe = TokenizerConfig { kind: TokenizerKind::Bpe, vocab_size: 256, ..config };
    let error = quietly(&data, &bpe).unwrap_err().to_string();
    assert!(error.contains("tokenizer.vocab_size = 256: expected at least 257"), "{error}");
}
