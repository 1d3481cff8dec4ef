//! Settings from one place: a file, a preset, the command line.

use std::path::Path;

use toml::{Table, Value};
use wattle_session::Config;

use super::Preset;
use super::keys::parse_toml;

/// How many sections the configuration of a run had in the first version; later versions have more.
const SECTIONS_OF_A_RUN: usize = 15;

/// Settings from one place.
#[derive(Clone, Debug)]
pub struct Layer {
    /// What to call that place in a message.
    pub(super) origin: String,
    /// Whether the user wrote it, so that it may be held to what it says.
    pub(super) is_explicit: bool,
    pub(super) table: Table,
}

impl Layer {
    /// Settings from TOML text.
    ///
    /// # Errors
    /// If it is not TOML.
    pub fn parse(origin: &str, text: &str) -> Result<Self, String> {
        let table = parse_toml(origin, text)?;
        Ok(Self { origin: origin.to_owned(), is_explicit: true, table })
    }

    /// What a stored configuration has for keys whose default depends on others: a later version may have another
    /// default, and a run goes on with its own.
    pub fn derived_of(stored: &Config) -> Self {
        let mut schedule = Table::new();
        schedule.extend(
            stored.schedule.min_learning_rate.map(|min| ("min_learning_rate".to_owned(), Value::Float(min))),
        );
        let table = Table::from_iter([("schedule".to_owned(), Value::Table(schedule))]);
        Self { origin: "the stored configuration".to_owned(), is_explicit: false, table }
    }

    /// Settings that are read already, from what a message calls `origin`.
    pub fn of(origin: impl Into<String>, table: Table) -> Self {
        Self { origin: origin.into(), is_explicit: true, table }
    }

    /// What a message calls the place that it is from.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether a run wrote it: only runs write every section down. Those of earlier versions have keys that have no
    /// effect, and nobody has asked for them.
    pub(super) fn is_of_a_run(&self) -> bool {
        self.table.len() >= SECTIONS_OF_A_RUN
    }

    /// The settings of a preset.
    pub(super) fn preset(preset: Preset) -> Result<Self, String> {
        let layer = Self::parse(&format!("preset {}", preset.name()), preset.toml())?;
        Ok(Self { is_explicit: false, ..layer })
    }

    /// Settings from a file. Its relative paths are relative to where the program was started.
    ///
    /// # Errors
    /// If it cannot be read or is not TOML.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = wattle_files::read_stream(path, wattle_files::SMALL).map_err(|e| {
            format!("{}: the configuration cannot be read: {e}{}", path.display(), meant_by(path))
        })?;
        Self::parse(&path.display().to_string(), &text).map_err(|fault| match path.extension() {
            Some(extension) if extension == "toml" => fault,
            _ => format!(
                "{fault}; to train on a text, name it by --set data.input={:?}",
                [path.display().to_string()]
            ),
        })
    }

    /// One setting from the command line. A value that is not TOML is taken as text.
    pub(super) fn set(pair: &str) -> Result<Self, String> {
        let expected = || format!("--set {pair}: expected section.key=value, such as model.n_layers=6");
        let (path, value) = pair.split_once('=').ok_or_else(expected)?;
        let (section, key) = path.trim().split_once('.').ok_or_else(expected)?;
        let value = value.trim();
        let value = format!("value = {value}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::String(value.to_owned()));
        let section_table = Table::from_iter([(key.to_owned(), value)]);
        let table = Table::from_iter([(section.to_owned(), Value::Table(section_table))]);
        Ok(Self { origin: "--set".to_owned(), is_explicit: true, table })
    }
}

/// What the user may have meant if `path` is not a configuration file, to end a message with.
fn meant_by(path: &Path) -> String {
    let name = path.to_string_lossy();
    if let Ok(preset) = <Preset as clap::ValueEnum>::from_str(&name, true) {
        return format!("; did you mean --preset {}?", preset.name());
    }
    let stored = path.join("config.toml");
    match (path.is_dir(), stored.is_file()) {
        (true, true) => format!(
            "; {0} is a run: to go on with it, name it by --resume --out {0}; to start another like it, give {1}",
            path.display(),
            stored.display()
        ),
        (true, false) => "; it is a folder: name a TOML file".to_owned(),
        (false, _) => String::new(),
    }
}
