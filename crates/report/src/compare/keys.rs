//! A configuration as flat keys, and those of them that make no other way of training.

use std::collections::BTreeMap;

/// Keys that make no other way of training.
pub(crate) const NOT_COUNTED: [&str; 2] = ["run.seed", "run.name"];

/// A configuration by its keys.
pub(crate) fn flat(config: &toml::Table) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for (section, value) in config {
        match value {
            toml::Value::Table(table) => {
                keys.extend(table.iter().map(|(key, value)| (format!("{section}.{key}"), value.to_string())));
            }
            value => {
                keys.insert(section.clone(), value.to_string());
            }
        }
    }
    keys
}
