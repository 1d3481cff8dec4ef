//! Values of the wrong type, in a person's words.

use toml::Value;

use crate::kind::Kind;
use crate::section::SectionInfo;
use crate::setting::Setting;

impl SectionInfo {
    /// What `setting`, which a message calls `path`, expects, if `value` does not fit it.
    pub fn mistake(&self, setting: &Setting, path: &str, value: &Value) -> Option<String> {
        (self.fits)(setting.key, value).err()?;
        let hint = hint(path, value, setting.kind);
        Some(format!("expected {}{hint}", setting.kind.expected()))
    }
}

/// The value as it may have been meant.
fn hint(path: &str, value: &Value, kind: Kind) -> String {
    match (kind, value) {
        (Kind::Whole, Value::Float(n)) if n.fract() == 0.0 && (0.0..1e15).contains(n) => {
            format!(", such as {n:.0}")
        }
        (Kind::Paths | Kind::Texts, Value::String(text)) => format!(", such as --set '{path}=[{text:?}]'"),
        _ => String::new(),
    }
}
