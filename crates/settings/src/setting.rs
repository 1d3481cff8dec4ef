//! A key as help texts, messages and the reference know it.

use serde::Serialize;
use toml::Value;

use crate::at_resume::AtResume;
use crate::condition::Condition;
use crate::doc::Doc;
use crate::kind::{Kind, SettingType};
use crate::range::Range;
use crate::rules::Rules;

/// A key of a configuration.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The section's name.
    pub section: &'static str,
    /// The key's name within its section.
    pub key: &'static str,
    /// What it is for.
    pub doc: Doc,
    /// What it takes.
    pub kind: Kind,
    /// The unit of its value.
    pub unit: Option<&'static str>,
    /// Its default; `None` if it has no value by default.
    pub default: Option<Value>,
    /// What applies where it has no value.
    pub unset: Option<&'static str>,
    /// Where the default comes from.
    pub source: Option<&'static str>,
    /// What is expected of its value, in words that follow "expected".
    pub expected: Vec<String>,
    /// The key that it needs beside it, and what a message calls that.
    pub needs: Option<(&'static str, &'static str)>,
    /// When it has no effect: where any of these holds.
    pub idle: Vec<Condition>,
    /// Whether it may change at a resume.
    pub at_resume: AtResume,
}

impl Setting {
    /// A key from what its declaration says.
    pub fn new<S, T: SettingType + Serialize>(
        section: &'static str,
        key: &'static str,
        doc: Doc,
        default: &T,
        rules: Rules<S, T>,
    ) -> Self {
        let words = rules.properties.iter().map(|property| property.words.to_owned());
        Self {
            section,
            key,
            doc,
            kind: T::KIND,
            unit: rules.unit,
            default: if default.is_unset() { None } else { Value::try_from(default).ok() },
            unset: rules.unset,
            source: rules.source,
            expected: rules
                .ranges
                .iter()
                .map(|range| Range::expected(range).to_owned())
                .chain(words)
                .collect(),
            needs: rules.needs,
            idle: rules.idle,
            at_resume: rules.at_resume,
        }
    }

    /// The key as `section.key`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.key)
    }

    /// Its default as TOML, if it has one.
    pub fn default_text(&self) -> Option<String> {
        self.default.as_ref().map(text)
    }
}

/// A value as TOML; numbers of many zeros as powers of ten.
fn text(value: &Value) -> String {
    match value {
        Value::Float(number) if *number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
        value => value.to_string(),
    }
}
