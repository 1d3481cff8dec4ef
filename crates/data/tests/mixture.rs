//! Several sources are prepared into one dataset, in which each is known by its name.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use wattle_data::{
    DataConfig, Dataset, Loader, Mixture, MixtureSource, Origin, TokenStore, TokenizerConfig, TokenizerKind,
    Verify, prepare, prepare_into,
};

fn source(dir: &Path, name: &str, field: Option<&str>, weight: Option<f64>, n: usize) -> MixtureSource {
    let path = dir.join(name).with_extension("jsonl");
    let lines: String = (0..n)
        .map(|i| serde_json::json!({ field.unwrap_or("text"): format!("{name} {i:02}") }).to_string() + "\n")
        .collect();
    fs::write(&path, lines).unwrap();
    let text_field = field.map(str::to_owned);
    MixtureSource { name: name.to_owned(), path: vec![path], weight, epochs: None, text_field }
}

fn configs(dir: &Path, sources: Vec<MixtureSource>) -> (DataConfig, TokenizerConfig) {
    let data = DataConfig {
        mixture: Mixture(sources),
        val_fraction: 0.2,
        cache_dir: Some(dir.join("cache")),
        ..DataConfig::default()
    };
    assert_eq!(data.faults(), [""; 0]);
    (data, TokenizerConfig { kind: TokenizerKind::Bytes, ..TokenizerConfig::default() })
}

fn text_of(dataset: &Dataset, store: &TokenStore) -> String {
    let mut ids = vec![0; store.len() as usize];
    store.read(0, &mut ids).unwrap();
    dataset.tokenizer.decode(&ids).unwrap()
}

#[test]
fn each_source_is_split_by_itself_and_lies_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    let sources = vec![
        source(dir.path(), "aa", None, Some(3.0), 20),
        source(dir.path(), "bb", Some("body"), Some(1.0), 10),
    ];
    let (data, bytes) = configs(dir.path(), sources);
    let made = prepare_into(&dir.path().join("made"), &data, &bytes, &mut |_| {}).unwrap();
    let texts = |name: &str, range: std::ops::Range<usize>| -> String {
        range.map(|i| format!("{name} {i:02}<|endoftext|>")).collect()
    };
    let [aa, bb] = &made.mixture[..] else { panic!("{:?}", made.mixture) };
    assert_eq!(text_of(&made, &aa.train), texts("aa", 0..16));
    assert_eq!(text_of(&made, aa.val.as_ref().unwrap()), texts("aa", 16..20));
    assert_eq!(text_of(&made, &bb.train), texts("bb", 0..8));
    assert_eq!(text_of(&made, bb.val.as_ref().unwrap()), texts("bb", 8..10));
    assert_eq!((aa.weight, bb.weight, bb.val_manifest.as_ref().unwrap().bytes), (Some(3.0), Some(1.0), 10));
    assert_eq!(text_of(&made, &made.train), texts("aa", 0..16) + &texts("bb", 0..8));
    assert_eq!(made.val_stores().count(), 2);
    // Opened again it is the same, with the weights that it was prepared with.
    let opened = Dataset::open(&made.dir).unwrap();
    assert_eq!((opened.content_hash(), opened.mixture.len()), (made.content_hash(), 2));
}

#[test]
fn other_weights_take_the_same_tokens_from_the_cache_and_are_another_content() {
    let dir = tempfile::tempdir().unwrap();
    let of = |weights: [f64; 2]| {
        let names = ["aa", "bb"].into_iter().zip(weights);
        let sources = names.map(|(name, weight)| source(dir.path(), name, None, Some(weight), 20)).collect();
        configs(dir.path(), sources)
    };
    let (data, bytes) = of([1.0, 1.0]);
    let first = prepare(&data, &bytes, Verify::FirstUse, &mut |_| {}).unwrap();
    let mut other = data.clone();
    other.mixture.0[0].weight = Some(9.0);
    let second = prepare(&other, &bytes, Verify::FirstUse, &mut |_| {}).unwrap();
    assert_eq!((second.origin.clone(), second.dir.clone()), (Origin::Cached, first.dir.clone()));
    assert_ne!(second.content_hash(), first.content_hash());
    let of_aa = |dataset: &Dataset| {
        let loader = Loader::of(dataset, 12, 10, 1).unwrap();
        // Every window is two documents of six tokens.
        loader.batch(0, 0).unwrap().inputs.chunks(12).filter(|row| row[0] == u32::from(b'a')).count()
    };
    assert_eq!((of_aa(&first), of_aa(&second)), (5, 9));
}

#[test]
fn one_source_alone_gives_what_it_gives_without_a_mixture_in_its_first_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let alone = source(dir.path(), "aa", None, None, 40);
    let input = alone.path.clone();
    let (data, bytes) = configs(dir.path(), vec![alone]);
    let mixed = prepare_into(&dir.path().join("mixed"), &data, &bytes, &mut |_| {}).unwrap();
    let data = DataConfig { mixture: Mixture::default(), input, ..data };
    let plain = prepare_into(&dir.path().join("plain"), &data, &bytes, &mut |_| {}).unwrap();
    let [mixed, plain] = [&mixed, &plain].map(|dataset| Loader::of(dataset, 6, 4, 5).unwrap());
    assert_eq!(mixed.steps_per_epoch(), plain.steps_per_epoch());
    for step in 0..plain.steps_per_epoch() {
        assert_eq!(mixed.batch(0, step).unwrap(), plain.batch(0, step).unwrap());
    }
}
