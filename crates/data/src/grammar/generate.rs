//! Writing texts.

use wattle_random::{Purpose, Stream};

use super::text::{Piece, render};
use super::{Grammar, Item, Memory};

/// A text and its information.
#[derive(Clone, Debug, PartialEq)]
pub struct Tale {
    /// The text.
    pub text: String,
    /// The sum of −log₂ p over the choices taken: −log₂ of the text's probability.
    pub bits: f64,
}

impl Grammar {
    /// Text number `index` under `seed`.
    pub fn generate(&self, seed: u64, index: u64) -> Tale {
        let mut writer = Writer {
            grammar: self,
            memory: Memory::new(self),
            stream: Stream::new(seed, Purpose::Corpus, index),
            n_choices: 0,
            bits: 0.0,
            pieces: Vec::new(),
        };
        writer.write_rule(self.start);
        Tale { text: render(&writer.pieces), bits: writer.bits }
    }
}

struct Writer<'g> {
    grammar: &'g Grammar,
    memory: Memory,
    stream: Stream,
    n_choices: u64,
    bits: f64,
    pieces: Vec<Piece<'g>>,
}

impl<'g> Writer<'g> {
    fn write_rule(&mut self, rule_idx: usize) {
        let rule = &self.grammar.rules[rule_idx];
        let mut drawn = self.draw(rule.total_weight());
        let holds = |weight: u32| {
            let is_here = drawn < weight;
            drawn = drawn.wrapping_sub(weight);
            is_here
        };
        let weights = rule.alternatives.iter().map(|alternative| alternative.weight);
        let chosen = weights.map(holds).position(|is_here| is_here).expect("the draw is below the total");
        let alternative = &rule.alternatives[chosen];
        self.bits += choice_bits(alternative.weight, rule.total_weight());
        for item in &alternative.items {
            self.write_item(item);
        }
    }

    fn write_item(&mut self, item: &'g Item) {
        match item {
            Item::Word(word) => self.pieces.push(Piece::Word(word)),
            Item::Rule(rule) => self.write_rule(*rule),
            Item::Choose { table, column, bind, except } => {
                let row = self.draw_row(*table, *except);
                self.memory.bind(*bind, row);
                self.write_words(&self.grammar.tables[*table].rows[row].cells[*column]);
            }
            Item::Recall { variable, column } => {
                self.write_words(self.memory.cell(self.grammar, *variable, *column));
            }
            Item::Agree { variable, column, one, many } => {
                self.write_words(if self.memory.is_one(self.grammar, *variable, *column) {
                    one
                } else {
                    many
                });
            }
            Item::Capital => self.pieces.push(Piece::Capital),
            Item::Paragraph => self.pieces.push(Piece::Paragraph),
        }
    }

    fn write_words(&mut self, words: &'g [String]) {
        self.pieces.extend(words.iter().map(|word| Piece::Word(word)));
    }

    /// A row of a table, every row alike, without the one that `except` stands for.
    fn draw_row(&mut self, table: usize, except: Option<usize>) -> usize {
        let n_rows = row_choices(self.grammar, table, except);
        let row = self.draw(n_rows) as usize;
        self.bits += choice_bits(1, n_rows);
        let skips = except.is_some_and(|other| row >= self.memory.row(other));
        row + usize::from(skips)
    }

    /// A number below `n`, to within 2⁻³² of uniform.
    fn draw(&mut self, n: u32) -> u32 {
        let word = self.stream.word(self.n_choices);
        self.n_choices += 1;
        ((u64::from(word) * u64::from(n)) >> 32) as u32
    }
}

/// How many rows there are to choose from.
pub(super) fn row_choices(grammar: &Grammar, table: usize, except: Option<usize>) -> u32 {
    (grammar.tables[table].rows.len() - usize::from(except.is_some())) as u32
}

/// −log₂ of a choice of `weight` out of `total`.
pub(super) fn choice_bits(weight: u32, total: u32) -> f64 {
    (f64::from(total) / f64::from(weight)).log2()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SMALL: &str = "tale:\n    {x = X} ( 2: and {X except x} | 1: alone ) {x is/are} [ very ] good .\n\
                         table X: name number\n    mice many\n    owl one\n    fox one\n";

    #[test]
    fn the_probabilities_of_all_texts_sum_to_one() {
        let grammar = Grammar::parse(SMALL).unwrap();
        let texts: HashMap<String, f64> =
            (0..2000).map(|i| grammar.generate(3, i)).map(|tale| (tale.text, tale.bits)).collect();
        // 3 first animals, each with 2 others or alone, each very good or only good.
        assert_eq!(texts.len(), 3 * (2 + 1) * 2);
        let total: f64 = texts.values().map(|bits| (-bits).exp2()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        let fox = texts["Fox alone is very good."];
        assert!((fox - (3f64.log2() + 3f64.log2() + 1.0)).abs() < 1e-12, "{fox}");
    }

    #[test]
    fn texts_come_as_often_as_their_probability_says() {
        let grammar = Grammar::parse(SMALL).unwrap();
        const N: u64 = 20_000;
        let mut counts: HashMap<String, (f64, f64)> = HashMap::new();
        for tale in (0..N).map(|i| grammar.generate(11, i)) {
            let entry = counts.entry(tale.text).or_insert(((-tale.bits).exp2(), 0.0));
            entry.1 += 1.0;
        }
        for (text, (p, count)) in counts {
            let expected = p * N as f64;
            // Five standard deviations of a binomial.
            assert!(
                (count - expected).abs() < 5.0 * (expected * (1.0 - p)).sqrt(),
                "{text}: {count}, {expected}"
            );
        }
    }

    #[test]
    fn the_weights_of_every_choice_of_the_embedded_grammar_sum_to_one() {
        let grammar = crate::tales::grammar();
        for rule in &grammar.rules {
            let total = rule.total_weight();
            let p: f64 = rule.alternatives.iter().map(|a| (-choice_bits(a.weight, total)).exp2()).sum();
            assert!((p - 1.0).abs() < 1e-12, "{}: {p}", rule.name);
        }
        for table in 0..grammar.tables.len() {
            let n_rows = row_choices(grammar, table, None);
            let p = f64::from(n_rows) * (-choice_bits(1, n_rows)).exp2();
            assert!((p - 1.0).abs() < 1e-12, "{}: {p}", grammar.tables[table].name);
        }
    }
}
