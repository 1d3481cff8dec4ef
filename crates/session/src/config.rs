//! The configuration of a run: its sections, what is wrong with them, and what may differ at a resume.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};
use wattle_data::{DataConfig, TokenizerConfig};
use wattle_meter::{CarbonConfig, CostConfig, EnergyConfig};
use wattle_model::ModelConfig;
use wattle_train::{
    CheckpointConfig, EarlyStopConfig, EvaluateConfig, OptimizerConfig, PrecisionConfig, ScheduleConfig,
    TrainConfig,
};

use crate::sections::{Section, check_value, field_names};

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// A run's configuration. Each section belongs to the crate that acts on it.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $($(#[$doc])* pub $name: $type,)*
        }

        /// What each section may hold.
        pub const SECTIONS: &[Section] = &[
            $(Section {
                name: stringify!($name),
                keys: field_names::<$type>,
                check: check_value::<$type>,
            },)*
        ];
    };
}

sections! {
    /// Name and seed.
    run: RunConfig,
    /// What to train on.
    data: DataConfig,
    /// How text becomes tokens.
    tokenizer: TokenizerConfig,
    /// What to train.
    model: ModelConfig,
    /// How parameters move.
    optimizer: OptimizerConfig,
    /// How fast.
    schedule: ScheduleConfig,
    /// How much and how long.
    train: TrainConfig,
    /// When to look at held-out data.
    evaluate: EvaluateConfig,
    /// When to stop before the end.
    early_stop: EarlyStopConfig,
    /// In which floating-point type.
    precision: PrecisionConfig,
    /// What to keep.
    checkpoint: CheckpointConfig,
    /// How to meter.
    energy: EnergyConfig,
    /// What a kilowatt-hour emits.
    carbon: CarbonConfig,
    /// What a kilowatt-hour costs.
    cost: CostConfig,
    /// What a run may use.
    budget: BudgetConfig,
}

/// The `run` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// The run's name: run directories begin with it.
    pub name: String,
    /// Initial values, data order and dropout are functions of it.
    pub seed: u64,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self { name: "default".to_owned(), seed: 1 }
    }
}

/// The `budget` section: training ends with a checkpoint when the run has used as much.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Energy of the building (`energy.pue` included), in kilowatt-hours.
    pub max_energy_kwh: Option<f64>,
    /// Emissions, in grams of CO₂-equivalent.
    pub max_emissions_g: Option<f64>,
    /// Cost, in `cost.currency`.
    pub max_cost: Option<f64>,
}

impl Config {
    /// Everything that is wrong with it, each a sentence that starts with the key.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.run.faults();
        faults.extend(self.data.faults());
        faults.extend(self.tokenizer.faults());
        faults.extend(self.model.faults());
        faults.extend(self.optimizer.faults());
        faults.extend(self.schedule.faults());
        faults.extend(self.train.faults());
        faults.extend(self.early_stop.faults());
        faults.extend(self.energy.faults());
        faults.extend(self.carbon.faults());
        faults.extend(self.cost.faults());
        faults.extend(self.budget.faults(&self.cost));
        faults
    }

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

    /// The sections, without keys that change nothing.
    pub fn to_table(&self) -> Table {
        let mut table = Table::try_from(self).expect("a configuration is plain data");
        if let Some(Value::Table(model)) = table.get_mut("model") {
            self.model.idle_keys().iter().for_each(|key| drop(model.remove(*key)));
        }
        table
    }
}

/// Keys in which two configurations differ, each as `key: stored → given`, but for those that a resumed run may
/// change.
pub fn differences(stored: &Config, given: &Config) -> Vec<String> {
    differences_but_for(stored, given, |key| {
        // The number of threads changes no bit.
        matches!(key, "train.max_steps" | "train.epochs" | "train.threads" | "train.log_every")
            || ["budget.", "checkpoint.", "energy."].iter().any(|section| key.starts_with(section))
    })
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
    let mut found = SECTIONS
        .iter()
        .filter(|section| (section.keys)().contains(&name))
        .map(|section| format!("{}.{name}", section.name));
    match (found.next(), found.next()) {
        (Some(key), None) => Some(key),
        _ => None,
    }
}

/// Whether a name may name a directory, as that of a run does.
pub fn is_plain_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain)
}

impl RunConfig {
    fn faults(&self) -> Vec<String> {
        if !is_plain_name(&self.name) {
            return vec![format!(
                "run.name = {:?}: expected letters, digits, '-', '_' and '.', since it names a directory",
                self.name
            )];
        }
        Vec::new()
    }
}

impl BudgetConfig {
    /// Whether some limit is higher than in `earlier`, or gone.
    pub fn allows_more_than(&self, earlier: &Self) -> bool {
        let limits = |budget: &Self| [budget.max_energy_kwh, budget.max_emissions_g, budget.max_cost];
        let unlimited = |limit: Option<f64>| limit.unwrap_or(f64::INFINITY);
        limits(self).into_iter().zip(limits(earlier)).any(|(now, then)| unlimited(now) > unlimited(then))
    }

    fn faults(&self, cost: &CostConfig) -> Vec<String> {
        let limits = [
            ("max_energy_kwh", self.max_energy_kwh),
            ("max_emissions_g", self.max_emissions_g),
            ("max_cost", self.max_cost),
        ];
        let mut faults: Vec<String> = limits
            .into_iter()
            .filter_map(|(key, limit)| Some((key, limit?)))
            .filter(|(_, limit)| !(limit.is_finite() && *limit > 0.0))
            .map(|(key, limit)| format!("budget.{key} = {limit}: expected a number above 0"))
            .collect();
        if self.max_cost.is_some() && cost.price_per_kwh.is_none() {
            faults.push("budget.max_cost: needs a price; set cost.price_per_kwh".to_owned());
        }
        faults
    }
}
