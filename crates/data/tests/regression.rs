//! What was prepared before must stay what it was: caches and resumed runs hang on it.

#![allow(clippy::unwrap_used)]

use wattle_data::{DataConfig, TokenizerConfig, TokenizerKind, prepare};

/// Content hashes of the first release, by tokenizer and text.
const HASHES: [(TokenizerKind, &str, &str); 3] = [
    (TokenizerKind::Bytes, "", ""),
    (TokenizerKind::Chars, "", ""),
    (TokenizerKind::Bpe, "", ""),
];

/// Words, white space, other scripts and what looks like a special token, in several files.
const TEXTS: [&str; 2] = [
    "Plain words and  more,\r\n\r\nit's 1234 <|endoftext|> \u{a0}日本語 ünïcödé e\u{301} 🙂👩\u{200d}👧\n",
    "the second text: the words, the words, the words; and so on, and so on\n\n\n  \n",
];

#[test]
fn plain_text_gives_the_tokens_of_the_first_release() {
    let root = tempfile::tempdir().unwrap();
    let write = |(i, text): (usize, &&str)| {
        let path = root.path().join(format!("{i}.txt"));
        std::fs::write(&path, text.repeat(9)).unwrap();
        path
    };
    let cache_dir = Some(root.path().join("cache"));
    let embedded = DataConfig { embedded_chars: 20_000, cache_dir, ..DataConfig::default() };
    let text = DataConfig { input: TEXTS.iter().enumerate().map(write).collect(), ..embedded.clone() };
    let hash = |data: &DataConfig, kind| {
        let tokenizer = TokenizerConfig { kind, vocab_size: 400, ..TokenizerConfig::default() };
        prepare(data, &tokenizer, &mut |_| {}).unwrap().content_hash()
    };
    for (kind, of_text, of_tales) in HASHES {
        assert_eq!((hash(&text, kind), hash(&embedded, kind)), (of_text.to_owned(), of_tales.to_owned()), "{kind:?}");
    }
}
