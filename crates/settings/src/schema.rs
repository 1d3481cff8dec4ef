//! The keys of a whole configuration.

use std::fmt;

use toml::{Table, Value};

use crate::section::SectionInfo;
use crate::setting::Setting;

/// The sections of a configuration, in order.
#[derive(Clone, Copy, Debug)]
pub struct Schema(pub &'static [SectionInfo]);

/// A key that has no effect beside the others.
#[derive(Clone, Debug)]
pub struct Idle {
    /// The key.
    pub setting: &'static Setting,
    /// Its value, if it has one.
    pub value: Option<Value>,
    /// Why, and what to do.
    pub why: String,
}

impl Schema {
    /// The section of this name.
    pub fn section(&self, name: &str) -> Option<&'static SectionInfo> {
        self.0.iter().find(|section| section.name == name)
    }

    /// The key `section.key`.
    pub fn setting(&self, path: &str) -> Option<&'static Setting> {
        let (section, key) = path.split_once('.')?;
        self.section(section)?.setting(key)
    }

    /// Every key, section by section.
    pub fn settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.0.iter().flat_map(SectionInfo::settings)
    }

    /// The keys that have no effect in `sections`, which holds a value for every key that has one.
    pub fn idle(&self, sections: &Table) -> Vec<Idle> {
        self.settings()
            .filter_map(|setting| {
                let value = value_of(sections, &setting.path()).cloned();
                Some(Idle { setting, value, why: self.why_idle(setting, sections)? })
            })
            .collect()
    }

    /// Takes the keys that have no effect out of `sections`.
    pub fn remove_idle(&self, sections: &mut Table) {
        for Idle { setting, .. } in self.idle(sections) {
            if let Some(Value::Table(section)) = sections.get_mut(setting.section) {
                section.remove(setting.key);
            }
        }
    }

    /// A sentence for each key that has a value in `sections` but lacks the one that it needs.
    pub fn lacking(&self, sections: &Table) -> Vec<String> {
        let lacking = |setting: &Setting| {
            let path = setting.path();
            let (needed, what) = setting.needs?;
            let lacks = value_of(sections, &path).is_some() && value_of(sections, needed).is_none();
            lacks.then(|| format!("{path}: needs {what}; set {needed}"))
        };
        self.settings().filter_map(lacking).collect()
    }

    /// Why a key has no effect. A key that itself has none counts as one without a value.
    fn why_idle(&self, setting: &Setting, sections: &Table) -> Option<String> {
        setting.idle.iter().find_map(|condition| {
            let other = self.setting(condition.key);
            let is_idle = other.is_some_and(|other| self.why_idle(other, sections).is_some());
            let value = if is_idle { None } else { value_of(sections, condition.key) };
            condition.holds(value).then(|| condition.why(value))
        })
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, value, why } = self;
        match value {
            Some(value) => write!(f, "{} = {value}: {why}", setting.path()),
            None => write!(f, "{}: {why}", setting.path()),
        }
    }
}

fn value_of<'a>(sections: &'a Table, path: &str) -> Option<&'a Value> {
    let (section, key) = path.split_once('.')?;
    sections.get(section)?.get(key)
}
