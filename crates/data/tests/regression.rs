//! What was prepared before must stay what it was: caches and resumed runs hang on it.

#![allow(clippy::unwrap_used)]

use wattle_data::{DataConfig, TokenizerConfig, TokenizerKind, Verify, prepare};

/// Content hashes that commit ed84832 gives, by tokenizer: of the texts below, and of the embedded tales.
const HASHES: [(TokenizerKind, &str, &str); 3] = [
    (
        TokenizerKind::Bytes,
        "945348d7051d4c516c77f1e14fbae995ffa4040cbacfae7e9ba02abcabd35de1",
        "8e22650c2b3e3731e12253db5a6c80a4ae6cd1e2961eb22db5bcf1bfbb1317cb",
    ),
    (
        TokenizerKind::Chars,
        "910d82e5d8a58c8e8a7b5c3ecf33ed7e262533203bfafdc72c1292ddd0de0c4a",
        "4ed4b7341addccaf41f00887c870e46165e9e939a9e27fc82e18129faab6b802",
    ),
    (
        TokenizerKind::Bpe,
        "29549f5cd65b9e58f402f408b08a637f92491f020be8eedb5a842e1fcfd86b7e",
        "b2261f7381c6aabeaa9812bf5c273865e499d4efd48864cc523aa7349ae9e028",
    ),
];

/// Words, white space, other scripts and what looks like a special token, in several files.
const TEXTS: [&str; 2] = [
    "Plain words and  more,\r\n\r\nit's 1234 <|endoftext|> \u{a0}日本語 ünïcödé e\u{301} 🙂👩\u{200d}👧\n",
    "the second text: the words, the words, the words; and so on, and so on\n\n\n  \n",
];

#[test]
fn plain_text_gives_the_tokens_that_it_gave_before() {
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
        prepare(data, &tokenizer, Verify::FirstUse, &mut |_| {}).unwrap().content_hash()
    };
    for (kind, of_text, of_tales) in HASHES {
        assert_eq!(
            (hash(&text, kind), hash(&embedded, kind)),
            (of_text.to_owned(), of_tales.to_owned()),
            "{kind:?}"
        );
    }
}
