//! GPT-2's pre-tokenizer: text cut into words, by hand.
//!
//! The pattern is `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`. A regular
//! expression engine with look-ahead spends most of the time of an encoding on it; read as a scanner it is a few
//! lines. What is a letter, a number or a space is asked of the tables that the `tokenizers` library matches
//! with, and tests hold the words against the library's.
//!
//! # References
//! The code of GPT-2, `encoder.py`, and Radford et al., *Language Models are Unsupervised Multitask Learners*,
//! 2019, section 2.2.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// What the pattern knows of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Other,
    Letter,
    Number,
    Space,
}

/// The kind of every character, by its number.
static KINDS: LazyLock<Box<[Kind]>> = LazyLock::new(|| {
    let mut kinds = vec![Kind::Other; char::MAX as usize + 1].into_boxed_slice();
    for (class, kind) in [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number), (r"\s", Kind::Space)] {
        for (first, last) in ranges(class) {
            kinds[first as usize..=last as usize].fill(kind);
        }
    }
    kinds
});

/// The ranges of characters of a class.
fn ranges(class: &str) -> Vec<(char, char)> {
    let parsed = regex_syntax::parse(class).expect("a class that regex-syntax was built with");
    let HirKind::Class(Class::Unicode(class)) = parsed.into_kind() else { return Vec::new() };
    class.iter().map(|range| (range.start(), range.end())).collect()
}

/// The words of `text`, in order; one after another they are the text.
pub(crate) fn words(text: &str) -> Words<'_> {
    Words { rest: text, kinds: &KINDS }
}

/// The last place in `text` before which a block may end without changing its tokens: a line end after a
/// visible character.
pub(crate) fn last_soft_cut(text: &str) -> Option<usize> {
    let is_cut = |at: usize| text[..at].chars().next_back().is_some_and(|before| !before.is_whitespace());
    text.rmatch_indices('\n').map(|(at, _)| at).find(|&at| is_cut(at))
}

/// An iterator over words, see [`words`].
#[derive(Clone)]
pub(crate) struct Words<'a> {
    rest: &'a str,
    kinds: &'static [Kind],
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = *self.rest.as_bytes().first()?;
        let len = match contraction(self.rest) {
            Some(len) => len,
            None => {
                let start = usize::from(first == b' ');
                match self.kind_at(start) {
                    Some((kind, _)) if kind != Kind::Space => self.run(start, kind),
                    _ => self.space(),
                }
            }
        };
        let (word, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(word)
    }
}

impl Words<'_> {
    /// The kind of the character at byte `at`, and its length.
    #[inline]
    fn kind_at(&self, at: usize) -> Option<(Kind, usize)> {
        let byte = *self.rest.as_bytes().get(at)?;
        if byte.is_ascii() {
            return Some((self.kinds[byte as usize], 1));
        }
        let c = self.rest[at..].chars().next()?;
        Some((self.kinds[c as usize], c.len_utf8()))
    }

    /// Where the characters of `kind` from `start` on end.
    #[inline]
    fn run(&self, start: usize, kind: Kind) -> usize {
        let mut end = start;
        while let Some((_, len)) = self.kind_at(end).filter(|&(other, _)| other == kind) {
            end += len;
        }
        end
    }

    /// Bytes of the white space at the beginning; its last character is left to a word that follows, unless it
    /// is the only one.
    fn space(&self) -> usize {
        let (mut end, mut last) = (0, 0);
        while let Some((_, len)) = self.kind_at(end).filter(|&(kind, _)| kind == Kind::Space) {
            end += len;
            last = len;
        }
        if end == self.rest.len() || end == last { end } else { end - last }
    }
}

/// Bytes of an English contraction at the beginning.
fn contraction(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b'\'', b's' | b't' | b'm' | b'd', ..] => Some(2),
        [b'\'', b'r' | b'v', b'e', ..] | [b'\'', b'l', b'l', ..] => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    /// The library's words, by their bytes in the text.
    fn of_library(text: &str) -> Vec<&str> {
        let mut pieces = PreTokenizedString::from(text);
        ByteLevel::new(false, false, true).pre_tokenize(&mut pieces).unwrap();
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| &text[start..end]).collect()
    }

    fn assert_same(text: &str) {
        assert_eq!(words(text).collect::<Vec<_>>(), of_library(text), "{text:?}");
    }

    #[test]
    fn words_are_those_of_the_library() {
        for text in [
            "",
            " ",
            "\n",
            "it's we'll they've I'd 'sir' can't 'tis ''s '",
            "  two  spaces\u{a0}\u{a0}and\u{2003}more\t\t",
            "12,345.67 ½ Ⅷ ² x2y\r\n\r\n  end \n \n",
            "日本語 e\u{301}\u{301} 🙂👩\u{200d}👧 \u{feff}bom \0\u{7f}\u{85}x",
        ] {
            assert_same(text);
        }
    }

    #[test]
    fn every_character_is_of_the_librarys_kind() {
        // Between letters, numbers and spaces, a character's words tell its kind.
        for c in ('\0'..=char::MAX).filter(|c| !('\u{ac00}'..'\u{d000}').contains(c)) {
            let text = format!("a{c}a1{c}1!{c}! {c} ");
            if KINDS[c as usize] != Kind::Other || c.is_alphanumeric() || c.is_whitespace() {
                assert_same(&text);
            }
        }
    }

    #[test]
    fn blocks_end_before_line_ends_that_follow_a_visible_character() {
        assert_eq!(last_soft_cut("ab\ncd\n\n ef"), Some(5));
        assert_eq!(last_soft_cut("ab \n"), None);
        assert_eq!(last_soft_cut("\nab"), None);
    }

    proptest! {
        #[test]
        fn any_text_has_the_words_of_the_library(text in "[ \\n\\t'a-zé日0-9½!.\u{a0}\u{301}🙂]{0,40}|\\PC{0,40}|(\\s|.){0,40}") {
            assert_same(&text);
        }
    }
}
