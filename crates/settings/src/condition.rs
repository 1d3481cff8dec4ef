//! When a key has no effect.

use toml::Value;

/// That another key has, or lacks, some value, so that the key which names this condition has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The other key, as `section.key`.
    pub key: &'static str,
    /// What it is tested for.
    pub test: Test,
    /// Other keys that have to lack a value too.
    pub also_without: [Option<&'static str>; 2],
    because: Option<&'static str>,
}

/// What a key is tested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// It has a value.
    Set,
    /// It has none.
    Unset,
    /// Its value is the number 0.
    Zero,
    /// Its value is one of these names.
    OneOf(&'static [&'static str]),
    /// Its value is none of these names.
    NoneOf(&'static [&'static str]),
}

impl Condition {
    /// A condition without words of its own.
    pub const fn new(key: &'static str, test: Test) -> Self {
        Self { key, test, also_without: [None; 2], because: None }
    }

    /// The same condition, with what a message says: why the key has no effect, and what to do.
    #[must_use]
    pub const fn because(self, why: &'static str) -> Self {
        Self { because: Some(why), ..self }
    }

    /// The same condition, that holds only where `other` has no value either. Two keys can be named so.
    #[must_use]
    pub const fn and_without(self, other: &'static str) -> Self {
        match self.also_without {
            [None, _] => Self { also_without: [Some(other), None], ..self },
            [first, _] => Self { also_without: [first, Some(other)], ..self },
        }
    }

    /// Whether it holds where its key has the value `value`.
    pub fn holds(&self, value: Option<&Value>) -> bool {
        let is_among =
            |names: &[&str]| value.and_then(Value::as_str).is_some_and(|name| names.contains(&name));
        match self.test {
            Test::Set => value.is_some(),
            Test::Unset => value.is_none(),
            Test::Zero => {
                value.and_then(Value::as_float) == Some(0.0) || value.and_then(Value::as_integer) == Some(0)
            }
            Test::OneOf(names) => is_among(names),
            Test::NoneOf(names) => !is_among(names),
        }
    }

    /// Why a key has no effect where the condition's key has the value `value`, and what to do.
    pub fn why(&self, value: Option<&Value>) -> String {
        if let Some(why) = self.because {
            return why.to_owned();
        }
        let key = self.key;
        let with = match (self.test, value) {
            (Test::Set, _) => format!("where {key} is set"),
            (_, None) => format!("without {key}"),
            (_, Some(value)) => format!("with {key} = {value}"),
        };
        let with = self.or_without(with, |other| other.to_owned());
        let remedy = match self.test {
            Test::Set => format!("remove {key}"),
            Test::Unset => format!("set {key}"),
            Test::NoneOf(names) => format!("set {key} = {}", alternatives(names)),
            Test::Zero | Test::OneOf(_) => format!("change {key}"),
        };
        format!("has no effect {with}; leave it out or {remedy}")
    }

    /// When a key has no effect, in the reference's words.
    pub fn described(&self) -> String {
        let key = self.key;
        let described = match self.test {
            Test::Set => format!("where `{key}` is set"),
            Test::Unset => format!("without `{key}`"),
            Test::Zero => format!("with `{key} = 0`"),
            Test::OneOf(names) => format!("with `{key} = {}`", alternatives(names)),
            Test::NoneOf(names) => format!("unless `{key} = {}`", alternatives(names)),
        };
        self.or_without(described, |other| format!("`{other}`"))
    }

    /// `described`, with the other keys that have to lack a value.
    fn or_without(&self, described: String, shown: impl Fn(&str) -> String) -> String {
        let others: Vec<String> = self.also_without.iter().flatten().map(|other| shown(other)).collect();
        let joint = if self.test == Test::Unset { "or" } else { "and without" };
        match others.is_empty() {
            true => described,
            false => format!("{described} {joint} {}", others.join(" or ")),
        }
    }
}

fn alternatives(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ")
}
