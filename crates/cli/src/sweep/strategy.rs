//! Ways of training: those that are written down, and those that a matrix makes of them.

use toml::{Table, Value};
use wattle_session::config::is_plain_name;

use super::file::SweepFile;

use crate::config::Layer;

/// Runs of one sweep; the lists of a matrix multiply to any number.
const MOST_RUNS: usize = 10_000;

/// One way of training.
#[derive(Clone, Debug)]
pub struct Strategy {
    /// Its name, which becomes `run.name`.
    pub name: String,
    /// What it sets over what all of them set.
    pub settings: Vec<Layer>,
}

/// A combination of a matrix's values.
#[derive(Clone, Debug, Default)]
struct Cell {
    name: Vec<String>,
    settings: Table,
}

/// Every strategy of a sweep, in the order in which they are written; the cells of the matrix within each.
///
/// # Errors
/// Everything that is wrong with their names and the matrix; the settings are looked at with the rest of the
/// configuration.
pub fn strategies(file: &SweepFile) -> Result<Vec<Strategy>, Vec<String>> {
    let mut faults = Vec::new();
    let mut named = Vec::new();
    for (i, table) in file.strategy.iter().enumerate() {
        match name_of(table) {
            Ok(strategy) => named.push(strategy),
            Err(fault) => faults.push(format!("[[strategy]] {}: {fault}", i + 1)),
        }
    }
    let runs = n_runs(file);
    if runs > MOST_RUNS {
        faults.push(format!(
            "{runs} runs: expected at most {MOST_RUNS}; shorten seeds or the lists of [matrix]"
        ));
        return Err(faults);
    }
    let cells = cells(&file.matrix).unwrap_or_else(|wrong| {
        faults.extend(wrong);
        Vec::new()
    });
    let strategies: Vec<_> = match named.is_empty() {
        true => cells.iter().map(|cell| combined(None, cell)).collect(),
        false => named.iter().flat_map(|own| cells.iter().map(|cell| combined(Some(own), cell))).collect(),
    };
    for (i, strategy) in strategies.iter().enumerate() {
        if strategies[..i].iter().any(|earlier| earlier.name == strategy.name) {
            faults.push(format!("two strategies are called {:?}", strategy.name));
        }
    }
    if faults.is_empty() { Ok(strategies) } else { Err(faults) }
}

/// How many runs a sweep has, as far as its lists are lists.
fn n_runs(file: &SweepFile) -> usize {
    let lists = file.matrix.values().filter_map(Value::as_table).flat_map(Table::values);
    let cells = lists.filter_map(Value::as_array).map(|values| values.len().max(1));
    [file.strategy.len().max(1), file.seeds.len()].into_iter().chain(cells).fold(1, usize::saturating_mul)
}

/// A written strategy's name and settings.
fn name_of(table: &Table) -> Result<(String, Table), String> {
    let mut settings = table.clone();
    match settings.remove("name") {
        Some(Value::String(name)) if is_plain_name(&name) => Ok((name, settings)),
        Some(other) => Err(format!("name = {other}: expected letters, digits, '-', '_' and '.'")),
        None => Err("expected a name, such as name = \"small\"".to_owned()),
    }
}

fn combined(own: Option<&(String, Table)>, cell: &Cell) -> Strategy {
    let name = own.map(|(name, _)| name.clone());
    let names: Vec<_> = name.into_iter().chain(cell.name.iter().cloned()).collect();
    let mut settings: Vec<_> =
        own.map(|(name, table)| Layer::of(format!("strategy {name:?}"), table.clone())).into_iter().collect();
    if !cell.settings.is_empty() {
        settings.push(Layer::of("[matrix]", cell.settings.clone()));
    }
    Strategy { name: names.join("_"), settings }
}

/// Every combination of a matrix's values, the first key's values changing last; one empty one without a matrix.
fn cells(matrix: &Table) -> Result<Vec<Cell>, Vec<String>> {
    let mut faults = Vec::new();
    let mut cells = vec![Cell::default()];
    for (section, keys) in matrix {
        let Value::Table(keys) = keys else {
            faults.push(format!(
                "[matrix] {section}: expected a key with its section, such as train.batch_size"
            ));
            continue;
        };
        for (key, values) in keys {
            match values.as_array().filter(|values| !values.is_empty()) {
                Some(values) => {
                    cells = cells
                        .iter()
                        .flat_map(|cell| values.iter().map(|v| cell.with(section, key, v)))
                        .collect();
                }
                None => faults.push(format!(
                    "[matrix] {section}.{key} = {values}: expected a list of values, such as [4, 8]"
                )),
            }
        }
    }
    if faults.is_empty() { Ok(cells) } else { Err(faults) }
}

impl Cell {
    fn with(&self, section: &str, key: &str, value: &Value) -> Self {
        let mut cell = self.clone();
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let plain = |c: char| if c.is_alphanumeric() || c == '.' { c } else { '-' };
        cell.name.push(format!("{key}-{}", text.chars().map(plain).collect::<String>()));
        let keys = cell.settings.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(keys) = keys {
            keys.insert(key.to_owned(), value.clone());
        }
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        let file = SweepFile::parse("s", text).unwrap();
        strategies(&file).unwrap().into_iter().map(|strategy| strategy.name).collect()
    }

    #[test]
    fn a_matrix_is_every_combination_within_every_strategy() {
        let matrix = "[matrix]\ntrain.batch_size = [4, 8]\nmodel.d_model = [32, 64]\n";
        assert_eq!(
            names(&format!("seeds = [1]\n{matrix}")),
            [
                "d_model-32_batch_size-4",
                "d_model-32_batch_size-8",
                "d_model-64_batch_size-4",
                "d_model-64_batch_size-8"
            ]
        );
        let two = "seeds = [1]\n[[strategy]]\nname = \"a\"\n[[strategy]]\nname = \"b\"\n";
        assert_eq!(names(two), ["a", "b"]);
        assert_eq!(names(&format!("{two}{matrix}")).len(), 8);
        assert_eq!(names(&format!("{two}[matrix]\nschedule.kind = [\"wsd\"]")), ["a_kind-wsd", "b_kind-wsd"]);
    }

    #[test]
    fn a_matrix_of_too_many_runs_is_refused_before_they_are_made() {
        let lists: String = (0..12).map(|i| format!("train.k{i} = {:?}\n", [0; 1000])).collect();
        let file = SweepFile::parse("s", &format!("seeds = [1]\n[matrix]\n{lists}")).unwrap();
        let faults = strategies(&file).unwrap_err();
        assert!(faults.len() == 1 && faults[0].contains("at most 10000; shorten seeds"), "{faults:?}");
    }

    #[test]
    fn faults_of_names_and_matrix_come_together() {
        let text = "seeds = [1]\n[[strategy]]\nname = \"a/b\"\n[[strategy]]\n[[strategy]]\nname = \"c\"\n\
                    [[strategy]]\nname = \"c\"\n[matrix]\ntrain.batch_size = 8\nseed = [1]\n";
        let faults = strategies(&SweepFile::parse("s", text).unwrap()).unwrap_err().join("\n");
        for part in
            ["name = \"a/b\"", "[[strategy]] 2: expected a name", "a list of values", "with its section"]
        {
            assert!(faults.contains(part), "{part:?} is not in\n{faults}");
        }
        let twice = "seeds = [1]\n[[strategy]]\nname = \"c\"\n[[strategy]]\nname = \"c\"\n";
        let faults = strategies(&SweepFile::parse("s", twice).unwrap()).unwrap_err();
        assert_eq!(faults, ["two strategies are called \"c\""]);
    }
}
