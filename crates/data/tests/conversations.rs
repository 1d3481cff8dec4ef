//! Conversations: from records to tokens that are learnt and tokens that are not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use wattle_data::{
    Batch, DataConfig, DataError, Dataset, EvalBatches, Loader, Mixture, MixtureSource, PiiChoice, Split,
    TokenStore, TokenizerConfig, TokenizerKind, Verify, prepare, prepare_into,
};

/// Conversations of various lengths, of which the longest message of a user fills whole windows.
fn conversations(n: usize) -> String {
    let one = |i: usize| {
        let question = "what is this about? ".repeat(1 + i % 7);
        format!(
            "{{\"messages\": [{{\"role\": \"system\", \"content\": \"Be kind.\"}}, {{\"role\": \"user\", \"content\": \
             \"{question}\"}}, {{\"role\": \"assistant\", \"content\": \"It is about {i}.\"}}, {{\"role\": \"user\", \
             \"content\": \"and?\"}}, {{\"role\": \"assistant\", \"content\": \"No é more.\"}}]}}\n"
        )
    };
    (0..n).map(one).collect()
}

fn data(root: &Path, name: &str, content: &str, template: Option<&str>) -> DataConfig {
    let path = root.join(name);
    fs::write(&path, content).unwrap();
    DataConfig {
        input: vec![path],
        chat_template: template.map(|template| template.parse().unwrap()),
        cache_dir: Some(root.join("cache")),
        ..DataConfig::default()
    }
}

fn bytes() -> TokenizerConfig {
    TokenizerConfig { kind: TokenizerKind::Bytes, ..TokenizerConfig::default() }
}

fn prepared(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<Dataset, DataError> {
    prepare(data, tokenizer, Verify::FirstUse, &mut |_| {})
}

/// The learnt texts of a split, each a run of neighbours.
fn learnt(dataset: &Dataset, store: &TokenStore) -> Vec<String> {
    let (mut ids, mut mask) = (vec![0; store.len() as usize], vec![false; store.len() as usize]);
    store.read(0, &mut ids).unwrap();
    store.read_mask(0, &mut mask);
    let runs = mask.chunk_by(|a, b| a == b);
    let mut at = 0;
    let mut texts = Vec::new();
    for run in runs {
        if run[0] {
            texts.push(dataset.tokenizer.decode(&ids[at..at + run.len()]).unwrap());
        }
        at += run.len();
    }
    texts
}

#[test]
fn what_the_assistant_says_is_learnt_with_every_tokenizer_made_here() {
    let root = tempfile::tempdir().unwrap();
    for (template, end) in [("chatml", "<|im_end|>"), ("plain", "<|endoftext|>")] {
        let data = data(root.path(), "chat.jsonl", &conversations(40), Some(template));
        for kind in [TokenizerKind::Bytes, TokenizerKind::Chars, TokenizerKind::Bpe] {
            let tokenizer = TokenizerConfig { kind, vocab_size: 400, ..TokenizerConfig::default() };
            let mut dataset = prepared(&data, &tokenizer).unwrap();
            let space = if template == "plain" { " " } else { "" };
            let expected: Vec<String> = (0..36)
                .flat_map(|i| [format!("{space}It is about {i}.{end}"), format!("{space}No é more.{end}")])
                .collect();
            assert_eq!(learnt(&dataset, &dataset.train), expected, "{template} {kind:?}");
            let documents = dataset.manifest.documents.as_ref().unwrap();
            assert_eq!((documents.train, documents.val), (36, 4));
            let train = &dataset.manifest.split.train;
            assert!(train.learnt.unwrap() < train.tokens / 2 && train.bits_per_byte(1.0).is_none());
            let id = dataset.tokenizer.encode(end).unwrap();
            assert_eq!(id.len(), 1, "{end} is no token of its own");
            dataset.verify(&mut |_| {}).unwrap();
            let chat = dataset.chat.as_ref().unwrap();
            assert_eq!(chat.name(), template);
            assert_eq!(Dataset::open(&dataset.dir).unwrap().chat.unwrap().sha256(), chat.sha256());
        }
    }
}

#[test]
fn without_conversations_shards_and_manifest_are_as_before() {
    let root = tempfile::tempdir().unwrap();
    let data =
        data(root.path(), "docs.jsonl", "{\"text\": \"one\", \"messages\": []}\n{\"text\": \"two\"}\n", None);
    let dataset = prepared(&data, &bytes()).unwrap();
    let shard = fs::read(dataset.dir.join("train-00000.bin")).unwrap();
    assert_eq!((shard[8], shard.len()), (1, 64 + 2 * dataset.train.len() as usize));
    assert!(!dataset.train.has_mask() && dataset.chat.is_none());
    let manifest = fs::read_to_string(dataset.dir.join("dataset.json")).unwrap();
    assert!(!manifest.contains("learnt") && !manifest.contains("chat"), "{manifest}");
    assert!(!dataset.dir.join("chat_template.jinja").exists());
}

#[test]
fn the_template_beside_a_tokenizer_is_used_and_a_change_of_it_is_seen() {
    let root = tempfile::tempdir().unwrap();
    let given = root.path().join("model");
    fs::create_dir(&given).unwrap();
    let chatml = data(root.path(), "chat.jsonl", &conversations(10), Some("chatml"));
    let made = prepared(&chatml, &bytes()).unwrap();
    made.tokenizer.save(&given.join("tokenizer.json")).unwrap();
    fs::write(given.join("chat_template.jinja"), made.chat.as_ref().unwrap().source()).unwrap();
    let own = DataConfig { chat_template: None, ..chatml };
    for file in [given.clone(), given.join("tokenizer.json")] {
        let tokenizer =
            TokenizerConfig { kind: TokenizerKind::File, file: Some(file), ..TokenizerConfig::default() };
        assert_eq!(tokenizer.faults(), [""; 0]);
        let dataset = prepared(&own, &tokenizer).unwrap();
        assert_eq!(dataset.content_hash(), made.content_hash());
        assert_eq!(learnt(&dataset, &dataset.train), learnt(&made, &made.train));
    }
    // A template without markers, of the directory's own making.
    fs::write(
        given.join("chat_template.jinja"),
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}\
         {% if add_generation_prompt %}assistant: {% endif %}",
    )
    .unwrap();
    let tokenizer =
        TokenizerConfig { kind: TokenizerKind::File, file: Some(given), ..TokenizerConfig::default() };
    let other = prepared(&own, &tokenizer).unwrap();
    assert_ne!(other.dir, made.dir);
    assert_eq!(learnt(&other, &other.train)[..2], ["It is about 0.<|endoftext|>", "No é more.<|endoftext|>"]);
}

#[test]
fn windows_in_which_nothing_is_learnt_are_left_out() {
    let root = tempfile::tempdir().unwrap();
    let data = data(root.path(), "chat.jsonl", &conversations(30), Some("plain"));
    let dataset = prepared(&data, &bytes()).unwrap();
    let loader = Loader::new(&dataset.train, 16, 2, 1).unwrap();
    assert!(loader.windows() < dataset.train.windows(16).unwrap(), "no window is left out");
    let mut counted = 0;
    for step in 0..loader.steps_per_epoch() {
        let batch = loader.batch(0, step).unwrap();
        let weights = batch.weights.as_deref().unwrap();
        assert!(weights.chunks(16).all(|row| row.contains(&1.0)));
        assert_eq!(loader.counted(0, step).unwrap(), batch.counted());
        let parts = (0..2).map(|rank| loader.clone().for_rank(rank, 2).unwrap().batch(0, step).unwrap());
        assert_eq!(parts.map(|part| part.counted()).sum::<u64>(), batch.counted());
        assert_eq!(batch.clone().first(1).weights.unwrap(), weights[..16]);
        counted += batch.counted();
    }
    let mut mask = vec![false; dataset.train.len() as usize];
    dataset.train.read_mask(0, &mut mask);
    let in_windows = 1 + 16 * dataset.train.windows(16).unwrap() as usize;
    let all = mask[1..in_windows].iter().filter(|&&is_learnt| is_learnt).count() as u64;
    assert!(counted <= all && counted + 32 >= all, "{counted} of {all}");
    let evaluated: Vec<Batch> =
        EvalBatches::new(&dataset.train, 16, 3, 0).unwrap().map(Result::unwrap).collect();
    assert_eq!(evaluated.iter().map(Batch::counted).sum::<u64>(), all);

    // Of a split that ends before the assistant speaks, nothing can be learnt.
    let short = Loader::new(&dataset.train, 5000, 1, 1).unwrap_err();
    assert!(matches!(short, DataError::TooShort { split: Split::Train, .. }), "{short}");
}

fn refused(root: &Path, name: &str, content: &str, template: Option<&str>) -> String {
    let data = data(root, name, content, template);
    let out: PathBuf = root.join("out");
    let error = prepare_into(&out, &data, &bytes(), &mut |_| {}).unwrap_err().to_string();
    assert!(!out.exists(), "{error}");
    error
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    let root = tempfile::tempdir().unwrap();
    let fine = conversations(3);
    let broken = root.path().join("broken.jinja");
    fs::write(&broken, "{% for m in messages %}{{ m.content }").unwrap();
    let silent = root.path().join("silent.jinja");
    fs::write(&silent, "{% for m in messages %}{% generation %}{% endgeneration %}{{ m.role }}{% endfor %}")
        .unwrap();
    let picky = root.path().join("picky.jinja");
    fs::write(&picky, "{{ raise_exception('no system here') if messages[0].role == 'system' else 'x' }}")
        .unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let user = "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n";
    let robot = "{\"messages\": [{\"role\": \"robot\", \"content\": \"hi\"}]}\n";
    for (content, template, needles) in [
        (fine.clone() + user, "chatml".to_owned(), &["chat.jsonl", "line 4", "nothing to learn"][..]),
        (
            fine.clone() + "\n" + robot,
            "plain".to_owned(),
            &["chat.jsonl", "line 5", "\"robot\"", "assistant"],
        ),
        (fine.clone(), path(&broken), &["broken.jinja", "line 1"]),
        (fine.clone(), path(&silent), &["chat.jsonl", "line 1", "nothing to learn"]),
        (fine.clone(), path(&picky), &["chat.jsonl", "line 1", "picky.jinja", "no system here"]),
        (fine.clone(), path(&root.path().join("missing")), &["missing"]),
        ("plain text\n".to_owned(), "chatml".to_owned(), &["data.chat_template", "chat.txt"]),
    ] {
        let name = if content.starts_with('{') { "chat.jsonl" } else { "chat.txt" };
        let said = refused(root.path(), name, &content, Some(&template));
        needles.iter().for_each(|needle| assert!(said.contains(needle), "{needle}: {said}"));
    }
    let said = refused(root.path(), "chat.jsonl", &fine, None);
    assert!(said.contains("data.chat_template") && said.contains("chat.jsonl"), "{said}");
}

#[test]
fn records_that_are_no_conversations_are_counted_or_refused() {
    let root = tempfile::tempdir().unwrap();
    let content = conversations(12) + "{\"text\": \"a\"}\nnot JSON\n";
    let data = data(root.path(), "chat.jsonl", &content, Some("chatml"));
    let dataset = prepared(&data, &bytes()).unwrap();
    let bad = dataset.manifest.documents.unwrap().bad.unwrap();
    assert_eq!(bad.total(), 2);
    assert!(bad.first.contains("line 13") && bad.first.contains("\"messages\""), "{}", bad.first);
    let strict = DataConfig { bad_records: wattle_data::BadRecords::Refuse, ..data };
    assert!(prepared(&strict, &bytes()).unwrap_err().to_string().contains("line 13"));
}

#[test]
fn documents_that_are_left_out_take_their_masks_along() {
    let root = tempfile::tempdir().unwrap();
    let twice = conversations(20) + &conversations(20);
    let data = DataConfig {
        dedup: true,
        max_tokens: Some(220),
        val_fraction: 0.0,
        ..data(root.path(), "twice.jsonl", &twice, Some("chatml"))
    };
    let dataset = prepared(&data, &bytes()).unwrap();
    let texts = learnt(&dataset, &dataset.train);
    let kept: Vec<usize> =
        (0..20).filter(|i| texts.contains(&format!("It is about {i}.<|im_end|>"))).collect();
    assert!(!kept.is_empty() && kept.len() < 20, "long ones are left out: {kept:?}");
    let expected: Vec<String> = kept
        .iter()
        .flat_map(|i| [format!("It is about {i}.<|im_end|>"), "No é more.<|im_end|>".to_owned()])
        .collect();
    assert_eq!(texts, expected);
}

#[test]
fn what_would_lose_what_is_learnt_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let plain = data(root.path(), "chat.jsonl", &conversations(9), Some("chatml"));
    let said = |data: &DataConfig| prepared(data, &bytes()).unwrap_err().to_string();
    let replaced = DataConfig { pii: PiiChoice::Replace, ..plain.clone() };
    assert!(said(&replaced).contains("data.pii"), "{}", said(&replaced));
    let source = |name: &str| MixtureSource {
        name: name.to_owned(),
        path: plain.input.clone(),
        weight: None,
        epochs: None,
        text_field: None,
    };
    let mixed =
        DataConfig { input: vec![], mixture: Mixture(vec![source("a"), source("b")]), ..plain.clone() };
    assert!(said(&mixed).contains("data.mixture") && said(&mixed).contains("not mixed"), "{}", said(&mixed));
}
