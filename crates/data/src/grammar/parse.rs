//! The grammar's source to rules, tables and variables.

use std::collections::HashMap;

use super::text::{POSSESSIVE, is_mark, split_words};
use super::{Alternative, Grammar, GrammarError, Item, Row, Rule, Table, Variable};

/// The column of a word list, which has no others.
const WORD_COLUMN: &str = "word";

/// The column by which forms agree.
const NUMBER_COLUMN: &str = "number";

/// A top-level line and the indented lines under it, with their numbers and without comments.
struct Block<'s> {
    line: usize,
    head: &'s str,
    body: Vec<(usize, &'s str)>,
}

/// Parses a grammar; nothing is checked beyond names and syntax.
pub(super) fn parse(source: &str) -> Result<Grammar, GrammarError> {
    let blocks = blocks(source)?;
    let mut parser = Parser::default();
    for block in &blocks {
        parser.declare(block)?;
    }
    for block in blocks.iter().filter(|block| is_rule(block.head)) {
        parser.parse_rule(block)?;
    }
    let Parser { rules, tables, variables, .. } = parser;
    if rules.is_empty() {
        return Err(GrammarError::new(1, "expected at least one rule"));
    }
    Ok(Grammar { rules, tables, variables, start: 0, prediction: Vec::new() })
}

fn blocks(source: &str) -> Result<Vec<Block<'_>>, GrammarError> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (line, text) in (1..).zip(source.lines()) {
        let text = text.split_once('#').map_or(text, |(before, _)| before).trim_end();
        if text.is_empty() {
            continue;
        }
        if !text.starts_with(' ') {
            blocks.push(Block { line, head: text, body: Vec::new() });
            continue;
        }
        let Some(block) = blocks.last_mut() else {
            return Err(GrammarError::new(line, "expected a rule, `table` or `words` before indented text"));
        };
        block.body.push((line, text.trim_start()));
    }
    Ok(blocks)
}

fn is_rule(head: &str) -> bool {
    !head.starts_with("table ") && !head.starts_with("words ")
}

#[derive(Default)]
struct Parser {
    rules: Vec<Rule>,
    tables: Vec<Table>,
    variables: Vec<Variable>,
    rule_ids: HashMap<String, usize>,
    table_ids: HashMap<String, usize>,
    variable_ids: HashMap<String, usize>,
}

impl Parser {
    /// Enters the name of a block, and a table's rows.
    fn declare(&mut self, block: &Block<'_>) -> Result<(), GrammarError> {
        let fault = |message: String| GrammarError::new(block.line, message);
        let (head, rest) = block.head.split_once(':').ok_or_else(|| fault("expected `:`".to_owned()))?;
        let (ids, id, name) = match head.split_once(' ') {
            None => (&mut self.rule_ids, self.rules.len(), head),
            Some(("table" | "words", name)) => (&mut self.table_ids, self.tables.len(), name),
            Some(_) => {
                return Err(fault(format!("expected `rule:`, `table Name:` or `words Name:`, got {head:?}")));
            }
        };
        check_name(name, is_rule(block.head)).map_err(fault)?;
        if ids.insert(name.to_owned(), id).is_some() {
            return Err(fault(format!("{name} is defined twice")));
        }
        if is_rule(block.head) {
            if !rest.trim().is_empty() {
                return Err(fault("expected the alternatives on indented lines".to_owned()));
            }
            self.rules.push(Rule { name: name.to_owned(), line: block.line, alternatives: Vec::new() });
        } else {
            self.tables.push(parse_table(block, name, rest)?);
        }
        Ok(())
    }

    fn parse_rule(&mut self, block: &Block<'_>) -> Result<(), GrammarError> {
        let name = block.head.split(':').next().unwrap_or_default();
        let rule = self.rule_ids[name];
        let mut tokens = Tokens::of(block)?;
        self.rules[rule].alternatives = self.parse_alternatives(&mut tokens, name)?;
        match tokens.next() {
            None => Ok(()),
            Some((line, token)) => Err(GrammarError::new(line, format!("unexpected {token:?}"))),
        }
    }

    /// Alternatives up to a closing bracket or the end.
    fn parse_alternatives(
        &mut self,
        tokens: &mut Tokens<'_>,
        rule: &str,
    ) -> Result<Vec<Alternative>, GrammarError> {
        let mut alternatives = Vec::new();
        if tokens.peek() == Some("|") {
            tokens.next();
        }
        loop {
            let line = tokens.line();
            let weight = tokens.take_weight()?;
            let items = self.parse_items(tokens, rule)?;
            alternatives.push(Alternative { line, weight, items });
            if tokens.peek() != Some("|") {
                return Ok(alternatives);
            }
            tokens.next();
        }
    }

    fn parse_items(&mut self, tokens: &mut Tokens<'_>, rule: &str) -> Result<Vec<Item>, GrammarError> {
        let mut items = Vec::new();
        while let Some(token) = tokens.peek() {
            if matches!(token, "|" | ")" | "]") {
                break;
            }
            let (line, token) = tokens.next().expect("just seen");
            items.push(match token {
                "(" | "[" => self.parse_group(tokens, rule, line, token == "[")?,
                "^" => Item::Capital,
                "//" => Item::Paragraph,
                _ if token.starts_with('<') => self.parse_reference(line, token)?,
                _ if token.starts_with('{') => self.parse_choice(line, token)?,
                word => Item::Word(check_word(line, word)?.to_owned()),
            });
        }
        Ok(items)
    }

    /// `( a | b )`, or `[ a ]`, which is `( a | )`: a rule without a name.
    fn parse_group(
        &mut self,
        tokens: &mut Tokens<'_>,
        rule: &str,
        line: usize,
        is_optional: bool,
    ) -> Result<Item, GrammarError> {
        let mut alternatives = self.parse_alternatives(tokens, rule)?;
        let expected = if is_optional { "]" } else { ")" };
        if tokens.next().is_none_or(|(_, token)| token != expected) {
            return Err(GrammarError::new(line, format!("expected {expected:?} to close this group")));
        }
        if is_optional {
            let weight = alternatives.iter().map(|alternative| alternative.weight).sum();
            alternatives.push(Alternative { line, weight, items: Vec::new() });
        }
        self.rules.push(Rule { name: format!("{rule} (group)"), line, alternatives });
        Ok(Item::Rule(self.rules.len() - 1))
    }

    fn parse_reference(&self, line: usize, token: &str) -> Result<Item, GrammarError> {
        let name = token.trim_matches(['<', '>']);
        let rule = self.rule_ids.get(name);
        rule.map(|&rule| Item::Rule(rule)).ok_or_else(|| GrammarError::new(line, format!("no rule {name:?}")))
    }

    /// `{Table.column}`, `{name = Table.column except other}`, `{name.column}` or `{name one/many}`.
    fn parse_choice(&mut self, line: usize, token: &str) -> Result<Item, GrammarError> {
        let inner = token.trim_matches(['{', '}']);
        let (bind, choice) = match inner.split_once('=') {
            Some((name, choice)) => (Some(name.trim()), choice.trim()),
            None => (None, inner.trim()),
        };
        if bind.is_none() && !choice.starts_with(|c: char| c.is_ascii_uppercase()) {
            return self.parse_recall(line, choice);
        }
        let (choice, except) = match choice.split_once(" except ") {
            Some((choice, other)) => (choice, Some(self.variable(line, other.trim())?)),
            None => (choice, None),
        };
        let (name, column) =
            choice.split_once('.').map_or((choice, None), |(name, column)| (name, Some(column)));
        let table =
            *self.table_ids.get(name).ok_or_else(|| GrammarError::new(line, format!("no table {name:?}")))?;
        if except.is_some_and(|other| self.variables[other].table != table) {
            return Err(GrammarError::new(line, format!("`except` expects a variable of table {name}")));
        }
        let column = self.column(line, table, column)?;
        let bind = bind.map(|bind| self.bind(line, bind, table)).transpose()?;
        Ok(Item::Choose { table, column, bind, except })
    }

    fn parse_recall(&self, line: usize, recall: &str) -> Result<Item, GrammarError> {
        let Some((name, forms)) = recall.split_once(' ') else {
            let (name, column) =
                recall.split_once('.').map_or((recall, None), |(name, column)| (name, Some(column)));
            let variable = self.variable(line, name)?;
            let column = self.column(line, self.variables[variable].table, column)?;
            return Ok(Item::Recall { variable, column });
        };
        let variable = self.variable(line, name)?;
        let column = self.column(line, self.variables[variable].table, Some(NUMBER_COLUMN))?;
        let (one, many) = forms
            .split_once('/')
            .ok_or_else(|| GrammarError::new(line, format!("expected `one/many`, got {forms:?}")))?;
        Ok(Item::Agree { variable, column, one: cell(line, one)?, many: cell(line, many)? })
    }

    fn variable(&self, line: usize, name: &str) -> Result<usize, GrammarError> {
        let unknown = || GrammarError::new(line, format!("{name:?} is not bound above this line"));
        self.variable_ids.get(name).copied().ok_or_else(unknown)
    }

    /// The variable of this name, made if it is new.
    fn bind(&mut self, line: usize, name: &str, table: usize) -> Result<usize, GrammarError> {
        check_name(name, true).map_err(|message| GrammarError::new(line, message))?;
        let next = self.variables.len();
        let variable = *self.variable_ids.entry(name.to_owned()).or_insert(next);
        if variable == next {
            self.variables.push(Variable { name: name.to_owned(), table });
        }
        if self.variables[variable].table != table {
            let other = &self.tables[self.variables[variable].table].name;
            return Err(GrammarError::new(
                line,
                format!("{name:?} stands for a row of table {other} elsewhere"),
            ));
        }
        Ok(variable)
    }

    /// The column of this name, or the first.
    fn column(&self, line: usize, table: usize, name: Option<&str>) -> Result<usize, GrammarError> {
        let Table { name: table, columns, .. } = &self.tables[table];
        let Some(name) = name else { return Ok(0) };
        let unknown = || GrammarError::new(line, format!("table {table} has no column {name:?}"));
        columns.iter().position(|column| column == name).ok_or_else(unknown)
    }
}

fn parse_table(block: &Block<'_>, name: &str, head: &str) -> Result<Table, GrammarError> {
    let is_table = block.head.starts_with("table ");
    let columns: Vec<String> = if is_table {
        head.split_whitespace().map(str::to_owned).collect()
    } else {
        vec![WORD_COLUMN.to_owned()]
    };
    let mut rows = Vec::new();
    let first_line = if is_table { None } else { Some((block.line, head)) };
    for (line, text) in first_line.into_iter().chain(block.body.iter().copied()) {
        let cells =
            text.split_whitespace().map(|text| cell(line, text)).collect::<Result<Vec<_>, GrammarError>>()?;
        if !is_table {
            rows.extend(cells.into_iter().map(|cell| Row { cells: vec![cell] }));
        } else if cells.len() == columns.len() {
            rows.push(Row { cells });
        } else {
            let message =
                format!("expected {} cells, one for each column, got {}", columns.len(), cells.len());
            return Err(GrammarError::new(line, message));
        }
    }
    if columns.is_empty() || rows.is_empty() {
        return Err(GrammarError::new(block.line, format!("{name} is empty")));
    }
    Ok(Table { name: name.to_owned(), line: block.line, columns, rows })
}

/// The words of a cell, in which `_` stands for a space.
fn cell(line: usize, text: &str) -> Result<Vec<String>, GrammarError> {
    text.split('_').map(|word| Ok(check_word(line, word)?.to_owned())).collect()
}

fn check_word(line: usize, word: &str) -> Result<&str, GrammarError> {
    if word.eq_ignore_ascii_case("an") {
        return Err(GrammarError::new(line, "write `a`: it becomes `an` where a vowel follows"));
    }
    let is_word = !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '\'');
    let is_whole = word == POSSESSIVE || !word.ends_with(POSSESSIVE);
    if (is_word && is_whole) || (word.chars().count() == 1 && word.starts_with(is_mark)) {
        return Ok(word);
    }
    Err(GrammarError::new(line, format!("{word:?} is not a word: expected letters, digits, `-` and `'`")))
}

fn check_name(name: &str, is_lower: bool) -> Result<(), String> {
    let first_fits = |c: char| if is_lower { c.is_ascii_lowercase() } else { c.is_ascii_uppercase() };
    let fits = name.starts_with(first_fits) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let case = if is_lower { "lower" } else { "upper" };
    fits.then_some(()).ok_or_else(|| format!("expected a name that begins with {case} case, got {name:?}"))
}

/// The tokens of a rule's body.
struct Tokens<'s> {
    tokens: Vec<(usize, &'s str)>,
    next: usize,
    /// Line of the rule, for a body without a token.
    line: usize,
}

impl<'s> Tokens<'s> {
    fn of(block: &Block<'s>) -> Result<Self, GrammarError> {
        let mut tokens = Vec::new();
        for &(line, text) in &block.body {
            let mut rest = text.trim_start();
            while !rest.is_empty() {
                let (token, after) = split_token(line, rest)?;
                let words = if token.starts_with(['{', '<']) { vec![token] } else { split_words(token) };
                tokens.extend(words.into_iter().map(|word| (line, word)));
                rest = after.trim_start();
            }
        }
        Ok(Self { tokens, next: 0, line: block.line })
    }

    fn peek(&self) -> Option<&'s str> {
        self.tokens.get(self.next).map(|&(_, token)| token)
    }

    /// Line of the next token, or of the last one.
    fn line(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(self.line, |&(line, _)| line)
    }

    /// A weight `3:` if one stands here, else 1.
    fn take_weight(&mut self) -> Result<u32, GrammarError> {
        let Some(digits) = self.peek().filter(|token| token.starts_with(|c: char| c.is_ascii_digit())) else {
            return Ok(1);
        };
        let line = self.line();
        self.next += 1;
        let weight = digits.parse().ok().filter(|weight| (1..=1_000_000).contains(weight));
        if self.next().is_none_or(|(_, colon)| colon != ":") {
            return Err(GrammarError::new(line, format!("expected `:` after the weight {digits}")));
        }
        weight.ok_or_else(|| GrammarError::new(line, format!("weight {digits}: expected 1 to 1000000")))
    }
}

impl<'s> Iterator for Tokens<'s> {
    type Item = (usize, &'s str);

    fn next(&mut self) -> Option<Self::Item> {
        let token = self.tokens.get(self.next).copied();
        self.next += 1;
        token
    }
}

/// The first token of `text`, which does not begin with a space, and what follows.
fn split_token(line: usize, text: &str) -> Result<(&str, &str), GrammarError> {
    let closing = match text.as_bytes()[0] {
        b'{' => Some('}'),
        b'<' => Some('>'),
        _ => None,
    };
    if let Some(closing) = closing {
        let unclosed = || GrammarError::new(line, format!("expected {closing:?} on the same line"));
        return Ok(text.split_at(text.find(closing).ok_or_else(unclosed)? + 1));
    }
    if text.starts_with(['|', '(', ')', '[', ']', '^']) {
        return Ok(text.split_at(1));
    }
    let is_end = |c: char| c.is_whitespace() || "|()[]^{<".contains(c);
    Ok(text.split_at(text.find(is_end).unwrap_or(text.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(source: &str) -> String {
        parse(source).expect_err("a fault").to_string()
    }

    #[test]
    fn weights_groups_and_tables_are_read() {
        let source = "tale:  # a comment\n    | 3: a [ b ] .\n    | {x = Pet.name} // ^ {x runs/run}\n\
                      table Pet: name number\n    old_cat one\n    dogs many\n";
        let grammar = parse(source).unwrap();
        let tale = &grammar.rules[0];
        assert_eq!((tale.alternatives[0].weight, tale.total_weight()), (3, 4));
        assert_eq!(tale.alternatives[0].items.len(), 3);
        assert_eq!(grammar.rules[1].alternatives[1].items.len(), 0);
        assert_eq!(grammar.tables[0].rows[0].cells[0], ["old", "cat"]);
        assert!(matches!(tale.alternatives[1].items[2], Item::Capital));
    }

    #[test]
    fn possessives_and_marks_are_words_of_their_own() {
        let grammar = parse("tale:\n    {Pet}'s hat, \"yes!\"\nwords Pet: cat dog\n").unwrap();
        let words: Vec<_> = grammar.rules[0].alternatives[0].items.iter().skip(1).collect();
        let expected = ["'s", "hat", ",", "\"", "yes", "!", "\""];
        assert_eq!(words.len(), expected.len());
        for (item, expected) in words.iter().zip(expected) {
            assert!(matches!(item, Item::Word(word) if word == expected), "{item:?}");
        }
    }

    #[test]
    fn faults_name_their_line() {
        for (source, expected) in [
            ("    a\n", "line 1: expected a rule"),
            ("tale\n    a\n", "line 1: expected `:`"),
            ("tale: a\n", "line 1: expected the alternatives on indented lines"),
            ("tale:\n    a\ntale:\n    b\n", "line 3: tale is defined twice"),
            ("tale:\n    a\n    ( b | c\n", "line 3: expected \")\""),
            ("tale:\n    a )\n", "line 2: unexpected \")\""),
            ("tale:\n    <x>\n", "line 2: no rule \"x\""),
            ("tale:\n    {X}\n", "line 2: no table \"X\""),
            ("tale:\n    {x}\n", "line 2: \"x\" is not bound"),
            ("tale:\n    {X.b}\nwords X: a\n", "line 2: table X has no column \"b\""),
            ("tale:\n    {x = X} {x is/are}\nwords X: a\n", "line 2: table X has no column \"number\""),
            ("tale:\n    {x\n", "line 2: expected '}'"),
            ("tale:\n    0: a\n", "line 2: weight 0"),
            ("tale:\n    3 a\n", "line 2: expected `:` after the weight 3"),
            ("tale:\n    an owl\n", "line 2: write `a`"),
            ("tale:\n    a%b\n", "line 2: \"a%b\" is not a word"),
            ("tale:\n    a\ntable X: a b\n    c\n", "line 4: expected 2 cells"),
            ("tale:\n    a\nwords X:\n", "line 3: X is empty"),
            ("tale:\n    a\nwords x: b\n", "line 3: expected a name that begins with upper case"),
            ("", "line 1: expected at least one rule"),
        ] {
            let error = fault(source);
            assert!(error.starts_with(expected), "{source:?}: {error}");
        }
        let two = "tale:\n    {x = X} {x = Y}\nwords X: a\nwords Y: b\n";
        assert!(fault(two).contains("stands for a row of table X elsewhere"));
        let except = "tale:\n    {x = X} {Y except x}\nwords X: a\nwords Y: b\n";
        assert!(fault(except).contains("`except` expects a variable of table Y"));
    }
}
