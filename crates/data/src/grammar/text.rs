//! Words to text and back.
//!
//! Rendering puts a space between words, none before `, . ! ? ; :` and `'s`, quotation marks by turns as opening
//! and closing, a capital at the beginning of a sentence or a quotation, and "an" where "a" stands before a
//! vowel. Nothing of that is lost to a reader who splits at spaces and punctuation, forgets case, and reads "an"
//! as "a": a mark is a word of its own, a line break is a space, and no word holds a space or a mark. What he
//! gets is the sequence of folded words, which the grammar's check compares by, and which so determines the
//! derivation; the derivation determines the words as written, and these the text.

use super::fold;

/// A piece of a text before it is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'g> {
    /// A word or a punctuation mark.
    Word(&'g str),
    /// The next word has a capital.
    Capital,
    /// A line break.
    Paragraph,
}

pub(super) const QUOTE: &str = "\"";
pub(super) const POSSESSIVE: &str = "'s";

/// Whether `c` is a word of its own.
pub(super) fn is_mark(c: char) -> bool {
    matches!(c, ',' | '.' | '!' | '?' | ';' | ':' | '"')
}

fn ends_sentence(word: &str) -> bool {
    matches!(word, "." | "!" | "?")
}

/// Text of `pieces`.
pub(super) fn render(pieces: &[Piece<'_>]) -> String {
    let mut text = String::new();
    let (mut capital, mut in_quotes, mut glue) = (true, false, true);
    for (i, piece) in pieces.iter().enumerate() {
        let word = match *piece {
            Piece::Word(word) => word,
            Piece::Capital => {
                capital = true;
                continue;
            }
            Piece::Paragraph => {
                text.push('\n');
                (capital, glue) = (true, true);
                continue;
            }
        };
        let is_closing = word == QUOTE && in_quotes;
        let is_attached = is_closing || word == POSSESSIVE || (word != QUOTE && word.starts_with(is_mark));
        if !is_attached && !glue {
            text.push(' ');
        }
        glue = false;
        if word == QUOTE {
            text.push('"');
            in_quotes = !in_quotes;
            // After `."` comes a new sentence; after `!"` and `?"` the speaker may be named.
            let after_stop = text.ends_with(".\"");
            (capital, glue) = (in_quotes || after_stop, in_quotes);
        } else if is_attached {
            text.push_str(word);
            capital = ends_sentence(word);
        } else {
            push_word(&mut text, with_article(word, &pieces[i + 1..]), capital);
            capital = false;
        }
    }
    text
}

fn push_word(text: &mut String, word: &str, capital: bool) {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) if capital => text.extend(first.to_uppercase()),
        Some(first) => text.push(first),
        None => {}
    }
    text.push_str(chars.as_str());
}

/// "an" for an "a" before a vowel's sound.
fn with_article<'g>(word: &'g str, after: &[Piece<'g>]) -> &'g str {
    let next = after.iter().find_map(|piece| match piece {
        Piece::Word(next) => Some(*next),
        _ => None,
    });
    if word == "a" && next.is_some_and(sounds_like_vowel) { "an" } else { word }
}

fn sounds_like_vowel(word: &str) -> bool {
    const SILENT_H: [&str; 4] = ["heir", "honest", "honour", "hour"];
    const LIKE_YOU_OR_WON: [&str; 9] =
        ["eu", "ewe", "once", "one", "ukulele", "unicorn", "uniform", "use", "usual"];
    let lower = word.to_lowercase();
    let begins = |list: &[&str]| list.iter().any(|prefix| lower.starts_with(prefix));
    begins(&SILENT_H) || (lower.starts_with(['a', 'e', 'i', 'o', 'u']) && !begins(&LIKE_YOU_OR_WON))
}

/// The words of a text or of a grammar's source, marks and possessives apart, as written.
pub(super) fn split_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for chunk in text.split_whitespace() {
        let mut rest = chunk;
        while let Some(first) = rest.chars().next() {
            let end =
                if is_mark(first) { first.len_utf8() } else { rest.find(is_mark).unwrap_or(rest.len()) };
            let (word, after) = rest.split_at(end);
            match word.strip_suffix(POSSESSIVE) {
                Some(owner) if !owner.is_empty() => words.extend([owner, POSSESSIVE]),
                _ => words.push(word),
            }
            rest = after;
        }
    }
    words
}

/// The words of a text as the grammar compares them.
pub(super) fn folded_words(text: &str) -> Vec<String> {
    split_words(text).into_iter().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str) -> String {
        let piece = |word| match word {
            "^" => Piece::Capital,
            "//" => Piece::Paragraph,
            word => Piece::Word(word),
        };
        render(&split_words(source).into_iter().map(piece).collect::<Vec<_>>())
    }

    #[test]
    fn sentences_quotations_and_paragraphs() {
        assert_eq!(
            rendered(
                "the owl 's nest was high , too high . \" where are you ? \" asked Mara . // \" here . \" a star fell ."
            ),
            "The owl's nest was high, too high. \"Where are you?\" asked Mara.\n\"Here.\" A star fell."
        );
        assert_eq!(rendered("\" stop ! \" ^ a bell rang ."), "\"Stop!\" A bell rang.");
    }

    #[test]
    fn the_article_hears_the_next_word() {
        assert_eq!(
            rendered("a old owl saw a unicorn , a unusual egg , a honest man and a one-eyed cat"),
            "An old owl saw a unicorn, an unusual egg, an honest man and a one-eyed cat"
        );
    }

    #[test]
    fn a_reader_gets_the_words_back() {
        let source = "a old man 's boat , \" it is a heron ! \" he said . // the end .";
        let words: Vec<String> =
            split_words(source).into_iter().filter(|word| *word != "//").map(fold).collect();
        assert_eq!(folded_words(&rendered(source)), words);
    }
}
