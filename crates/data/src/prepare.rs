//! From a configuration to a dataset, made once and cached.
//!
//! A dataset is built in a temporary folder beside its destination and renamed, so that preparations at the same
//! time do not disturb each other: the first to finish wins, and the others use its result.

use std::path::Path;

use crate::bpe::WordCounts;
use crate::cache;
use crate::census::{Census, FileCensus};
use crate::config::{DataConfig, N_BYTES, TokenizerConfig};
use crate::conversation::{ChatTemplate, template};
use crate::dataset::{Dataset, Origin};
use crate::error::DataError;
use crate::manifest::{ChatManifest, Manifest, SCHEMA, SourceManifest, TokenizerManifest};
use crate::pipeline;
use crate::progress::{Progress, Stage, in_bytes};
use crate::scratch::Scratch;
use crate::source::Source;
use crate::split::Split;
use crate::staging::{Staging, discard};
use crate::tokenize::{Tokenized, tokenize};
use crate::tokenizer::{self, Tokenizer};
use crate::tokenizer_kind::TokenizerKind;
use crate::verified::Verify;

/// Text from which a vocabulary is trained at most, spread evenly over the training split. Bounds the memory
/// for counting words; a larger sample changes no merge that matters.
const TOKENIZER_SAMPLE_BYTES: u64 = 64 << 20;

/// Largest text that is encoded in one piece, where its tokens depend on distant text: the library needs
/// some fifty times as much memory.
const MAX_WHOLE_BYTES: u64 = 16 << 20;

/// The dataset of a configuration: opened if `data.dir` names it, else from the cache, else prepared into it. What is
/// damaged in the cache is prepared anew.
///
/// # Errors
/// If an input or the cache cannot be read or written, the input cannot be tokenized, or the dataset of `data.dir` is
/// damaged.
pub fn prepare(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    verify: Verify,
    progress: &mut dyn FnMut(Progress),
) -> Result<Dataset, DataError> {
    let mut open = |dir: &Path| {
        let mut dataset = Dataset::open(dir)?.mixed_as(&data.mixture);
        if verify == Verify::FirstUse {
            dataset.verify(progress)?;
        }
        Ok::<_, DataError>(dataset)
    };
    if let Some(dir) = &data.dir {
        return open(dir)?.packed_as(data.packing);
    }
    let dir = cache::folder(data, tokenizer)?;
    let origin = match dir.exists().then(|| open(&dir)) {
        Some(Ok(dataset)) => {
            return Dataset { origin: Origin::Cached, ..dataset }.packed_as(data.packing);
        }
        Some(Err(fault)) => {
            discard(&dir)?;
            Origin::Repaired { fault: fault.to_string() }
        }
        None => Origin::Prepared,
    };
    let staging = Staging::beside(&dir)?;
    build(staging.dir(), data, tokenizer, progress)?;
    let origin = if staging.commit()? { origin } else { Origin::Cached };
    Dataset { origin, is_verified: true, ..Dataset::open(&dir)?.mixed_as(&data.mixture) }
        .packed_as(data.packing)
}

/// Prepares into `dir`, which must not exist; the cache is not used.
///
/// # Errors
/// As [`prepare`], or if `dir` exists.
pub fn prepare_into(
    dir: &Path,
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<Dataset, DataError> {
    let exists = || DataError::Exists { path: dir.to_owned() };
    if dir.exists() {
        return Err(exists());
    }
    let staging = Staging::beside(dir)?;
    build(staging.dir(), data, tokenizer, progress)?;
    if !staging.commit()? {
        return Err(exists());
    }
    Ok(Dataset { origin: Origin::Prepared, is_verified: true, ..Dataset::open(dir)? })
}

fn build(
    dir: &Path,
    data: &DataConfig,
    config: &TokenizerConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), DataError> {
    let source = if data.is_embedded() {
        Source::embedded(dir, data, progress)?
    } else {
        Source::inputs(data, config, progress)?
    };
    let (tokenizer, given_sha256) = make_tokenizer(&source, config, progress)?;
    tokenizer.save(&dir.join(tokenizer::FILE_NAME))?;
    let Tokenized { split, documents, mixture } = match tokens(dir, &source, &tokenizer, progress) {
        Err(DataError::FarContext { .. }) if source.largest_file() <= MAX_WHOLE_BYTES => {
            remove_shards(dir)?;
            tokens(dir, &source.in_whole_files(progress)?, &tokenizer, progress)?
        }
        written => written?,
    };
    let manifest = Manifest {
        schema: SCHEMA.to_owned(),
        sources: sources(dir, &source.census),
        val_fraction: data.val_fraction,
        val_files: (source.val_files > 0).then_some(source.val_files),
        tokenizer: TokenizerManifest {
            kind: config.kind,
            vocab_size: tokenizer.vocab_size(),
            sha256: tokenizer.sha256(),
            switched_off: tokenizer.switched_off().to_vec(),
            given_sha256,
        },
        mixture,
        split,
        documents,
        chat: source.corpus.conversations().map(|how| write_template(dir, &how.template)).transpose()?,
        generated: source.generated,
    };
    manifest.write(dir)
}

/// Writes a chat template into the dataset's folder.
fn write_template(dir: &Path, template: &ChatTemplate) -> Result<ChatManifest, DataError> {
    let path = dir.join(template::FILE_NAME);
    std::fs::write(&path, template.source()).map_err(DataError::write(&path))?;
    Ok(ChatManifest {
        template: template.name().to_owned(),
        sha256: template.sha256(),
        special_tokens: template.special_tokens().clone(),
    })
}

fn tokens(
    dir: &Path,
    source: &Source,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(Progress),
) -> Result<Tokenized, DataError> {
    let mut on_done = in_bytes(Stage::Tokenizing, source.corpus.len_bytes()?, progress);
    tokenize(dir, source, tokenizer, &mut on_done)
}

/// Removes what an attempt to tokenize has written.
fn remove_shards(dir: &Path) -> Result<(), DataError> {
    for entry in std::fs::read_dir(dir).map_err(DataError::read(dir))? {
        let path = entry.map_err(DataError::read(dir))?.path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            std::fs::remove_file(&path).map_err(DataError::write(&path))?;
        }
    }
    Ok(())
}

/// The sources as the manifest lists them: files of the dataset by name, others by path.
fn sources(dir: &Path, census: &Census) -> Vec<SourceManifest> {
    let source = |file: &FileCensus| SourceManifest {
        path: file.path.strip_prefix(dir).unwrap_or(&file.path).to_string_lossy().into_owned(),
        bytes: file.bytes,
        chars: file.chars,
        sha256: file.sha256.clone(),
        packed_bytes: file.packed_bytes,
    };
    census.files.iter().map(source).collect()
}

/// The tokenizer of a configuration, and the hash of its file as it was given if that asks for what belongs to a call.
/// Those made here have a token between documents where there are documents.
fn make_tokenizer(
    source: &Source,
    config: &TokenizerConfig,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Tokenizer, Option<String>), DataError> {
    let specials = special_tokens(source);
    let finished = |tokenizer: Tokenizer| match specials.is_empty() {
        true => tokenizer,
        false => tokenizer.with_special_tokens(&specials),
    };
    let made_here = match (config.kind, &config.file) {
        (TokenizerKind::Bytes, _) => Tokenizer::bytes(),
        (TokenizerKind::Chars, _) => Tokenizer::chars(&source.census.alphabet),
        (TokenizerKind::Bpe, _) => {
            let trained = trained_size(config.vocab_size, &specials)?;
            let words = count_words(source, TOKENIZER_SAMPLE_BYTES, progress)?;
            Tokenizer::bpe(&words, trained)
        }
        (TokenizerKind::File, Some(path)) => {
            let given = Tokenizer::load_at(path)?;
            let given_sha256 = (!given.switched_off().is_empty()).then(|| given.sha256());
            return Ok((given.with_own_json(), given_sha256));
        }
        (TokenizerKind::File, None) => {
            let expected = "the path of a tokenizer.json".to_owned();
            return Err(DataError::Argument { name: "tokenizer.file", expected, got: "nothing".to_owned() });
        }
    };
    Ok((finished(made_here), None))
}

/// The tokens that a tokenizer made for `source` has beside those of the text: what ends a document, and those of a chat
/// template.
fn special_tokens(source: &Source) -> Vec<&str> {
    let mut specials = Vec::new();
    if source.corpus.is_documents() {
        specials.push(tokenizer::END_OF_TEXT);
    }
    let of_template = source.corpus.conversations().map(|how| how.template.tokens());
    specials.extend(of_template.into_iter().flatten().filter(|&token| token != tokenizer::END_OF_TEXT));
    specials
}

/// Entries of the vocabulary that are trained: all, but for special tokens.
fn trained_size(vocab_size: usize, specials: &[&str]) -> Result<usize, DataError> {
    let trained = vocab_size.saturating_sub(specials.len());
    if trained >= N_BYTES {
        return Ok(trained);
    }
    let expected = format!("at least {}, the bytes and {}", N_BYTES + specials.len(), specials.join(", "));
    Err(DataError::Argument { name: "tokenizer.vocab_size", expected, got: vocab_size.to_string() })
}

/// Counts the words of at most about `sample_bytes` of the training split: of larger ones, every block that
/// keeps what is taken in proportion to what has passed.
fn count_words(
    source: &Source,
    sample_bytes: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<WordCounts, DataError> {
    let keep = (sample_bytes as f64 / source.census.block_bytes as f64).min(1.0);
    let counts = Scratch::<WordCounts>::default();
    let (mut passed, mut taken) = (0u64, 0u64);
    pipeline::ordered(
        |feed| {
            source.corpus.read_blocks(false, &mut |done, block| {
                let is_taken = taken as f64 <= passed as f64 * keep;
                passed += block.len_bytes();
                taken += if is_taken { block.len_bytes() } else { 0 };
                !is_taken || feed.give(done, block)
            })
        },
        |block| {
            counts.with(|words| {
                source.for_each_text(&block, &mut |split, passage| {
                    if split == Split::Train {
                        let how = source.corpus.conversations();
                        let parts =
                            how.map_or_else(|| vec![passage.text], |how| how.template.words_of(passage.text));
                        parts.into_iter().for_each(|part| words.add(part));
                    }
                    Ok(())
                })
            })
        },
        |()| Ok(()),
        &mut in_bytes(Stage::TrainingTokenizer, source.corpus.len_bytes()?, progress),
    )?;
    let merged = counts.into_states().into_iter().reduce(|mut all, one| {
        all.merge(one);
        all
    });
    Ok(merged.unwrap_or_default())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::format::Format;
    use crate::source::{CORPUS_FILE_NAME, count};
    use crate::tales;

    fn configs(root: &Path, kind: TokenizerKind, texts: &[&str]) -> (DataConfig, TokenizerConfig) {
        let write = |(i, text): (usize, &&str)| {
            let path = root.join(format!("input-{i}.txt"));
            fs::write(&path, text).unwrap();
            path
        };
        let data = DataConfig {
            input: texts.iter().enumerate().map(write).collect(),
            cache_dir: Some(root.join("cache")),
            embedded_chars: 20_000,
            ..DataConfig::default()
        };
        (data, TokenizerConfig { kind, vocab_size: 300, ..TokenizerConfig::default() })
    }

    fn quietly(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<Dataset, DataError> {
        prepare(data, tokenizer, Verify::FirstUse, &mut |_| {})
    }

    fn text_of(dataset: &Dataset, store: &crate::store::TokenStore) -> String {
        let mut ids = vec![0; store.len() as usize];
        store.read(0, &mut ids).unwrap();
        dataset.tokenizer.decode(&ids).unwrap()
    }

    #[test]
    fn several_inputs_are_one_text_split_as_nanogpt_does() {
        let root = tempfile::tempdir().unwrap();
        let texts = ["First file, ünïcode.\r\n", "Second file: a little longer 🙂\n", "x"];
        let whole: Vec<char> = texts.concat().chars().collect();
        let cut = (whole.len() as f64 * 0.9) as usize;
        for kind in [TokenizerKind::Bytes, TokenizerKind::Chars, TokenizerKind::Bpe] {
            let (data, tokenizer) = configs(root.path(), kind, &texts);
            let mut dataset = quietly(&data, &tokenizer).unwrap();
            let val = dataset.val.as_ref().unwrap();
            assert_eq!(text_of(&dataset, &dataset.train), whole[..cut].iter().collect::<String>());
            assert_eq!(text_of(&dataset, val), whole[cut..].iter().collect::<String>());
            let split = &dataset.manifest.split;
            assert_eq!((split.train.chars, split.train.tokens), (cut as u64, dataset.train.len()));
            assert_eq!(split.val.as_ref().unwrap().chars, (whole.len() - cut) as u64);
            assert_eq!(dataset.manifest.sources.len(), 3);
            assert_eq!(dataset.floor, None);
            dataset.verify(&mut |_| {}).unwrap();
        }
    }

    #[test]
    fn without_a_fraction_there_is_no_validation() {
        let root = tempfile::tempdir().unwrap();
        let (data, tokenizer) = configs(root.path(), TokenizerKind::Bytes, &["some text"]);
        let dataset = quietly(&DataConfig { val_fraction: 0.0, ..data }, &tokenizer).unwrap();
        assert!(dataset.val.is_none() && dataset.manifest.split.val.is_none());
        assert_eq!(dataset.train.len(), 9);
    }

    #[test]
    fn the_cache_is_used_until_something_changes() {
        let root = tempfile::tempdir().unwrap();
        let (data, tokenizer) = configs(root.path(), TokenizerKind::Bpe, &["one text, one text, one text"]);
        let first = quietly(&data, &tokenizer).unwrap();
        assert_eq!(first.origin, Origin::Prepared);
        let again = quietly(&data, &tokenizer).unwrap();
        assert_eq!((again.origin.clone(), again.content_hash()), (Origin::Cached, first.content_hash()));

        let other = TokenizerConfig { vocab_size: 256, ..tokenizer.clone() };
        assert_eq!(quietly(&data, &other).unwrap().origin, Origin::Prepared);
        let half = DataConfig { val_fraction: 0.5, ..data.clone() };
        assert_ne!(quietly(&half, &tokenizer).unwrap().dir, first.dir);
        fs::write(&data.input[0], "another text of another length").unwrap();
        let changed = quietly(&data, &tokenizer).unwrap();
        assert_eq!(changed.origin, Origin::Prepared);
        assert_ne!(changed.content_hash(), first.content_hash());
    }

    #[test]
    fn what_is_damaged_in_the_cache_is_prepared_anew() {
        let root = tempfile::tempdir().unwrap();
        let (data, tokenizer) = configs(root.path(), TokenizerKind::Chars, &["the quick brown fox"]);
        let first = quietly(&data, &tokenizer).unwrap();
        let damages: [(&str, &[u8]); 4] = [
            ("train-00000.bin", b"WATTLTOK"),
            ("val-00000.bin", b"something else"),
            ("dataset.json", b"{\"schema\": \"wattle.dataset/99\"}"),
            ("tokenizer.json", b"{}"),
        ];
        for (file, content) in damages {
            fs::write(first.dir.join(file), content).unwrap();
            let mut repaired = quietly(&data, &tokenizer).unwrap();
            let Origin::Repaired { fault } = &repaired.origin else {
                panic!("{file}: {:?}", repaired.origin)
            };
            assert!(!fault.is_empty());
            assert_eq!(repaired.content_hash(), first.content_hash());
            repaired.verify(&mut |_| {}).unwrap();
        }
        assert_eq!(fs::read_dir(root.path().join("cache/datasets")).unwrap().count(), 1);
    }

    #[test]
    fn preparations_at_the_same_time_agree() {
        let root = tempfile::tempdir().unwrap();
        let (data, tokenizer) = configs(root.path(), TokenizerKind::Bytes, &[]);
        let hashes: Vec<String> = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| quietly(&data, &tokenizer).unwrap())).collect();
            runs.into_iter().map(|run| run.join().unwrap().content_hash()).collect()
        });
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(fs::read_dir(root.path().join("cache/datasets")).unwrap().count(), 1);
    }

    #[test]
    fn the_embedded_corpus_has_a_floor_and_a_text_to_read() {
        let root = tempfile::tempdir().unwrap();
        let (data, tokenizer) = configs(root.path(), TokenizerKind::Bpe, &[]);
        let mut stages = Vec::new();
        let mut progress = |progress: Progress| {
            assert!(progress.done <= progress.total, "{progress:?}");
            stages.push(progress.stage);
        };
        let dataset = prepare(&data, &tokenizer, Verify::FirstUse, &mut progress).unwrap();
        stages.dedup();
        assert_eq!(stages, [Stage::Generating, Stage::Counting, Stage::TrainingTokenizer, Stage::Tokenizing]);
        let floor = dataset.floor.unwrap();
        assert!((0.1..1.0).contains(&floor.bits_per_char()), "{}", floor.bits_per_char());
        let val = dataset.manifest.split.val.as_ref().unwrap();
        // At a loss of the floor, bits a byte are bits a character: the tales are ASCII.
        let at_floor = val.bits_per_byte(floor.nats_per_token()).unwrap();
        assert!((at_floor - floor.bits_per_char()).abs() < 1e-12);
        let text = fs::read_to_string(dataset.dir.join(CORPUS_FILE_NAME)).unwrap();
        assert!(text.ends_with(&text_of(&dataset, dataset.val.as_ref().unwrap())));
        assert_eq!(dataset.manifest.sources[0].path, CORPUS_FILE_NAME);
        let other = DataConfig { embedded_seed: 2, ..data };
        assert_ne!(quietly(&other, &tokenizer).unwrap().content_hash(), dataset.content_hash());
    }

    #[test]
    fn a_prepared_folder_opens_and_is_not_overwritten() {
        let root = tempfile::tempdir().unwrap();
        let (data, tokenizer) = configs(root.path(), TokenizerKind::Bytes, &["some text to keep"]);
        let dir = root.path().join("out/data");
        let made = prepare_into(&dir, &data, &tokenizer, &mut |_| {}).unwrap();
        let again = prepare_into(&dir, &data, &tokenizer, &mut |_| {});
        assert!(matches!(again, Err(DataError::Exists { .. })));
        let by_dir = DataConfig { input: Vec::new(), dir: Some(dir), ..data };
        assert!(by_dir.faults().is_empty());
        let opened = quietly(&by_dir, &tokenizer).unwrap();
        assert_eq!((opened.origin.clone(), opened.content_hash()), (Origin::Opened, made.content_hash()));
        assert_eq!(opened.manifest, made.manifest);
    }

    #[test]
    fn a_tokenizer_file_is_kept_as_it_is_and_names_what_it_lacks() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("mine.json");
        Tokenizer::chars(&['a', 'b']).save(&path).unwrap();
        let (data, _) = configs(root.path(), TokenizerKind::File, &["abba", "abcd"]);
        let tokenizer = TokenizerConfig { kind: TokenizerKind::File, file: Some(path), ..Default::default() };
        let error = quietly(&data, &tokenizer).unwrap_err();
        assert!(matches!(error, DataError::UnknownCharacter { character: 'c', position: 2, .. }), "{error}");
        assert!(error.to_string().contains("input-1.txt: character 'c'"), "{error}");
        let known = DataConfig { input: data.input[..1].to_vec(), ..data };
        let dataset = quietly(&known, &tokenizer).unwrap();
        assert_eq!(dataset.tokenizer.to_json(), Tokenizer::chars(&['a', 'b']).to_json());
    }

    /// The files of a dataset prepared in blocks of `block_bytes` on `n_threads`.
    pub(crate) fn files_of(
        data: &DataConfig,
        config: &TokenizerConfig,
        n_threads: usize,
        block_bytes: usize,
    ) -> Vec<Vec<u8>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        pool.install(|| {
            let mut source = Source::inputs(data, &TokenizerConfig::default(), &mut |_| {}).unwrap();
            source.corpus = source.corpus.with_block_bytes(block_bytes);
            source.census = count(&source.corpus, &mut |_| {}).unwrap();
            let (tokenizer, _) = make_tokenizer(&source, config, &mut |_| {}).unwrap();
            tokenizer.save(&dir.path().join(tokenizer::FILE_NAME)).unwrap();
            let written = tokenize(dir.path(), &source, &tokenizer, &mut |_| {}).unwrap();
            fs::write(dir.path().join("splits"), format!("{written:?}")).unwrap();
        });
        let mut paths: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn shards_do_not_hang_on_threads_or_blocks() {
        let root = tempfile::tempdir().unwrap();
        let tale = |i| tales::tale(1, i).text;
        let text: String = (0..60).map(|i| tale(i) + "\n\n 日本 ü\n").collect();
        let lines: String =
            (0..60).map(|i| serde_json::json!({"text": tale(i)}).to_string() + "\n").collect();
        for kind in [TokenizerKind::Bytes, TokenizerKind::Chars, TokenizerKind::Bpe] {
            let (of_text, config) = configs(root.path(), kind, &[&text, "another file", &text[..999]]);
            let of_documents =
                DataConfig { known_format: Some(Format::Jsonl), ..configs(root.path(), kind, &[]).0 };
            let path = root.path().join("lines");
            fs::write(&path, &lines).unwrap();
            for data in [of_text, DataConfig { input: vec![path], ..of_documents }] {
                let whole = files_of(&data, &config, 1, 1 << 20);
                // Blocks of 2,000 bytes have a line end to stop at; smaller ones may cut a word of a text.
                for (block_bytes, is_same) in [(2000, true), (100, data.known_format.is_some())] {
                    let one = files_of(&data, &config, 1, block_bytes);
                    assert!(!is_same || one == whole, "{kind:?} {block_bytes}");
                    for n_threads in [2, 5] {
                        let many = files_of(&data, &config, n_threads, block_bytes);
                        assert!(many == one, "{kind:?} {n_threads} {block_bytes}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_text_is_sampled_evenly_for_the_vocabulary() {
        let root = tempfile::tempdir().unwrap();
        let text: String = (0..400).map(|i| tales::tale(1, i).text + tales::SEPARATOR).collect();
        let (data, _) = configs(root.path(), TokenizerKind::Bpe, &[&text]);
        let mut source = Source::inputs(&data, &TokenizerConfig::default(), &mut |_| {}).unwrap();
        source.corpus = source.corpus.with_block_bytes(1 << 12);
        source.census = count(&source.corpus, &mut |_| {}).unwrap();
        let all = count_words(&source, u64::MAX, &mut |_| {}).unwrap().total();
        let some = count_words(&source, text.len() as u64 / 10, &mut |_| {}).unwrap().total();
        let share = some as f64 / all as f64;
        assert!((0.08..0.14).contains(&share), "{share}");
    }
}
