//! Sections, and the macro that declares one.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::at_resume::AtResume;
use crate::doc::Doc;
use crate::setting::Setting;

/// A section of a configuration, declared with [`section!`](crate::section).
pub trait Section: Default + Serialize + DeserializeOwned + 'static {
    /// Its name.
    const NAME: &'static str;
    /// Whether its keys may change at a resume, unless they say otherwise.
    const AT_RESUME: AtResume = AtResume::Fixed;
    /// What it is for.
    const DOC: Doc;

    /// Its keys, in order.
    fn settings() -> &'static [Setting];

    /// Everything that is wrong with it, each a sentence that starts with the key.
    fn faults(&self) -> Vec<String>;

    /// What is wrong with those of its keys that `is_wanted` accepts.
    fn faults_of(&self, is_wanted: &dyn Fn(&str) -> bool) -> Vec<String>;

    /// Its paths, each with its key as `section.key`.
    fn paths_mut(&mut self) -> Vec<(&'static str, &mut PathBuf)>;
}

/// A section without its type.
#[derive(Clone, Copy, Debug)]
pub struct SectionInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: Doc,
    settings: fn() -> &'static [Setting],
    pub(crate) fits: fn(&str, &Value) -> Result<(), String>,
}

impl SectionInfo {
    /// The section that `S` declares.
    pub const fn of<S: Section>() -> Self {
        Self { name: S::NAME, doc: S::DOC, settings: S::settings, fits: fits::<S> }
    }

    /// Its keys, in order.
    pub fn settings(&self) -> &'static [Setting] {
        (self.settings)()
    }

    /// The key of this name.
    pub fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings().iter().find(|setting| setting.key == key)
    }
}

/// Whether `value` can stand for `key` of `S`; the reason if not.
fn fits<S: DeserializeOwned>(key: &str, value: &Value) -> Result<(), String> {
    let table = Table::from_iter([(key.to_owned(), value.clone())]);
    table.try_into::<S>().map(drop).map_err(|error| error.message().to_owned())
}
