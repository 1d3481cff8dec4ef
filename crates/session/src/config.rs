//! The configuration of a run: its sections, what is wrong with them, and what may differ at a resume.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use wattle_data::{DataConfig, TokenizerConfig};
use wattle_grid::GridConfig;
use wattle_meter::{CarbonConfig, CostConfig, EnergyConfig};
use wattle_model::{GradientType, LoraConfig, ModelConfig};
use wattle_runlog::{LineFile, Record};
use wattle_train::config::{EngineChoice, MomentType};
use wattle_train::{
    CheckpointConfig, EarlyStopConfig, EvaluateConfig, OptimizerConfig, PrecisionConfig, ScheduleConfig,
    TrainConfig, TrainError,
};

use wattle_settings::{AtResume, Schema, Section, SectionInfo, section};

macro_rules! sections {
    ($($name:ident: $Config:ty,)*) => {
        /// A run's configuration. Each section belongs to the crate that acts on it.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $(#[allow(missing_docs, reason = "the section of its name")] pub $name: $Config,)*
        }

        /// Every key of every section.
        pub const SCHEMA: Schema = Schema(&[$(SectionInfo::of::<$Config>()),*]);

        impl Config {
            /// Everything that is wrong with it, each a sentence that starts with the key.
            pub fn faults(&self) -> Vec<String> {
                let mut faults = Vec::new();
                $(faults.extend(self.$name.faults());)*
                faults.extend(SCHEMA.lacking(&self.to_whole_table()));
                faults
            }

            /// Every path in it, with its key as `section.key`.
            pub fn paths_mut(&mut self) -> Vec<(&'static str, &mut PathBuf)> {
                let mut paths = Vec::new();
                $(paths.extend(self.$name.paths_mut());)*
                paths
            }
        }
    };
}

sections! {
    run: RunConfig,
    data: DataConfig,
    tokenizer: TokenizerConfig,
    model: ModelConfig,
    lora: LoraConfig,
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    early_stop: EarlyStopConfig,
    precision: PrecisionConfig,
    checkpoint: CheckpointConfig,
    energy: EnergyConfig,
    carbon: CarbonConfig,
    cost: CostConfig,
    grid: GridConfig,
    budget: BudgetConfig,
}

section! {
    /// Name and seed.
    #[section(run)]
    pub struct RunConfig {
        /// The run's name; run directories begin with it.
        pub name: String = "default".to_owned(),
            expects_that("letters, digits, '-', '_' and '.', since it names a directory", |name| is_plain_name(name));
        /// Seed of initial values, data order and dropout.
        pub seed: u64 = 1;
    }
}

section! {
    /// What a run may use.
    ///
    /// Training ends with a checkpoint when the run has used as much.
    #[section(budget, at_resume = Free)]
    pub struct BudgetConfig {
        /// Energy of the building (`energy.pue` included).
        pub max_energy_kwh: Option<f64> = None,
            unit("kilowatt-hours"),
            unset("no limit"),
            expects(above(0.0));
        /// Emissions.
        pub max_emissions_g: Option<f64> = None,
            unit("grams of CO₂-equivalent"),
            unset("no limit"),
            expects(above(0.0));
        /// Cost of the electricity.
        pub max_cost: Option<f64> = None,
            unit("`cost.currency`"),
            unset("no limit"),
            expects(above(0.0)),
            needs("cost.price_per_kwh", "a price");
    }
}

impl Config {
    /// The configuration as a file that reproduces it.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.to_table()).expect("a configuration is plain data")
    }

    /// [`Config::to_toml`] for a model of the program's own, whose sizes no key states.
    pub fn to_toml_of_own_model(&self) -> String {
        let mut table = self.to_table();
        if let Some(Value::Table(model)) = table.get_mut("model") {
            model.retain(|key, _| matches!(key, "context" | "dropout"));
        }
        toml::to_string(&table).expect("a configuration is plain data")
    }

    /// Reads the configuration that a run directory keeps.
    ///
    /// # Errors
    /// If it cannot be read, is not TOML, or has unknown keys.
    pub fn read(path: &Path) -> Result<Self, Vec<String>> {
        let cannot = |reason: String| vec![format!("{}: {reason}", path.display())];
        let text = wattle_files::read_stream(path, wattle_files::SMALL).map_err(|e| cannot(e.to_string()))?;
        let mut config: Self = toml::from_str(&text).map_err(|e| cannot(e.message().to_owned()))?;
        config.schedule.settle(&config.optimizer);
        Ok(config)
    }

    /// Makes every path absolute: the stored configuration alone reproduces the run, wherever it is started from.
    ///
    /// # Errors
    /// If a path is empty, or the working directory is gone.
    pub fn make_absolute(&mut self) -> Result<(), String> {
        for (key, path) in self.paths_mut() {
            *path = std::path::absolute(&*path).map_err(|e| format!("{key} = {}: {e}", path.display()))?;
        }
        Ok(())
    }

    /// The sections, without keys that have no effect.
    pub fn to_table(&self) -> Table {
        let mut table = self.to_whole_table();
        SCHEMA.remove_idle(&mut table);
        table
    }

    /// The sections, with every key that has a value.
    pub fn to_whole_table(&self) -> Table {
        Table::try_from(self).expect("a configuration is plain data")
    }

    /// What is wrong between sections, each of which is right by itself.
    pub fn contradictions(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let is_autograd = self.train.engine == EngineChoice::Autograd;
        if self.precision.fp8().is_some() {
            faults.extend(self.model.refuse_fp8_sizes().err().map(|error| error.to_string()));
            faults.extend(is_autograd.then(|| TrainError::NoFp8.to_string()));
        }
        if self.precision.moments != MomentType::F32 && is_autograd {
            faults.push(TrainError::NoBf16Moments.to_string());
        }
        if self.precision.gradients != GradientType::F32 && is_autograd {
            faults.push(TrainError::NoBf16Gradients.to_string());
        }
        faults.extend(self.lora_contradictions());
        faults
    }

    /// What is wrong between adapters and the rest.
    fn lora_contradictions(&self) -> Vec<String> {
        let LoraConfig { rank, dropout, .. } = self.lora;
        if !self.lora.is_on() {
            return Vec::new();
        }
        let mut faults = Vec::new();
        if self.model.init_from.is_none() {
            faults.push(format!(
                "lora.rank = {rank}: adapters are trained beside weights that are there already; name them by \
                 model.init_from"
            ));
        }
        if self.precision.fp8().is_some() {
            faults.push(format!(
                "lora.rank = {rank}: adapters have no products in fp8; set precision.dtype to \"bf16\" or \"f32\""
            ));
        }
        if dropout > 0.0 && self.train.engine == EngineChoice::Autograd {
            faults.push(TrainError::NoLoraDropout.to_string());
        }
        if self.precision.gradients != GradientType::F32 {
            faults.push(format!(
                "lora.rank = {rank}: gradients of adapters are in f32; set precision.gradients to \"f32\""
            ));
        }
        faults.extend(self.lora.faults_for(&self.model));
        faults
    }

    /// Gives every key that has no effect its default, as if it had not been set.
    pub fn reset_idle(&mut self) {
        let known_format = self.data.known_format.take();
        *self = self.to_table().try_into().expect("a part of a configuration is one");
        self.data.known_format = known_format;
    }
}

/// Keys in which two configurations differ, each as `key: stored → given`, but for those that a resumed run may
/// change.
pub fn differences(stored: &Config, given: &Config) -> Vec<String> {
    differences_but_for(stored, given, |key| {
        SCHEMA.setting(key).is_some_and(|setting| setting.at_resume == AtResume::Free)
    })
}

/// What keeps the run in `path`, whose stored configuration is `stored`, from being resumed with `given`: the keys that
/// may not differ, and a currency other than that of the costs booked so far. Each line starts with the key.
pub fn resume_faults(path: &Path, stored: &Config, given: &Config) -> Vec<String> {
    let mut faults = differences(stored, given);
    faults.extend(other_currency(path, &stored.cost, &given.cost));
    faults
}

fn other_currency(path: &Path, stored: &CostConfig, given: &CostConfig) -> Option<String> {
    given.price_per_kwh?;
    let of_stored = || stored.price_per_kwh.map(|_| stored.currency.clone());
    let booked = booked_currency(path).or_else(of_stored)?;
    (booked != given.currency).then(|| {
        format!(
            "cost.currency: {booked:?} in the run, {:?} now; its costs are in {booked}, and a sum of two currencies has \
             no meaning",
            given.currency
        )
    })
}

/// The currency of the costs that a run has booked, if it has.
fn booked_currency(path: &Path) -> Option<String> {
    let records = LineFile::read(&path.join("emissions.jsonl"), Record::from_json).ok()?.entries;
    records.into_iter().rev().find_map(|record| record.cost).map(|cost| cost.currency)
}

/// Every key in which two configurations differ.
pub fn all_differences(stored: &Config, given: &Config) -> Vec<String> {
    differences_but_for(stored, given, |_| false)
}

fn differences_but_for(stored: &Config, given: &Config, is_free: impl Fn(&str) -> bool) -> Vec<String> {
    let (stored, given) = (flatten(&stored.to_table()), flatten(&given.to_table()));
    let mut keys: Vec<&String> = stored.keys().chain(given.keys()).collect();
    keys.sort();
    keys.dedup();
    let show = |value: Option<&Value>| value.map_or("not set".to_owned(), ToString::to_string);
    keys.into_iter()
        .filter(|key| !is_free(key) && stored.get(*key) != given.get(*key))
        .map(|key| format!("{key}: {} in the run, {} now", show(stored.get(key)), show(given.get(key))))
        .collect()
}

/// The keys of all sections, as `section.key`.
pub fn flatten(sections: &Table) -> Table {
    let mut flat = Table::new();
    for (section, keys) in sections {
        if let Value::Table(keys) = keys {
            flat.extend(keys.iter().map(|(key, value)| (format!("{section}.{key}"), value.clone())));
        }
    }
    flat
}

/// The one key of all sections that is called `name`, as `section.key`.
pub fn key_called(name: &str) -> Option<String> {
    let mut found = SCHEMA.settings().filter(|setting| setting.key == name);
    match (found.next(), found.next()) {
        (Some(setting), None) => Some(setting.path()),
        _ => None,
    }
}

/// Whether a name may name a directory, as that of a run does.
pub fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain)
}

impl BudgetConfig {
    /// Whether some limit is higher than in `earlier`, or gone.
    pub fn allows_more_than(&self, earlier: &Self) -> bool {
        let limits = |budget: &Self| [budget.max_energy_kwh, budget.max_emissions_g, budget.max_cost];
        let unlimited = |limit: Option<f64>| limit.unwrap_or(f64::INFINITY);
        limits(self).into_iter().zip(limits(earlier)).any(|(now, then)| unlimited(now) > unlimited(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_settings::{Kind, Test};

    #[test]
    fn sections_are_called_what_their_definitions_call_them() {
        let table = Config::default().to_whole_table();
        let mut names: Vec<&str> = SCHEMA.0.iter().map(|section| section.name).collect();
        names.sort_unstable();
        assert_eq!(names, table.keys().collect::<Vec<_>>());
    }

    #[test]
    fn every_default_is_fine_and_every_key_is_documented() {
        assert_eq!(Config::default().faults(), Vec::<String>::new());
        for setting in SCHEMA.settings() {
            let (path, summary) = (setting.path(), setting.doc.summary());
            assert!(summary.ends_with('.') && !summary.contains(['[', ']']), "{path}: {summary}");
            assert!(
                setting.default.is_some() || setting.unset.is_some(),
                "{path}: what applies without a value?"
            );
        }
    }

    #[test]
    fn in_help_texts_each_key_has_a_line_of_an_ordinary_terminal() {
        let help = SCHEMA.help(80);
        assert_eq!(help.lines().count(), SCHEMA.settings().count() + 2 * SCHEMA.0.len() - 1, "{help}");
        let too_long: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(too_long.is_empty(), "{too_long:#?}");
    }

    /// A key that another names is there, and can have the values that are named.
    #[test]
    fn conditions_name_keys_and_values_that_there_are() {
        for setting in SCHEMA.settings() {
            for condition in &setting.idle {
                let path = setting.path();
                let other = SCHEMA.setting(condition.key).unwrap_or_else(|| panic!("{path}: {condition:?}"));
                match (condition.test, other.kind) {
                    (Test::Set | Test::Unset, _) | (Test::Zero, Kind::Number | Kind::Whole) => {}
                    (Test::OneOf(names) | Test::NoneOf(names), Kind::Choice(choices)) => {
                        let is_choice = |name: &&str| choices.iter().any(|choice| choice.name == *name);
                        assert!(names.iter().all(is_choice), "{path}: {names:?}");
                    }
                    (test, kind) => panic!("{path}: {test:?} of {kind:?}"),
                }
            }
            if let Some((key, _)) = setting.needs {
                assert!(SCHEMA.setting(key).is_some(), "{} needs {key}", setting.path());
            }
        }
    }

    #[test]
    fn every_path_is_known() {
        let mut config = Config::default();
        let path = || Some(PathBuf::from("a"));
        config.data.input = vec!["a".into(), "b".into()];
        (config.data.dir, config.data.cache_dir, config.tokenizer.file) = (path(), path(), path());
        config.grid.cache_dir = path();
        (config.carbon.table, config.model.init_from, config.train.kernels) = (path(), path(), path());
        config.energy.calibration = path();
        config.evaluate.tasks = vec!["a".into()];
        let keys: Vec<&str> = config.paths_mut().into_iter().map(|(key, _)| key).collect();
        let is_path = |kind| matches!(kind, Kind::Path | Kind::Paths);
        let mut expected: Vec<String> =
            SCHEMA.settings().filter(|setting| is_path(setting.kind)).map(|setting| setting.path()).collect();
        expected.insert(0, "data.input".to_owned());
        assert_eq!(keys, expected);
    }
}
