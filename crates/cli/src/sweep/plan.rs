//! Every run of a sweep with its whole configuration, in the order in which they are made.
//!
//! Seeds are the outer loop and strategies the inner one: what changes about a machine over the hours, its
//! temperature and whoever else uses it, meets all strategies alike.

use toml::{Table, Value};
use wattle_session::Config;

use super::file::SweepFile;
use super::strategy::{Strategy, strategies};

use crate::config::{Layer, Sources, resolve_quietly};

/// Keys that a sweep gives itself.
const ITS_OWN: [(&str, &str); 2] =
    [("name", "run.name is the strategy's name"), ("seed", "run.seed comes from seeds")];

/// A sweep, checked.
#[derive(Clone, Debug)]
pub struct SweepPlan {
    /// Every way of training, with its first seed.
    pub strategies: Vec<Config>,
    /// Every run, in order.
    pub runs: Vec<PlannedRun>,
    /// The validation loss to compare the way to.
    pub target_loss: Option<f64>,
}

/// One run of a sweep.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// Its directory's name.
    pub name: String,
    /// Its configuration.
    pub config: Config,
}

impl SweepPlan {
    /// The plan of a sweep that a message calls `origin`.
    ///
    /// # Errors
    /// Everything that is wrong, in one list.
    pub fn of(origin: &str, file: &SweepFile) -> Result<Self, Vec<String>> {
        let within = |fault: String| format!("{origin}: {fault}");
        let ways = strategies(file).map_err(|faults| faults.into_iter().map(within).collect::<Vec<_>>())?;
        let base = Base { origin, file };
        let of_base = base.resolve(None).err().unwrap_or_default();
        let mut faults = base.own_keys();
        let (mut resolved, mut notes) = (Vec::new(), Vec::new());
        for strategy in &ways {
            match base.resolve(Some(strategy)) {
                Ok((config, noted)) => {
                    resolved.push(config);
                    notes.extend(noted);
                }
                Err(wrong) => faults.extend(wrong.into_iter().map(|fault| {
                    let is_of = |layer: &Layer| fault.starts_with(layer.origin());
                    let says_where = of_base.contains(&fault) || strategy.settings.iter().any(is_of);
                    if says_where { fault } else { format!("strategy {:?}: {fault}", strategy.name) }
                })),
            }
        }
        // What is said of all that they stand on is said of each of them.
        let faults = each_once(faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        each_once(notes).iter().for_each(|note| tracing::warn!("{note}"));
        let runs = file.seeds.iter().flat_map(|seed| resolved.iter().map(|way| PlannedRun::new(way, *seed)));
        Ok(Self { runs: runs.collect(), strategies: resolved, target_loss: file.target_loss })
    }
}

/// The sentences, each where it first is.
fn each_once(sentences: Vec<String>) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for sentence in sentences {
        if !told.contains(&sentence) {
            told.push(sentence);
        }
    }
    told
}

impl PlannedRun {
    fn new(way: &Config, seed: u64) -> Self {
        let mut config = way.clone();
        config.run.seed = seed;
        Self { name: format!("{}-s{seed}", config.run.name), config }
    }
}

/// What all strategies stand on.
struct Base<'a> {
    origin: &'a str,
    file: &'a SweepFile,
}

impl Base<'_> {
    /// The configuration of a strategy with the first seed, and what was settled for the user; without one, of what they
    /// stand on.
    fn resolve(&self, strategy: Option<&Strategy>) -> Result<(Config, Vec<String>), Vec<String>> {
        let mut over = vec![Layer::of(format!("{}: [set]", self.origin), self.file.set.clone())];
        if let Some(strategy) = strategy {
            over.extend(strategy.settings.iter().cloned());
            let seed = self.file.seeds.first().copied().unwrap_or_default();
            over.push(Layer::of(self.origin, run_section(&strategy.name, seed)));
        }
        let sources =
            Sources { preset: self.file.base(), file: self.file.config.clone(), over, ..Sources::default() };
        resolve_quietly(None, &sources)
    }

    /// A fault for each place that sets what a sweep gives itself.
    fn own_keys(&self) -> Vec<String> {
        let SweepFile { set, strategy, matrix, .. } = self.file;
        let tables = [("[set]", set), ("[matrix]", matrix)].into_iter();
        let tables = tables.chain(strategy.iter().map(|table| ("[[strategy]]", table)));
        let sets = |table: &Table, key: &str| table.get("run").is_some_and(|run| run.get(key).is_some());
        let in_table = |(place, table): (&str, &Table)| {
            let wrong = ITS_OWN.iter().filter(|(key, _)| sets(table, key));
            wrong.map(|(_, why)| format!("{}: {place}: {why}", self.origin)).collect::<Vec<_>>()
        };
        tables.flat_map(in_table).collect()
    }
}

fn run_section(name: &str, seed: u64) -> Table {
    let seed = i64::try_from(seed).unwrap_or(i64::MAX);
    let run =
        [("name".to_owned(), Value::String(name.to_owned())), ("seed".to_owned(), Value::Integer(seed))];
    Table::from_iter([("run".to_owned(), Value::Table(Table::from_iter(run)))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Result<SweepPlan, Vec<String>> {
        SweepPlan::of("s.toml", &SweepFile::parse("s.toml", text)?)
    }

    #[test]
    fn seeds_are_outside_and_strategies_inside() {
        let plan = plan(
            "seeds = [7, 8]\ntarget_loss = 1.5\n[set]\ntrain.epochs = 1\n\
             [[strategy]]\nname = \"base\"\n[[strategy]]\nname = \"small\"\nmodel.d_model = 64\n",
        )
        .unwrap();
        let names: Vec<_> = plan.runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["base-s7", "small-s7", "base-s8", "small-s8"]);
        let PlannedRun { config, .. } = &plan.runs[3];
        assert_eq!((config.run.name.as_str(), config.run.seed), ("small", 8));
        assert_eq!((config.model.d_model, config.train.epochs), (64, 1));
        assert_eq!(plan.runs[2].config.model.d_model, 128, "the base stays as it is");
        assert_eq!((plan.strategies.len(), plan.target_loss), (2, Some(1.5)));
    }

    #[test]
    fn what_is_wrong_is_told_once_and_with_its_place() {
        let faults = plan(
            "seeds = [1]\n[set]\ntrain.epoch = 1\nrun.seed = 3\n[[strategy]]\nname = \"a\"\nmodel.d_modell = 64\n\
             [[strategy]]\nname = \"b\"\nmodel.n_heads = 5\n[matrix]\ntrain.batch_size = [4, \"x\"]\n",
        )
        .unwrap_err();
        let expected = [
            "s.toml: [set]: run.seed comes from seeds",
            "s.toml: [set]: unknown key \"train.epoch\"; did you mean \"train.epochs\"?",
            "strategy \"a\": unknown key \"model.d_modell\"; did you mean \"model.d_model\"?",
        ];
        assert_eq!(faults[..3], expected);
        let rest = faults[3..].join("\n");
        for part in ["[matrix]: train.batch_size = \"x\"", "strategy \"b_batch_size-4\": model.n_heads = 5"] {
            assert!(rest.contains(part), "{part:?} is not in\n{rest}");
        }
        assert_eq!(faults.iter().filter(|fault| fault.contains("train.epoch")).count(), 1, "{faults:?}");
    }

    #[test]
    fn the_ready_sweep_is_as_it_should_be() {
        let (name, text) = super::super::file::READY;
        let plan = SweepPlan::of(name, &SweepFile::parse(name, text).unwrap()).unwrap();
        assert_eq!(plan.strategies[0].run.name, "base", "all others are held against the first");
        assert!(plan.runs.len() > plan.strategies.len(), "a spread needs more than one seed");
    }
}
