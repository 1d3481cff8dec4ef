//! `SWEEP.toml`: what all strategies stand on, what each of them changes, and the seeds.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use toml::Table;
use wattle_settings::{SectionInfo, section};

use crate::config::{Preset, nearest, parse_toml};

/// The sweep that comes with the program, and what it is called on the command line.
pub const READY: (&str, &str) = ("default", include_str!("../presets/sweep-default.toml"));

section! {
    /// A sweep as it is written down.
    #[section(sweep, check = SweepFile::own_faults)]
    pub struct SweepFile {
        /// A ready configuration to stand on; `default` where there is neither this nor `config`.
        pub preset: Option<String> = None;
        /// A configuration file to stand on, over the preset.
        pub config: Option<PathBuf> = None;
        /// Each strategy is tried with each of them.
        pub seeds: Vec<u64> = Vec::new();
        /// The validation loss to compare the way to; without it, the best that all reach.
        pub target_loss: Option<f64> = None;
        /// Settings of all strategies, by section.
        pub set: Table = Table::new();
        /// A name each, and settings by section.
        pub strategy: Vec<Table> = Vec::new();
        /// Lists of values, by section and key: every strategy with every combination.
        pub matrix: Table = Table::new();
    }
}

/// The keys of a sweep.
const KEYS: SectionInfo = SectionInfo::of::<SweepFile>();

impl SweepFile {
    /// The text of the sweep that is called `name`: a ready one, or a file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn text(name: &Path) -> Result<String, String> {
        let (ready, text) = READY;
        if name.as_os_str() == ready {
            return Ok(text.to_owned());
        }
        wattle_files::read_stream(name, wattle_files::SMALL).map_err(|error| {
            format!("{}: cannot be read: {error}; the ready sweep is called {ready:?}", name.display())
        })
    }

    /// A sweep from TOML text that a message calls `origin`.
    ///
    /// # Errors
    /// Everything that is wrong with it by itself.
    pub fn parse(origin: &str, text: &str) -> Result<Self, Vec<String>> {
        let mut table = parse_toml(origin, text).map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        table.retain(|key, value| {
            let fault = match KEYS.setting(key) {
                Some(setting) => {
                    KEYS.mistake(setting, key, value).map(|mistake| format!("{key} = {value}: {mistake}"))
                }
                None => Some(unknown(key)),
            };
            faults.extend(fault.iter().map(|fault| format!("{origin}: {fault}")));
            fault.is_none()
        });
        let file: Self = table.try_into().expect("what does not fit was taken out");
        faults.extend(file.faults().into_iter().map(|fault| format!("{origin}: {fault}")));
        if faults.is_empty() { Ok(file) } else { Err(faults) }
    }

    /// The ready configuration that it stands on.
    pub fn base(&self) -> Option<Preset> {
        match &self.preset {
            Some(name) => Preset::from_str(name, false).ok(),
            None => self.config.is_none().then_some(Preset::Default),
        }
    }

    fn own_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(name) = self.preset.as_ref().filter(|name| Preset::from_str(name, false).is_err()) {
            let known: Vec<_> = Preset::value_variants().iter().map(|preset| preset.name()).collect();
            faults.push(format!("preset = {name:?}: expected one of {}", known.join(", ")));
        }
        if self.seeds.is_empty() {
            faults.push("seeds: expected at least one, such as seeds = [1, 2, 3]".to_owned());
        }
        if (1..self.seeds.len()).any(|i| self.seeds[..i].contains(&self.seeds[i])) {
            faults.push(format!("seeds = {:?}: each may be there once", self.seeds));
        }
        if let Some(loss) = self.target_loss.filter(|loss| !(loss.is_finite() && *loss > 0.0)) {
            faults.push(format!("target_loss = {loss}: expected a loss above 0, in nats a token"));
        }
        if self.strategy.is_empty() && self.matrix.is_empty() {
            faults.push("expected a [[strategy]] or a [matrix]: there is nothing to try".to_owned());
        }
        faults
    }
}

fn unknown(key: &str) -> String {
    let known: Vec<&str> = KEYS.settings().iter().map(|setting| setting.key).collect();
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key {key:?}; did you mean {near:?}?"),
        None => format!("unknown key {key:?}; expected one of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_told_at_once_with_the_nearest_key() {
        let text = "preset = \"defualt\"\nseed = [1]\ntarget_loss = -1.0\nset = 3\n";
        let faults = SweepFile::parse("s.toml", text).unwrap_err().join("\n");
        for part in [
            "s.toml: unknown key \"seed\"; did you mean \"seeds\"?",
            "s.toml: set = 3: expected a section of keys",
            "preset = \"defualt\": expected one of default",
            "seeds: expected at least one",
            "target_loss = -1",
            "nothing to try",
        ] {
            assert!(faults.contains(part), "{part:?} is not in\n{faults}");
        }
        let twice =
            SweepFile::parse("s.toml", "seeds = [1, 2, 1]\nmatrix.train.batch_size = [1]").unwrap_err();
        assert!(twice.len() == 1 && twice[0].contains("once"), "{twice:?}");
    }

    #[test]
    fn the_ready_sweep_is_found_by_its_name() {
        let text = SweepFile::text(Path::new("default")).unwrap();
        SweepFile::parse("default", &text).unwrap();
        let error = SweepFile::text(Path::new("no/such.toml")).unwrap_err();
        assert!(error.contains("no/such.toml") && error.contains("\"default\""), "{error}");
    }
}
