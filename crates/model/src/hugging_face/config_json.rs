//! Reading `config.json` key by key, with every fault remembered.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json_file::read_json_text;
use crate::config::MAX_SIZE;
use crate::error::ModelError;

/// The object in a `config.json`. A key that is absent or null has the default that `transformers` gives it.
pub(crate) struct ConfigJson {
    path: PathBuf,
    keys: Map<String, Value>,
    faults: Vec<String>,
}

impl ConfigJson {
    /// Reads the `config.json` of a directory.
    pub(crate) fn read(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let json = read_json_text(&path, "a directory in Hugging Face's layout, which has one")?;
        let fault = |fault: String| ModelError::Config { path: path.clone(), faults: vec![fault] };
        match serde_json::from_str(&json) {
            Ok(Value::Object(keys)) => Ok(Self { path, keys, faults: Vec::new() }),
            Ok(other) => Err(fault(format!("expected an object of keys and values, got {other}"))),
            Err(e) => Err(fault(format!("not JSON ({e}); save or download it again"))),
        }
    }

    /// A whole number of at least 1 that has to be there.
    pub(crate) fn count(&mut self, key: &str) -> usize {
        match self.value(key) {
            Some(_) => self.optional_count(key).unwrap_or(1),
            None => {
                self.fault(format!("{key} is missing: expected {COUNT}"));
                1
            }
        }
    }

    /// A whole number of at least 1, or nothing.
    pub(crate) fn optional_count(&mut self, key: &str) -> Option<usize> {
        let as_count = |value: &Value| value.as_u64().and_then(|n| n.try_into().ok());
        let as_count = |value: &Value| as_count(value).filter(|n| (1..=MAX_SIZE).contains(n));
        self.read_as(key, COUNT, as_count)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.read_as(key, "true or false", Value::as_bool).unwrap_or(default)
    }

    /// A number.
    pub(crate) fn number(&mut self, key: &str, default: f64) -> f64 {
        self.read_as(key, "a number", Value::as_f64).unwrap_or(default)
    }

    /// A number that has to be there.
    pub(crate) fn needed_number(&mut self, key: &str) -> f64 {
        if !self.has(key) {
            self.fault(format!("{key} is missing: expected a number"));
        }
        self.number(key, 1.0)
    }

    /// An object within, to be read in the same way; its faults come back by [`ConfigJson::take_faults`].
    pub(crate) fn object(&mut self, key: &str) -> Option<Self> {
        let keys = self.read_as(key, "an object of keys and values", |value| value.as_object().cloned())?;
        Some(Self { path: self.path.clone(), keys, faults: Vec::new() })
    }

    /// Takes over the faults of the object `key` within.
    pub(crate) fn take_faults(&mut self, key: &str, object: Self) {
        self.faults.extend(object.faults.into_iter().map(|fault| format!("{key}.{fault}")));
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        self.read_as(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    /// A list of texts; empty if there is none.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        let as_text = |value: &Value| value.as_str().map(str::to_owned);
        let as_texts = |value: &Value| value.as_array()?.iter().map(as_text).collect();
        self.read_as(key, "a list of texts", as_texts).unwrap_or_default()
    }

    /// Whether a key is there, be it without a value.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Whether a key has a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }

    /// Remembers a fault.
    pub(crate) fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// All faults, if there are any.
    pub(crate) fn finish(self) -> Result<(), ModelError> {
        match self.faults.is_empty() {
            true => Ok(()),
            false => Err(ModelError::Config { path: self.path, faults: self.faults }),
        }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn read_as<T>(&mut self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            let fault = format!("{key} = {value}: expected {expected}");
            self.fault(fault);
        }
        read
    }
}

const COUNT: &str = "a whole number of at least 1 and at most 268,435,456";
