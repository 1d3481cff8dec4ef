//! The metadata of a GGUF file, read key by key with every fault remembered.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;

use crate::config::MAX_SIZE;
use crate::error::ModelError;

/// The keys of a file.
pub(crate) struct Keys<'a> {
    path: PathBuf,
    values: &'a HashMap<String, Value>,
    faults: Vec<String>,
}

impl<'a> Keys<'a> {
    /// The keys in `values`; `path` is named in errors.
    pub(crate) fn new(path: &Path, values: &'a HashMap<String, Value>) -> Self {
        Self { path: path.to_owned(), values, faults: Vec::new() }
    }

    /// A whole number of at least 1 that has to be there.
    pub(crate) fn count(&mut self, key: &str) -> usize {
        let count =
            self.values.get(key).and_then(|value| value.to_u64().ok()).and_then(|n| n.try_into().ok());
        count.filter(|n| (1..=MAX_SIZE).contains(n)).unwrap_or_else(|| {
            self.fault(format!(
                "{key} {}: expected a whole number of at least 1 and at most {MAX_SIZE}",
                self.got(key)
            ));
            1
        })
    }

    /// A number that has to be there.
    pub(crate) fn number(&mut self, key: &str) -> f32 {
        self.values.get(key).and_then(|value| value.to_f32().ok()).unwrap_or_else(|| {
            self.fault(format!("{key} {}: expected an f32", self.got(key)));
            0.0
        })
    }

    /// A number that has to be there, as the decimal that it was rounded from: 1e-5, not the `f32` next to it.
    pub(crate) fn decimal(&mut self, key: &str) -> f64 {
        self.number(key).to_string().parse().expect("a number's own text is one")
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        let Some(value) = self.values.get(key) else { return default };
        value.to_bool().unwrap_or_else(|_| {
            self.fault(format!("{key} {}: expected true or false", self.got(key)));
            default
        })
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.values.get(key)?;
        let text = value.to_string().ok().map(String::as_str);
        if text.is_none() {
            self.fault(format!("{key} {}: expected a text", self.got(key)));
        }
        text
    }

    /// The length of an array that has to be there.
    pub(crate) fn len(&mut self, key: &str) -> usize {
        self.values.get(key).and_then(|value| value.to_vec().ok()).map(Vec::len).unwrap_or_else(|| {
            self.fault(format!("{key} {}: expected an array", self.got(key)));
            0
        })
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

    fn got(&self, key: &str) -> String {
        match self.values.get(key) {
            None => "is missing".to_owned(),
            Some(Value::Array(values)) => format!("= an array of {}", values.len()),
            Some(value) => format!("= {value:?}"),
        }
    }
}
