//! Which keys a section of the configuration has, by asking the types themselves.

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
