//! Which keys there are, by asking the types themselves.

use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor, value::Error};
use serde::forward_to_deserialize_any;
use toml::{Table, Value};

/// A section of the configuration.
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// The names of its keys.
    pub keys: fn() -> &'static [&'static str],
    /// Whether a value fits a key; the reason if not.
    pub check: fn(&str, &Value) -> Result<(), String>,
}

/// The field names of a struct, as its `Deserialize` states them.
pub fn field_names<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // The deserializer takes the names and then gives up, which is all it is for.
    let _ = T::deserialize(FieldNames(&mut names));
    names
}

/// Whether `value` can stand for `key` of `T`.
pub fn check_value<T: DeserializeOwned>(key: &str, value: &Value) -> Result<(), String> {
    let table = Table::from_iter([(key.to_owned(), value.clone())]);
    match table.try_into::<T>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.message().to_owned()),
    }
}

/// Reads TOML text that a message calls `origin`.
///
/// # Errors
/// If it is not TOML, with the place. The line itself is not shown: a file given by mistake may be one long line.
pub fn parse_toml(origin: &str, text: &str) -> Result<Table, String> {
    // Some editors put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.parse::<Table>().map_err(|error| {
        let before = &text[..error.span().map_or(0, |span| span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!("{origin}: not TOML: {} at line {line}, column {column}", error.message())
    })
}

/// The candidate that `name` was most likely meant to be, if any is close.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (similarity(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

/// How alike two names are, from 0 to 1.
pub fn similarity(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only the names were wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
