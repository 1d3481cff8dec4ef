//! How much a document reads like prose: what filters by quality measure.
//!
//! # References
//! Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher" (2021), appendix A.1.1.

use std::collections::HashSet;

/// The share of words that have a letter; words stand between white space. 0 without a word.
pub(crate) fn alphabetic_words(text: &str) -> f64 {
    let (mut n_words, mut n_alphabetic) = (0u64, 0u64);
    for word in text.split_whitespace() {
        n_words += 1;
        n_alphabetic += u64::from(word.chars().any(char::is_alphabetic));
    }
    n_alphabetic as f64 / n_words.max(1) as f64
}

/// The mean length of a word in characters. 0 without a word.
pub(crate) fn word_length(text: &str) -> f64 {
    let (mut n_words, mut n_chars) = (0u64, 0u64);
    for word in text.split_whitespace() {
        n_words += 1;
        n_chars += word.chars().count() as u64;
    }
    n_chars as f64 / n_words.max(1) as f64
}

/// The share of lines that occurred before in the document; blank lines are not counted. 0 without a line.
pub(crate) fn repeated_lines(text: &str) -> f64 {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (mut n_lines, mut seen) = (0u64, HashSet::new());
    for line in lines {
        n_lines += 1;
        seen.insert(line);
    }
    (n_lines - seen.len() as u64) as f64 / n_lines.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_those_that_can_be_counted_by_hand() {
        let text = "The year 1999 :-)\n\nwas été 20x\n  The year 1999 :-)  \n";
        assert_eq!(alphabetic_words(text), 7.0 / 11.0);
        assert_eq!(word_length(text), (14.0 + 9.0 + 14.0) / 11.0);
        assert_eq!(repeated_lines(text), 1.0 / 3.0);
        for measure in [alphabetic_words, word_length, repeated_lines] {
            assert_eq!(measure(" \n"), 0.0);
        }
    }
}
