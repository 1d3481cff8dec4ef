//! How much of a text its tokens give back.
//!
//! Tokens are decoded and held against the text. Where that is not the text to the letter, the two are compared
//! stretch by stretch between borders that they share by the tokens' offsets, and the characters are counted that
//! do not come back: those that were dropped, changed (a capital that became small, a line end that became a
//! space), or covered by a token for the unknown. What decoding adds, such as a space before a full stop, is no
//! loss; neither are spaces at the beginning of a stretch, of which many decoders take one away.

use std::ops::Range;

use tokenizers::{Result, Tokenizer as Library};

/// Tokens of a stretch, at least, if there is no gap earlier.
const STRETCH_TOKENS: usize = 64;

/// Bytes between two tokens from which on they are compared apart.
const GAP_BYTES: usize = 16;

/// How far a character of the text is looked for in what came back, and the other way round.
const REACH: [usize; 2] = [16, 24];

/// Characters that must be the same for two places to be.
const AGREEMENT: usize = 2;

/// A token and the bytes of the text that it stands for.
type Token = (u32, Range<usize>);

/// The number of characters of `window[inside]` that `tokens`, those of all of `window`, do not give back.
pub(crate) fn lost_chars(
    library: &Library,
    window: &str,
    tokens: &[Token],
    unknown: Option<u32>,
    inside: Range<usize>,
) -> Result<u64> {
    let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
    if !unknown.is_some_and(|unknown| ids.contains(&unknown)) && library.decode(&ids, false)? == window {
        return Ok(0);
    }
    let first = tokens.partition_point(|(_, at)| at.start < inside.start);
    let mut rest = &tokens[first..tokens.partition_point(|(_, at)| at.start < inside.end).max(first)];
    // A token may reach over a border; then it is of the passage that it begins in.
    let reached = tokens[..first].iter().map(|(_, at)| at.end).max().unwrap_or(0);
    let (mut lost, mut at) = (0, inside.start.max(reached));
    while let Some((_, first)) = rest.first() {
        lost += uncovered(window, at..first.start);
        let (stretch, after) = rest.split_at(stretch_len(rest, unknown));
        let end = stretch.iter().map(|(_, at)| at.end).max().unwrap_or(at);
        let text = window.get(first.start..end).unwrap_or_default();
        lost += match unknown == Some(stretch[0].0) {
            true => text.chars().count() as u64,
            false => {
                let ids: Vec<u32> = stretch.iter().map(|(id, _)| *id).collect();
                not_found(text, &library.decode(&ids, false)?)
            }
        };
        (rest, at) = (after, at.max(end));
    }
    Ok(lost + uncovered(window, at..inside.end))
}

/// How many of the first `tokens` are compared together: one for the unknown by itself, else up to a border that
/// text and tokens share.
fn stretch_len(tokens: &[Token], unknown: Option<u32>) -> usize {
    let is_unknown = |token: &Token| unknown == Some(token.0);
    if is_unknown(&tokens[0]) {
        return 1;
    }
    let is_border = |i: usize| {
        let (before, next) = (tokens[i - 1].1.end, &tokens[i]);
        let is_touching = next.1.start == before;
        is_unknown(next) || next.1.start > before + GAP_BYTES || (i >= STRETCH_TOKENS && is_touching)
    };
    (1..tokens.len()).find(|&i| is_border(i)).unwrap_or(tokens.len())
}

/// Characters of a gap between tokens, not counting the spaces around a word that stands alone.
fn uncovered(window: &str, gap: Range<usize>) -> u64 {
    let text = window.get(gap).unwrap_or_default();
    let count = text.chars().count() as u64;
    if text == " " { 0 } else { count }
}

/// The number of characters of `text` that are not in `back` at their place.
fn not_found(text: &str, back: &str) -> u64 {
    let [text, back] = [text, back].map(|text| text.trim_start_matches(' ').chars().collect::<Vec<char>>());
    let (mut i, mut j, mut lost) = (0, 0, 0);
    while i < text.len() {
        if text.get(i) == back.get(j) {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let (skipped, added) = next_agreement(&text[i..], &back[j..]).unwrap_or((1, 1));
        lost += match skipped == added {
            // Character for character, as capitals that became small.
            true => (0..skipped).filter(|k| text.get(i + k) != back.get(j + k)).count(),
            false => skipped,
        };
        (i, j) = (i + skipped, (j + added).min(back.len()));
    }
    lost as u64
}

/// How many characters to skip in both, which differ at once, until they agree.
fn next_agreement(text: &[char], back: &[char]) -> Option<(usize, usize)> {
    let [far_text, far_back] = REACH;
    let agree = |a: usize, b: usize| {
        let (text, back) = (text.get(a..).unwrap_or_default(), back.get(b..).unwrap_or_default());
        let n = AGREEMENT.min(text.len()).min(back.len());
        match n {
            0 => text.is_empty() && back.is_empty() && (a == 0 || b == 0),
            _ => text[..n] == back[..n],
        }
    };
    (1..=far_text + far_back)
        .flat_map(|sum| (0..=sum.min(far_text)).map(move |a| (a, sum - a)))
        .find(|&(a, b)| b <= far_back && agree(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_back_is_counted_and_what_is_added_is_not() {
        for (text, back, lost) in [
            ("Hello, World.", "hello, world.", 2),
            ("a\nb", "a b", 1),
            ("Hello, world.", "Hello , world .", 0),
            ("caf\u{e9} au lait", "cafe au lait", 1),
            ("naive", "ave", 3),
            ("x \u{3392} y", "x MHz y", 1),
            (" leading", "leading", 0),
            ("  two", " two", 0),
            ("all of it", "", 9),
            ("", "something", 0),
            ("SHOUTED WORDS", "shouted words", 12),
            ("ZZ\tTAB\nThe end", "zz\ttab\nthe end", 6),
            ("end\n", "end", 1),
        ] {
            assert_eq!(not_found(text, back), lost, "{text:?} {back:?}");
        }
    }
}
