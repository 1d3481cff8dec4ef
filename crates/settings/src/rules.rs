//! What a declaration says of a key besides its type and default: the words that [`section!`](crate::section) takes
//! after the default.

use crate::at_resume::AtResume;
use crate::condition::{Condition, Test};
use crate::kind::SettingType;
use crate::range::Range;

/// What is said of a key of type `T` in the section `S`.
#[derive(Clone, Debug)]
pub struct Rules<S, T> {
    pub(crate) unit: Option<&'static str>,
    pub(crate) unset: Option<&'static str>,
    pub(crate) source: Option<&'static str>,
    pub(crate) at_resume: AtResume,
    pub(crate) idle: Vec<Condition>,
    pub(crate) needs: Option<(&'static str, &'static str)>,
    pub(crate) ranges: Vec<Range>,
    pub(crate) properties: Vec<Property<T>>,
    is_checked: fn(&S) -> bool,
    checks: Vec<fn(&S) -> Option<String>>,
}

/// What a value must be, in words that follow "expected".
#[derive(Clone, Debug)]
pub(crate) struct Property<T> {
    pub(crate) words: &'static str,
    holds: fn(&T) -> bool,
}

impl<S, T: SettingType> Rules<S, T> {
    /// Nothing but what its section says of a resume.
    pub fn new(at_resume: AtResume) -> Self {
        Self {
            unit: None,
            unset: None,
            source: None,
            at_resume,
            idle: Vec::new(),
            needs: None,
            ranges: Vec::new(),
            properties: Vec::new(),
            is_checked: |_| true,
            checks: Vec::new(),
        }
    }

    /// The unit of the value.
    #[must_use]
    pub fn unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }

    /// What applies where the key has no value.
    #[must_use]
    pub fn unset(self, what: &'static str) -> Self {
        Self { unset: Some(what), ..self }
    }

    /// Where the default comes from.
    #[must_use]
    pub fn source(self, source: &'static str) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The key may change at a resume.
    #[must_use]
    pub fn free_at_resume(self) -> Self {
        Self { at_resume: AtResume::Free, ..self }
    }

    /// The key has no effect where `condition` holds.
    #[must_use]
    pub fn idle(mut self, condition: Condition) -> Self {
        self.idle.push(condition);
        self
    }

    /// A value of the key needs one of `key`, which a message calls `what`.
    #[must_use]
    pub fn needs(self, key: &'static str, what: &'static str) -> Self {
        Self { needs: Some((key, what)), ..self }
    }

    /// The value lies in `range`.
    #[must_use]
    pub fn expects(mut self, range: Range) -> Self {
        self.ranges.push(range);
        self
    }

    /// The value is what `words` say.
    #[must_use]
    pub fn expects_that(mut self, words: &'static str, holds: fn(&T) -> bool) -> Self {
        self.properties.push(Property { words, holds });
        self
    }

    /// Ranges are checked only where `is_checked` holds.
    #[must_use]
    pub fn checked_if(self, is_checked: fn(&S) -> bool) -> Self {
        Self { is_checked, ..self }
    }

    /// A fault that other keys of the section take part in: a sentence that starts with the key.
    #[must_use]
    pub fn check(mut self, check: fn(&S) -> Option<String>) -> Self {
        self.checks.push(check);
        self
    }

    /// Adds what is wrong with `value`, the value of the key `path` in `section`.
    pub fn faults(&self, section: &S, value: &T, path: &str, faults: &mut Vec<String>) {
        if (self.is_checked)(section) && !value.is_unset() {
            let out_of = |range: &&Range| value.number().is_some_and(|number| !range.contains(number));
            let wrong = self.ranges.iter().filter(out_of).map(Range::expected);
            let lacking = self.properties.iter().filter(|property| !(property.holds)(value));
            let expected = wrong.chain(lacking.map(|property| property.words));
            faults.extend(expected.map(|words| format!("{path} = {}: expected {words}", value.shown())));
        }
        faults.extend(self.checks.iter().filter_map(|check| check(section)));
    }
}

/// `low` or more.
pub fn at_least(low: f64) -> Range {
    Range::at_least(low)
}

/// `high` or less.
pub fn at_most(high: f64) -> Range {
    Range::at_most(high)
}

/// More than `low`.
pub fn above(low: f64) -> Range {
    Range::above(low)
}

/// From `low` to `high`.
pub fn between(low: f64, high: f64) -> Range {
    Range::between(low, high)
}

/// Where `key` has a value.
pub const fn when_set(key: &'static str) -> Condition {
    Condition::new(key, Test::Set)
}

/// Where `key` has no value.
pub const fn without(key: &'static str) -> Condition {
    Condition::new(key, Test::Unset)
}

/// Where `key` is 0.
pub const fn when_zero(key: &'static str) -> Condition {
    Condition::new(key, Test::Zero)
}

/// Where `key` is one of `names`.
pub const fn when(key: &'static str, names: &'static [&'static str]) -> Condition {
    Condition::new(key, Test::OneOf(names))
}

/// Where `key` is none of `names`.
pub const fn unless(key: &'static str, names: &'static [&'static str]) -> Condition {
    Condition::new(key, Test::NoneOf(names))
}
