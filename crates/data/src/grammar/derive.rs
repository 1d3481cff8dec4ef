//! Reading texts: the derivation of a text, recovered from its words.

use super::generate::{choice_bits, row_choices};
use super::text::{Piece, folded_words, render};
use super::{Grammar, Item, Memory, fold};

/// The one derivation of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Derivation {
    /// The sum of −log₂ p over its choices.
    pub bits: f64,
    /// Number of choices between two possibilities or more.
    pub choices: usize,
}

/// Why a text is not of the grammar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("word {position}: expected {expected}, got {got:?}")]
pub struct DeriveError {
    /// Place of the word, from 0.
    pub position: usize,
    /// What could stand there.
    pub expected: String,
    /// What stands there; empty at the end.
    pub got: String,
}

impl Grammar {
    /// Recovers the derivation of `text`.
    ///
    /// # Errors
    /// If the grammar does not write this text, to the letter.
    pub fn derive(&self, text: &str) -> Result<Derivation, DeriveError> {
        let words = folded_words(text);
        let mut reader = Reader {
            grammar: self,
            memory: Memory::new(self),
            words: &words,
            position: 0,
            derivation: Derivation { bits: 0.0, choices: 0 },
            pieces: Vec::new(),
        };
        reader.read_rule(self.start)?;
        if reader.position < words.len() {
            return Err(reader.fault("the end"));
        }
        if render(&reader.pieces) != text {
            return Err(reader.fault("other capitals, spaces or articles"));
        }
        Ok(reader.derivation)
    }
}

struct Reader<'g, 't> {
    grammar: &'g Grammar,
    memory: Memory,
    words: &'t [String],
    position: usize,
    derivation: Derivation,
    /// The text as the grammar would write it.
    pieces: Vec<Piece<'g>>,
}

impl<'g> Reader<'g, '_> {
    fn read_rule(&mut self, rule_idx: usize) -> Result<(), DeriveError> {
        let rule = &self.grammar.rules[rule_idx];
        let prediction = &self.grammar.prediction[rule_idx];
        let by_word = self.words.get(self.position).and_then(|word| prediction.by_word.get(word));
        let Some(chosen) = by_word.copied().or(prediction.empty) else {
            return Err(self.fault(&format!("a beginning of {}", rule.name)));
        };
        let alternative = &rule.alternatives[chosen];
        self.count(alternative.weight, rule.total_weight());
        alternative.items.iter().try_for_each(|item| self.read_item(item))
    }

    fn read_item(&mut self, item: &'g Item) -> Result<(), DeriveError> {
        match item {
            Item::Word(word) => self.read_words(std::slice::from_ref(word)),
            Item::Rule(rule) => self.read_rule(*rule),
            Item::Choose { table, column, bind, except } => {
                let row = self.find_row(*table, *column, *except)?;
                self.count(1, row_choices(self.grammar, *table, *except));
                self.memory.bind(*bind, row);
                self.read_words(&self.grammar.tables[*table].rows[row].cells[*column])
            }
            Item::Recall { variable, column } => {
                self.read_words(self.memory.cell(self.grammar, *variable, *column))
            }
            Item::Agree { variable, column, one, many } => {
                self.read_words(if self.memory.is_one(self.grammar, *variable, *column) { one } else { many })
            }
            Item::Capital => {
                self.pieces.push(Piece::Capital);
                Ok(())
            }
            Item::Paragraph => {
                self.pieces.push(Piece::Paragraph);
                Ok(())
            }
        }
    }

    /// The row whose cell begins with the next word.
    fn find_row(&self, table: usize, column: usize, except: Option<usize>) -> Result<usize, DeriveError> {
        let expected = &self.grammar.tables[table];
        let next = self.words.get(self.position);
        let fits = |cell: &[String]| next.is_some_and(|word| *word == fold(&cell[0]));
        let row = expected.rows.iter().position(|row| fits(&row.cells[column]));
        row.filter(|&row| except.is_none_or(|other| self.memory.row(other) != row))
            .ok_or_else(|| self.fault(&format!("a row of {}", expected.name)))
    }

    fn read_words(&mut self, words: &'g [String]) -> Result<(), DeriveError> {
        for word in words {
            if self.words.get(self.position) != Some(&fold(word)) {
                return Err(self.fault(&format!("{word:?}")));
            }
            self.pieces.push(Piece::Word(word));
            self.position += 1;
        }
        Ok(())
    }

    fn count(&mut self, weight: u32, total: u32) {
        self.derivation.bits += choice_bits(weight, total);
        self.derivation.choices += usize::from(weight < total);
    }

    fn fault(&self, expected: &str) -> DeriveError {
        let got = self.words.get(self.position).cloned().unwrap_or_default();
        DeriveError { position: self.position, expected: expected.to_owned(), got }
    }
}

#[cfg(test)]
mod tests {
    use crate::tales;

    #[test]
    fn the_derivation_of_every_tale_is_recovered_with_the_same_bits() {
        for seed in [1, 7, u64::MAX] {
            for tale_idx in 0..1000 {
                let tale = tales::tale(seed, tale_idx);
                let derivation = tales::grammar().derive(&tale.text).unwrap();
                assert_eq!(derivation.bits, tale.bits, "seed {seed}, tale {tale_idx}: {}", tale.text);
                assert!(derivation.choices > 10);
            }
        }
    }

    #[test]
    fn a_text_that_differs_in_one_letter_or_space_is_not_of_the_grammar() {
        let grammar = tales::grammar();
        let text = tales::tale(1, 0).text;
        assert!(grammar.derive(&text.replacen(' ', "  ", 1)).is_err());
        assert!(grammar.derive(&text.to_lowercase()).is_err());
        assert!(grammar.derive(&format!("{text} The end.")).unwrap_err().expected.contains("the end"));
        assert!(grammar.derive(&text[..text.len() - 1]).is_err());
        assert!(grammar.derive("").is_err());
        assert!(grammar.derive(&text.replacen('e', "x", 1)).is_err());
    }
}
