//! Whether the next word always decides the next choice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Alternative, Grammar, GrammarError, Item, Prediction, Rule, fold};

/// Folded words.
type Words = BTreeSet<String>;

/// Checks a grammar and returns how each rule's alternatives are told apart.
pub(super) fn check(grammar: &Grammar) -> Result<Vec<Prediction>, GrammarError> {
    check_recursion(grammar)?;
    check_use(grammar)?;
    check_memory(grammar)?;
    check_tables(grammar)?;
    let sets = Sets::new(grammar);
    (0..grammar.rules.len()).map(|rule| sets.predict(grammar, rule)).collect()
}

/// What a rule may begin with and be followed by.
struct Sets {
    first: Vec<Words>,
    nullable: Vec<bool>,
    follow: Vec<Words>,
}

impl Sets {
    /// Both sets grow until nothing changes.
    fn new(grammar: &Grammar) -> Self {
        let n_rules = grammar.rules.len();
        let empty = || vec![Words::new(); n_rules];
        let mut sets = Self { first: empty(), nullable: vec![false; n_rules], follow: empty() };
        while sets.grow_first(grammar) {}
        while sets.grow_follow(grammar) {}
        sets
    }

    fn grow_first(&mut self, grammar: &Grammar) -> bool {
        let mut changed = false;
        for (rule_idx, rule) in grammar.rules.iter().enumerate() {
            for alternative in &rule.alternatives {
                let (words, nullable) = self.first_of(grammar, &alternative.items);
                let before = (self.first[rule_idx].len(), self.nullable[rule_idx]);
                self.first[rule_idx].extend(words);
                self.nullable[rule_idx] |= nullable;
                changed |= before != (self.first[rule_idx].len(), self.nullable[rule_idx]);
            }
        }
        changed
    }

    fn grow_follow(&mut self, grammar: &Grammar) -> bool {
        let mut changed = false;
        for (rule_idx, rule) in grammar.rules.iter().enumerate() {
            for Alternative { items, .. } in &rule.alternatives {
                for (i, item) in items.iter().enumerate() {
                    let Item::Rule(inner) = *item else { continue };
                    let (mut after, nullable) = self.first_of(grammar, &items[i + 1..]);
                    if nullable {
                        after.extend(self.follow[rule_idx].iter().cloned());
                    }
                    let before = self.follow[inner].len();
                    self.follow[inner].extend(after);
                    changed |= before != self.follow[inner].len();
                }
            }
        }
        changed
    }

    /// The words that a text of `items` may begin with, and whether it may be empty.
    fn first_of(&self, grammar: &Grammar, items: &[Item]) -> (Words, bool) {
        let mut words = Words::new();
        for item in items {
            match item {
                Item::Word(word) => drop(words.insert(fold(word))),
                Item::Rule(rule) => {
                    words.extend(self.first[*rule].iter().cloned());
                    if self.nullable[*rule] {
                        continue;
                    }
                }
                Item::Choose { table, column, .. } => words.extend(column_first(grammar, *table, *column)),
                Item::Recall { variable, column } => {
                    words.extend(column_first(grammar, grammar.variables[*variable].table, *column));
                }
                Item::Agree { one, many, .. } => words.extend([fold(&one[0]), fold(&many[0])]),
                Item::Capital | Item::Paragraph => continue,
            }
            return (words, false);
        }
        (words, true)
    }

    /// The table by which the next word decides between a rule's alternatives.
    fn predict(&self, grammar: &Grammar, rule_idx: usize) -> Result<Prediction, GrammarError> {
        let rule = &grammar.rules[rule_idx];
        let mut prediction = Prediction::default();
        for (i, alternative) in rule.alternatives.iter().enumerate() {
            let (words, nullable) = self.first_of(grammar, &alternative.items);
            for word in words {
                if let Some(other) = prediction.by_word.insert(word.clone(), i) {
                    return Err(conflict(rule, other, i, &format!("begin with {word:?}")));
                }
            }
            if nullable && let Some(other) = prediction.empty.replace(i) {
                return Err(conflict(rule, other, i, "be empty"));
            }
        }
        if let Some(empty) = prediction.empty {
            let ambiguous =
                |word: &&String| prediction.by_word.get(*word).is_some_and(|&other| other != empty);
            if let Some(word) = self.follow[rule_idx].iter().find(ambiguous) {
                let other = prediction.by_word[word];
                return Err(conflict(rule, other, empty, &format!("be what comes before {word:?}")));
            }
        }
        Ok(prediction)
    }
}

fn conflict(rule: &Rule, one: usize, other: usize, what: &str) -> GrammarError {
    let (first, second) = (&rule.alternatives[one], &rule.alternatives[other]);
    let message = format!(
        "rule {}: its alternatives of lines {} and {} can both {what}",
        rule.name, first.line, second.line
    );
    GrammarError::new(second.line, message)
}

/// The words that the cells of a column begin with.
fn column_first(grammar: &Grammar, table: usize, column: usize) -> impl Iterator<Item = String> + '_ {
    grammar.tables[table].rows.iter().map(move |row| fold(&row.cells[column][0]))
}

/// That no rule contains itself, so that every text ends.
fn check_recursion(grammar: &Grammar) -> Result<(), GrammarError> {
    fn visit(
        grammar: &Grammar,
        rule_idx: usize,
        open: &mut Vec<usize>,
        done: &mut HashSet<usize>,
    ) -> Result<(), GrammarError> {
        let rule = &grammar.rules[rule_idx];
        if open.contains(&rule_idx) {
            return Err(GrammarError::new(rule.line, format!("rule {} contains itself", rule.name)));
        }
        if !done.insert(rule_idx) {
            return Ok(());
        }
        open.push(rule_idx);
        inner_rules(rule).try_for_each(|inner| visit(grammar, inner, open, done))?;
        open.pop();
        Ok(())
    }
    let mut done = HashSet::new();
    (0..grammar.rules.len()).try_for_each(|rule| visit(grammar, rule, &mut Vec::new(), &mut done))
}

fn items(rule: &Rule) -> impl Iterator<Item = &Item> {
    rule.alternatives.iter().flat_map(|alternative| &alternative.items)
}

fn inner_rules(rule: &Rule) -> impl Iterator<Item = usize> + '_ {
    items(rule).filter_map(|item| match item {
        Item::Rule(inner) => Some(*inner),
        _ => None,
    })
}

/// That every rule and every table is used.
fn check_use(grammar: &Grammar) -> Result<(), GrammarError> {
    let mut used = HashSet::from([grammar.start]);
    let mut open = vec![grammar.start];
    let mut tables = HashSet::new();
    while let Some(rule) = open.pop() {
        open.extend(inner_rules(&grammar.rules[rule]).filter(|&inner| used.insert(inner)));
        tables.extend(items(&grammar.rules[rule]).filter_map(|item| match item {
            Item::Choose { table, .. } => Some(*table),
            _ => None,
        }));
    }
    let unused = |line, name: &str| Err(GrammarError::new(line, format!("{name} is never used")));
    if let Some((_, rule)) = grammar.rules.iter().enumerate().find(|(i, _)| !used.contains(i)) {
        return unused(rule.line, &rule.name);
    }
    if let Some((_, table)) = grammar.tables.iter().enumerate().find(|(i, _)| !tables.contains(i)) {
        return unused(table.line, &table.name);
    }
    check_recall(grammar)
}

/// That whatever is remembered is recalled somewhere.
fn check_recall(grammar: &Grammar) -> Result<(), GrammarError> {
    let recalled: HashSet<usize> = grammar.rules.iter().flat_map(items).filter_map(recalled).collect();
    for alternative in grammar.rules.iter().flat_map(|rule| &rule.alternatives) {
        for item in &alternative.items {
            if let Item::Choose { bind: Some(variable), .. } = item
                && !recalled.contains(variable)
            {
                let message = format!("{:?} is never recalled", grammar.variables[*variable].name);
                return Err(GrammarError::new(alternative.line, message));
            }
        }
    }
    Ok(())
}

/// The variable that an item recalls.
fn recalled(item: &Item) -> Option<usize> {
    match item {
        Item::Recall { variable, .. } | Item::Agree { variable, .. } => Some(*variable),
        Item::Choose { except, .. } => *except,
        Item::Word(_) | Item::Rule(_) | Item::Capital | Item::Paragraph => None,
    }
}

/// That whatever is recalled was chosen before, on every path from the start.
fn check_memory(grammar: &Grammar) -> Result<(), GrammarError> {
    fn visit(
        grammar: &Grammar,
        rule: usize,
        known: &BTreeSet<usize>,
        seen: &mut HashMap<(usize, BTreeSet<usize>), BTreeSet<usize>>,
    ) -> Result<BTreeSet<usize>, GrammarError> {
        if let Some(after) = seen.get(&(rule, known.clone())) {
            return Ok(after.clone());
        }
        let mut after: Option<BTreeSet<usize>> = None;
        for alternative in &grammar.rules[rule].alternatives {
            let mut known = known.clone();
            for item in &alternative.items {
                if let Item::Rule(inner) = item {
                    known = visit(grammar, *inner, &known, seen)?;
                }
                if let Some(missing) = recalled(item).filter(|variable| !known.contains(variable)) {
                    let name = &grammar.variables[missing].name;
                    let message = format!("{name:?} may be recalled here before it is chosen");
                    return Err(GrammarError::new(alternative.line, message));
                }
                if let Item::Choose { bind: Some(variable), .. } = item {
                    known.insert(*variable);
                }
            }
            after = Some(after.map_or_else(|| known.clone(), |after| &after & &known));
        }
        let after = after.unwrap_or_default();
        seen.insert((rule, known.clone()), after.clone());
        Ok(after)
    }
    visit(grammar, grammar.start, &BTreeSet::new(), &mut HashMap::new()).map(drop)
}

/// That the cells of a column from which a row is chosen begin with different words, and that there is a row
/// left where one is excepted.
fn check_tables(grammar: &Grammar) -> Result<(), GrammarError> {
    let chosen: BTreeMap<(usize, usize), bool> =
        grammar.rules.iter().flat_map(items).fold(BTreeMap::new(), |mut chosen, item| {
            if let Item::Choose { table, column, except, .. } = item {
                *chosen.entry((*table, *column)).or_default() |= except.is_some();
            }
            chosen
        });
    for ((table_idx, column), has_except) in chosen {
        let table = &grammar.tables[table_idx];
        let mut seen = HashSet::new();
        if let Some(word) = column_first(grammar, table_idx, column).find(|word| !seen.insert(word.clone())) {
            let (name, column) = (&table.name, &table.columns[column]);
            let message = format!("two rows of {name} begin with {word:?} in column {column}");
            return Err(GrammarError::new(table.line, message));
        }
        if has_except && table.rows.len() < 2 {
            return Err(GrammarError::new(table.line, format!("{} has no row to spare", table.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(source: &str) -> GrammarError {
        Grammar::parse(source).unwrap_err()
    }

    fn is_admitted(source: &str) -> bool {
        Grammar::parse(source).is_ok()
    }

    const ANIMALS: &str = "table Animal: name number their\n    cat one its\n    dogs many their\n";

    #[test]
    fn alternatives_that_begin_alike_are_refused() {
        let error = fault("tale:\n    a | b\n    | <x>\nx:\n    c | A d\n");
        assert_eq!(error.line, 3);
        assert!(error.message.contains("lines 2 and 3 can both begin with \"a\""), "{error}");
        assert!(!is_admitted("tale:\n    a cat | an owl\n".replace("an", "a").as_str()));
        assert!(is_admitted("tale:\n    a ( cat | owl )\n"));
    }

    #[test]
    fn variables_count_with_all_their_values() {
        let recall = format!("tale:\n    {{x = Animal}} ( {{x.their}} | their ) .\n{ANIMALS}");
        assert!(fault(&recall).message.contains("\"their\""));
        let agree = format!("tale:\n    {{x = Animal}} ( {{x was/were}} | were ) .\n{ANIMALS}");
        assert!(fault(&agree).message.contains("\"were\""));
        let choose = format!("tale:\n    {{Animal}} | dogs\n{ANIMALS}");
        assert!(fault(&choose).message.contains("\"dogs\""));
    }

    #[test]
    fn what_may_be_empty_must_differ_from_what_follows() {
        assert!(fault("tale:\n    [ very ] very good\n").message.contains("before \"very\""));
        assert!(fault("tale:\n    <x> very good\nx:\n    a [ very ]\n").message.contains("before \"very\""));
        assert!(fault("tale:\n    a [ [ b ] ]\n").message.contains("be empty"));
        assert!(fault("tale:\n    a ( [ b ] | // )\n").message.contains("be empty"));
        assert!(is_admitted("tale:\n    [ very ] [ very-very ] good\n"));
    }

    #[test]
    fn rows_are_told_apart_by_their_first_word() {
        let source = "tale:\n    {X.b}\ntable X: a b\n    one red_fox\n    two red_hen\n";
        assert!(fault(source).message.contains("two rows of X begin with \"red\" in column b"));
        assert!(is_admitted(&source.replace("X.b", "X.a")));
    }

    #[test]
    fn what_is_recalled_was_chosen_on_every_path() {
        let error = fault(&format!("tale:\n    ( a {{x = Animal}} | b ) {{x}}\n{ANIMALS}"));
        assert!(error.message.contains("\"x\" may be recalled here before it is chosen"), "{error}");
        assert!(is_admitted(&format!("tale:\n    ( a {{x = Animal}} | b {{x = Animal}} ) {{x}}\n{ANIMALS}")));
        let early = format!("tale:\n    <y> {{x = Animal}}\ny:\n    a {{x}}\n{ANIMALS}");
        assert!(is_admitted(&early.replace("<y> {x = Animal}", "{x = Animal} <y>")));
        assert!(!is_admitted(&early));
    }

    #[test]
    fn endless_and_useless_rules_are_refused() {
        assert!(fault("tale:\n    a <x>\nx:\n    b | c <tale>\n").message.contains("contains itself"));
        assert!(fault("tale:\n    a\nx:\n    b\n").message.contains("x is never used"));
        assert!(fault(&format!("tale:\n    a\n{ANIMALS}")).message.contains("Animal is never used"));
        assert!(fault(&format!("tale:\n    {{x = Animal}}\n{ANIMALS}")).message.contains("never recalled"));
        let lone = "tale:\n    {x = X} {X except x}\nwords X: a\n";
        assert!(fault(lone).message.contains("no row to spare"));
    }
}
