//! Training of byte-level byte-pair encodings.
//!
//! The `tokenizers` library trains too, but its result hangs on the order of a hash map that is seeded anew in
//! every process: where two merges spell the same token, a pair stands twice in its queue, and ties between the
//! two fall either way. Runs must be repeatable, so the merges are learnt here, with a total order on pairs:
//! the most frequent first, of equals the one with the smaller ids. Encoding is the library's.
//!
//! # References
//! Sennrich, Haddow and Birch, *Neural Machine Translation of Rare Words with Subword Units*, ACL 2016,
//! algorithm 1; over bytes as in Radford et al., *Language Models are Unsupervised Multitask Learners*, 2019,
//! section 2.2.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use ahash::AHashMap;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use crate::config::N_BYTES;
use crate::tokenizer_file::MAX_TOKEN_BYTES;
use crate::words::words;

/// A pair is merged if it stands at least this often: what was seen once teaches nothing.
const MIN_COUNT: i64 = 2;

/// Two adjacent tokens.
type Pair = (u32, u32);

/// How often each piece of GPT-2's pre-tokenizer stands in a text.
#[derive(Debug, Default)]
pub struct WordCounts {
    counts: AHashMap<Box<str>, u64>,
}

impl WordCounts {
    /// No text yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of pieces counted.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Counts the pieces of `text`.
    pub fn add(&mut self, text: &str) {
        for word in words(text) {
            match self.counts.get_mut(word) {
                Some(count) => *count += 1,
                None => drop(self.counts.insert(word.into(), 1)),
            }
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: Self) {
        for (word, count) in other.counts {
            *self.counts.entry(word).or_default() += count;
        }
    }
}

/// GPT-2's pre-tokenizer: words with their leading space, no space added.
pub(crate) fn pre_tokenizer() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

/// The printable character that stands for each byte in a byte-level vocabulary.
///
/// # References
/// `bytes_to_unicode` in the code of GPT-2: bytes that are visible Latin-1 characters stand for themselves, the
/// others follow from U+0100 in order.
pub fn byte_chars() -> [char; N_BYTES] {
    let is_visible = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_visible(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).expect("below U+0200, where every number is a character")
    })
}

/// A trained encoding: its tokens by id, and its merges from the first to the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merges {
    /// The vocabulary in the printable byte alphabet; the id of a byte is the byte.
    pub tokens: Vec<String>,
    /// What to merge, in order.
    pub merges: Vec<(String, String)>,
}

/// Learns merges until there are `vocab_size` tokens, or no pair stands twice.
pub fn train(words: &WordCounts, vocab_size: usize) -> Merges {
    let mut trainer = Trainer::new(words);
    while trainer.tokens.len() < vocab_size {
        let Some(pair) = trainer.most_frequent() else { break };
        trainer.merge(pair);
    }
    Merges { tokens: trainer.tokens, merges: trainer.merges }
}

/// A distinct word as the tokens merged so far, and how often it stands in the text.
struct Word {
    tokens: Vec<u32>,
    count: i64,
}

/// How often a pair stands in the text, and the words that hold it (or held it once).
#[derive(Default)]
struct PairCount {
    count: i64,
    words: Vec<u32>,
}

struct Trainer {
    words: Vec<Word>,
    pairs: HashMap<Pair, PairCount>,
    /// Candidates; an entry whose count is no longer that of its pair is stale.
    queue: BinaryHeap<(i64, Reverse<Pair>)>,
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    merged: BTreeSet<Pair>,
}

impl Trainer {
    fn new(counts: &WordCounts) -> Self {
        let tokens: Vec<String> = byte_chars().iter().map(char::to_string).collect();
        let ids: HashMap<String, u32> = (0..).zip(&tokens).map(|(id, token)| (token.clone(), id)).collect();
        let mut sorted: Vec<(&str, u64)> =
            counts.counts.iter().map(|(word, &count)| (&**word, count)).collect();
        sorted.sort_unstable();
        let to_word = |(word, count): (&str, u64)| Word {
            tokens: word.bytes().map(u32::from).collect(),
            count: i64::try_from(count).expect("no text has 2^63 words"),
        };
        let words: Vec<Word> = sorted.into_iter().map(to_word).collect();
        let mut trainer = Self {
            words,
            pairs: HashMap::new(),
            queue: BinaryHeap::new(),
            tokens,
            ids,
            merges: Vec::new(),
            merged: BTreeSet::new(),
        };
        let all: Vec<u32> = (0..trainer.words.len() as u32).collect();
        let changed: BTreeSet<Pair> = all.into_iter().flat_map(|word| trainer.count(word, 1)).collect();
        trainer.enqueue(changed);
        trainer
    }

    /// The pair that stands most often, taken from the queue.
    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            // A character repeated a thousand times would become one entry, longer than a tokenizer file may have.
            let len_bytes = self.tokens[pair.0 as usize].len() + self.tokens[pair.1 as usize].len();
            let is_current = self.pairs.get(&pair).is_some_and(|now| now.count == count);
            if is_current && len_bytes <= MAX_TOKEN_BYTES {
                return (count >= MIN_COUNT).then_some(pair);
            }
        }
        None
    }

    /// Replaces `pair` by one token in every word. Two merges may spell the same token: they share its id.
    fn merge(&mut self, pair: Pair) {
        let id = self.token_of(pair);
        let mut holders =
            self.pairs.get_mut(&pair).map(|now| std::mem::take(&mut now.words)).unwrap_or_default();
        holders.sort_unstable();
        holders.dedup();
        let mut changed = BTreeSet::new();
        for word in holders {
            changed.extend(self.count(word, -1));
            replace(&mut self.words[word as usize].tokens, pair, id);
            changed.extend(self.count(word, 1));
        }
        self.enqueue(changed);
    }

    fn token_of(&mut self, pair: Pair) -> u32 {
        let (left, right) = (&self.tokens[pair.0 as usize], &self.tokens[pair.1 as usize]);
        let token = format!("{left}{right}");
        if self.merged.insert(pair) {
            self.merges.push((left.clone(), right.clone()));
        }
        let next = self.tokens.len() as u32;
        let id = *self.ids.entry(token.clone()).or_insert(next);
        if id == next {
            self.tokens.push(token);
        }
        id
    }

    /// Adds the pairs of a word to the counts (`sign` 1) or takes them out (-1); returns them.
    fn count(&mut self, word: u32, sign: i64) -> Vec<Pair> {
        let Word { tokens, count } = &self.words[word as usize];
        let pairs: Vec<Pair> = tokens.windows(2).map(|pair| (pair[0], pair[1])).collect();
        for &pair in &pairs {
            let entry = self.pairs.entry(pair).or_default();
            entry.count += sign * count;
            if sign > 0 && entry.words.last() != Some(&word) {
                entry.words.push(word);
            }
        }
        pairs
    }

    fn enqueue(&mut self, pairs: BTreeSet<Pair>) {
        for pair in pairs {
            match self.pairs.get(&pair) {
                Some(now) if now.count >= MIN_COUNT => self.queue.push((now.count, Reverse(pair))),
                _ => {}
            }
        }
    }
}

/// Replaces `pair` by `id`, from left to right.
fn replace(tokens: &mut Vec<u32>, pair: Pair, id: u32) {
    let (mut from, mut to) = (0, 0);
    while from < tokens.len() {
        let is_pair = from + 1 < tokens.len() && (tokens[from], tokens[from + 1]) == pair;
        tokens[to] = if is_pair { id } else { tokens[from] };
        from += 1 + usize::from(is_pair);
        to += 1;
    }
    tokens.truncate(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> WordCounts {
        let mut words = WordCounts::new();
        words.add(text);
        words
    }

    #[test]
    fn bytes_have_the_characters_of_gpt2() {
        let chars = byte_chars();
        assert_eq!((chars[b'a' as usize], chars[b' ' as usize], chars[b'\n' as usize]), ('a', 'Ġ', 'Ċ'));
        let ours: BTreeSet<char> = chars.into_iter().collect();
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
    }

    #[test]
    fn merges_follow_frequency_and_then_ids() {
        // "ab" stands four times and "cd" three times; then "ab" + "x" and "cd" + "y" stand twice each.
        let trained = train(&counts("abx\nabx\nab\nab\ncdy\ncdy\ncd\n"), 260);
        let merge = |i: usize| (trained.merges[i].0.as_str(), trained.merges[i].1.as_str());
        assert_eq!(
            [merge(0), merge(1), merge(2), merge(3)],
            [("a", "b"), ("c", "d"), ("ab", "x"), ("cd", "y")]
        );
        assert_eq!(trained.tokens.len(), 260);
        assert_eq!(trained.tokens[256..], ["ab", "cd", "abx", "cdy"]);
    }

    #[test]
    fn training_ends_where_no_pair_stands_twice() {
        let trained = train(&counts("aaaa\naaaa\nb\n"), 1000);
        assert_eq!(trained.tokens[256..], ["aa", "aaaa"]);
    }

    #[test]
    fn no_entry_is_longer_than_a_file_may_have() {
        let trained = train(&counts(&"7".repeat(100_000)), 1000);
        assert!(trained.tokens.iter().all(|token| token.len() <= MAX_TOKEN_BYTES));
        assert!(trained.tokens.iter().any(|token| token.len() > MAX_TOKEN_BYTES / 4), "it learns long ones");
    }

    #[test]
    fn counts_stay_those_of_the_words() {
        let text = "she sells sea shells by the sea shore, the shells she sells are sea shells for sure\n";
        let mut trainer = Trainer::new(&counts(text));
        while let Some(pair) = trainer.most_frequent() {
            trainer.merge(pair);
            let mut fresh: HashMap<Pair, i64> = HashMap::new();
            for word in &trainer.words {
                for pair in word.tokens.windows(2) {
                    *fresh.entry((pair[0], pair[1])).or_default() += word.count;
                }
            }
            for (pair, now) in &trainer.pairs {
                assert_eq!(now.count, fresh.get(pair).copied().unwrap_or(0), "{pair:?}");
            }
        }
        assert!(trainer.tokens.len() > N_BYTES + 5);
    }
}
