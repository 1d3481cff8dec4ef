//! The keys of a whole configuration.

use std::fmt;

use toml::{Table, Value};

use crate::section::{Section, SectionInfo};
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

/// The keys of `section` that its other keys leave without effect.
pub fn idle_of<S: Section>(section: &S) -> Vec<Idle> {
    let values = Value::try_from(section).expect("a section is plain data");
    let sections = Table::from_iter([(S::NAME.to_owned(), values)]);
    idle(S::settings().iter(), |path| S::settings().iter().find(|setting| setting.path() == path), &sections)
}

impl Idle {
    /// Whether the key has its default value.
    pub fn has_default(&self) -> bool {
        self.value == self.setting.default
    }
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
        idle(self.settings(), |path| self.setting(path), sections)
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
}

type Find<'a> = &'a dyn Fn(&str) -> Option<&'static Setting>;

fn idle(
    settings: impl Iterator<Item = &'static Setting>,
    find: impl Fn(&str) -> Option<&'static Setting>,
    sections: &Table,
) -> Vec<Idle> {
    let idle = |setting: &'static Setting| {
        let why = why_idle(setting, &find, sections)?;
        Some(Idle { setting, value: value_of(sections, &setting.path()).cloned(), why })
    };
    settings.filter_map(idle).collect()
}

/// Why a key has no effect. A key that itself has none counts as one without a value.
fn why_idle(setting: &Setting, find: Find<'_>, sections: &Table) -> Option<String> {
    setting.idle.iter().find_map(|condition| {
        let is_idle = find(condition.key).is_some_and(|other| why_idle(other, find, sections).is_some());
        let value = if is_idle { None } else { value_of(sections, condition.key) };
        let has_other =
            condition.also_without.iter().flatten().any(|other| value_of(sections, other).is_some());
        (condition.holds(value) && !has_other).then(|| condition.why(value))
    })
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
