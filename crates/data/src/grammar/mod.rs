//! A text generator whose every text has one derivation, so that its information is known exactly.
//!
//! A grammar is rules with weighted alternatives, and tables from whose rows a choice may be remembered under a
//! name and recalled later: that is how a tale keeps its hero, and what makes it worth a long context. The
//! source's syntax is told at the top of `datasets/tales.grammar`.
//!
//! # Why the information is exact
//! The probability of a text is the sum over its derivations. The check admits a grammar only if, reading words
//! from left to right, the next word always decides the next choice (the LL(1) condition, with every variable
//! taken as all its values). So a text has one derivation, and −log₂ p of the text is the sum over the choices.
//! [`Grammar::derive`] recovers that derivation from the text.
//!
//! Words become text by spacing, capitals, quotation marks and "a" or "an"; module `text` says why that
//! loses nothing. A choice is drawn from 32 random bits, so the probabilities hold to 2⁻³².
//!
//! # References
//! Aho, Lam, Sethi and Ullman, *Compilers*, 2nd edition, section 4.4: FIRST, FOLLOW and LL(1).

mod check;
mod derive;
mod generate;
mod parse;
mod text;

use std::collections::HashMap;

pub use derive::{Derivation, DeriveError};
pub use generate::Tale;

/// A grammar that was parsed and found unambiguous.
#[derive(Debug)]
pub struct Grammar {
    rules: Vec<Rule>,
    tables: Vec<Table>,
    variables: Vec<Variable>,
    /// Index of the rule that a text begins with.
    start: usize,
    /// For every rule, which alternative begins with a word.
    prediction: Vec<Prediction>,
}

/// A fault of a grammar's source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct GrammarError {
    /// Line of the source, from 1.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl GrammarError {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// Weighted alternatives.
#[derive(Debug)]
struct Rule {
    name: String,
    line: usize,
    alternatives: Vec<Alternative>,
}

impl Rule {
    fn total_weight(&self) -> u32 {
        self.alternatives.iter().map(|alternative| alternative.weight).sum()
    }
}

#[derive(Debug)]
struct Alternative {
    line: usize,
    weight: u32,
    items: Vec<Item>,
}

/// One part of an alternative.
#[derive(Debug)]
enum Item {
    /// A word or a punctuation mark.
    Word(String),
    /// A text of another rule.
    Rule(usize),
    /// A row of a table, shown by one column, perhaps remembered, perhaps other than a remembered one.
    Choose { table: usize, column: usize, bind: Option<usize>, except: Option<usize> },
    /// A column of a remembered row.
    Recall { variable: usize, column: usize },
    /// The form that agrees in number with a remembered row.
    Agree { variable: usize, column: usize, one: Vec<String>, many: Vec<String> },
    /// The next word has a capital.
    Capital,
    /// A line break.
    Paragraph,
}

/// Rows of words under named columns.
#[derive(Debug)]
struct Table {
    name: String,
    line: usize,
    columns: Vec<String>,
    rows: Vec<Row>,
}

/// The words of each cell.
#[derive(Debug)]
struct Row {
    cells: Vec<Vec<String>>,
}

/// A name for a remembered row of one table.
#[derive(Debug)]
struct Variable {
    name: String,
    table: usize,
}

/// How the next word decides between the alternatives of a rule.
#[derive(Debug, Default)]
struct Prediction {
    by_word: HashMap<String, usize>,
    /// The alternative that may be empty.
    empty: Option<usize>,
}

/// A cell of a column `number` that means one; anything else means many.
const ONE: &str = "one";

impl Grammar {
    /// Parses and checks a grammar. A text begins with the first rule.
    ///
    /// # Errors
    /// At the first line that does not parse, names something unknown, recalls what is not yet chosen, or
    /// leaves a choice that the next word does not decide.
    pub fn parse(source: &str) -> Result<Self, GrammarError> {
        let mut grammar = parse::parse(source)?;
        grammar.prediction = check::check(&grammar)?;
        Ok(grammar)
    }
}

/// The row of a table that each variable stands for.
#[derive(Debug)]
struct Memory(Vec<Option<usize>>);

impl Memory {
    fn new(grammar: &Grammar) -> Self {
        Self(vec![None; grammar.variables.len()])
    }

    fn row(&self, variable: usize) -> usize {
        self.0[variable].expect("the check admits a recall only after its choice")
    }

    fn bind(&mut self, variable: Option<usize>, row: usize) {
        if let Some(variable) = variable {
            self.0[variable] = Some(row);
        }
    }

    /// The words of a cell of a remembered row.
    fn cell<'g>(&self, grammar: &'g Grammar, variable: usize, column: usize) -> &'g [String] {
        let table = grammar.variables[variable].table;
        &grammar.tables[table].rows[self.row(variable)].cells[column]
    }

    /// Whether a remembered row is one thing.
    fn is_one(&self, grammar: &Grammar, variable: usize, column: usize) -> bool {
        self.cell(grammar, variable, column) == [ONE]
    }
}

/// How words are compared: in lower case, "an" as "a".
fn fold(word: &str) -> String {
    let lower = word.to_lowercase();
    if lower == "an" { "a".to_owned() } else { lower }
}
