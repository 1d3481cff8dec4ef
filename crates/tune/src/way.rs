//! What differs from way to way.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// A way of training, by what differs from the configuration and from the board as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Keys of the configuration with their values, as `--set` takes them.
    pub settings: BTreeMap<String, String>,
    /// Power limit of the board in milliwatts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power_limit_mw: Option<u32>,
    /// Highest clock of the board's multiprocessors in MHz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock_mhz: Option<u32>,
}

impl Way {
    /// This way with one setting changed.
    pub fn with(&self, key: &str, value: &str) -> Self {
        let mut way = self.clone();
        way.settings.insert(key.to_owned(), value.to_owned());
        way
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let mut parts: Vec<String> = self
            .settings
            .iter()
            .map(|(key, value)| format!("{} {}", bare(key), value.trim_matches('"')))
            .collect();
        parts.extend(self.power_limit_mw.map(|mw| format!("{} W", f64::from(mw) / 1e3)));
        parts.extend(self.clock_mhz.map(|mhz| format!("{mhz} MHz")));
        f.write_str(&if parts.is_empty() { "as configured".to_owned() } else { parts.join(", ") })
    }
}
