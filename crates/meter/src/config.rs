//! The sections of a configuration that metering owns: `energy`, `carbon`, `cost`.
//!
//! ```
//! use wattle_meter::EnergyConfig;
//!
//! let energy = EnergyConfig { pue: 0.5, ..EnergyConfig::default() };
//! assert_eq!(energy.faults(), ["energy.pue = 0.5: expected a number of at least 1"]);
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::books::carbon;
use crate::books::intensity_table::IntensityTable;

/// Section `energy`: what is metered, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnergyConfig {
    /// Time between two readings. Default 50: twice the update rate of a data-centre board's instant power,
    /// and the fastest at which Zeus saw no zeros.
    pub interval_ms: u64,
    /// Power usage effectiveness of the building. Default 1: the machine alone.
    pub pue: f64,
    /// Which GPU boards are metered. Default: those that are computed on.
    pub gpus: GpuSelection,
    /// Where the kernel shows RAPL. Default `/sys/class/powercap`.
    pub powercap_root: PathBuf,
    /// Thermal design power of the processor, for the estimate that is made where RAPL cannot be read.
    /// Default: unknown, and guessed by the number of CPUs; see [`crate::sensors::estimate`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_tdp_w: Option<f64>,
    /// For how long the machine's idle power is measured before the run's load, in seconds. Default 0: not at
    /// all. It is stated beside the total and never subtracted from it.
    pub idle_baseline_s: f64,
    /// Where live figures are served over HTTP, in OpenMetrics' text, for Prometheus. Default: nowhere.
    #[serde(deserialize_with = "deserialize_metrics_addr", skip_serializing_if = "Option::is_none")]
    pub metrics_addr: Option<SocketAddr>,
}

/// Which GPU boards are metered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GpuSelection {
    /// Those that the run computes on.
    #[default]
    Used,
    /// Every board of the machine.
    All,
    /// None.
    None,
    /// These, by NVML's numbers (as `nvidia-smi` shows them).
    Boards(Vec<u32>),
}

/// Section `carbon`: the carbon intensity of the electricity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CarbonConfig {
    /// Your own figure; where it is given, the region is not looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intensity_g_per_kwh: Option<f64>,
    /// A country by its ISO 3166-1 code (`DE`, `DEU`) or name. Default: the world's mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// A CSV file `timestamp,g_per_kwh` by which each joule is priced at the moment of its use; the keys above
    /// stand for what it does not cover. See [`crate::books::intensity_table`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<PathBuf>,
}

/// Section `cost`: the price of the electricity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CostConfig {
    /// Price of a kilowatt-hour. Default: none, and no cost is stated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price_per_kwh: Option<f64>,
    /// ISO 4217 code of the currency. Default EUR.
    pub currency: String,
}

impl Default for EnergyConfig {
    fn default() -> Self {
        Self {
            interval_ms: 50,
            pue: 1.0,
            gpus: GpuSelection::Used,
            powercap_root: PathBuf::from("/sys/class/powercap"),
            cpu_tdp_w: None,
            idle_baseline_s: 0.0,
            metrics_addr: None,
        }
    }
}

impl Default for CostConfig {
    fn default() -> Self {
        Self { price_per_kwh: None, currency: "EUR".to_owned() }
    }
}

impl EnergyConfig {
    /// Time between two readings.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    /// Every fault of the section, each a sentence that begins with its key.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        // Above ten seconds a 32-bit RAPL counter could wrap twice unseen.
        if !(10..=10_000).contains(&self.interval_ms) {
            faults.push(format!("energy.interval_ms = {}: expected 10 to 10000", self.interval_ms));
        }
        if !self.pue.is_finite() || self.pue < 1.0 {
            faults.push(format!("energy.pue = {}: expected a number of at least 1", self.pue));
        }
        let idle = self.idle_baseline_s;
        if !(0.0..=3_600.0).contains(&idle) {
            faults.push(format!("energy.idle_baseline_s = {idle}: expected 0 to 3600"));
        }
        if let Some(tdp) = self.cpu_tdp_w
            && (!tdp.is_finite() || tdp <= 0.0)
        {
            faults.push(format!("energy.cpu_tdp_w = {tdp}: expected a number of watts above 0"));
        }
        faults
    }
}

impl CarbonConfig {
    /// Every fault of the section, each a sentence that begins with its key.
    pub fn faults(&self) -> Vec<String> {
        let mean = match self.intensity_g_per_kwh {
            Some(grams) if !grams.is_finite() || grams < 0.0 => {
                Some(format!("carbon.intensity_g_per_kwh = {grams}: expected a number of at least 0"))
            }
            Some(_) => None,
            None => carbon::resolve(self).err().map(|error| error.to_string()),
        };
        let table = self.table.as_deref().and_then(|path| IntensityTable::open(path).err());
        mean.into_iter().chain(table.map(|error| error.to_string())).collect()
    }
}

impl CostConfig {
    /// Every fault of the section, each a sentence that begins with its key.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some(price) = self.price_per_kwh
            && (!price.is_finite() || price < 0.0)
        {
            faults.push(format!("cost.price_per_kwh = {price}: expected a number of at least 0"));
        }
        if self.currency.len() != 3 || !self.currency.bytes().all(|b| b.is_ascii_uppercase()) {
            let currency = &self.currency;
            faults.push(format!("cost.currency = {currency:?}: expected an ISO 4217 code such as \"EUR\""));
        }
        faults
    }
}

/// An address to serve live figures at.
///
/// # Errors
/// If it is none, with what was expected.
pub fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as \"127.0.0.1:9184\"".to_owned())
}

fn deserialize_metrics_addr<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    metrics_addr(&text).map(Some).map_err(D::Error::custom)
}

impl Serialize for GpuSelection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Used => serializer.serialize_str("used"),
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Boards(boards) => boards.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for GpuSelection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SelectionVisitor)
    }
}

struct SelectionVisitor;

impl<'de> Visitor<'de> for SelectionVisitor {
    type Value = GpuSelection;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"used\", \"all\", \"none\", or a list of board numbers such as [0, 1]")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<GpuSelection, E> {
        match name {
            "used" => Ok(GpuSelection::Used),
            "all" => Ok(GpuSelection::All),
            "none" => Ok(GpuSelection::None),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(name), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<GpuSelection, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(seq)).map(GpuSelection::Boards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back() {
        let text = "interval_ms = 100\npue = 1.2\ngpus = [0, 3]\npowercap_root = \"/tmp/powercap\"\nidle_baseline_s = 0.0\n";
        let energy: EnergyConfig = toml::from_str(text).unwrap();
        assert_eq!(energy.gpus, GpuSelection::Boards(vec![0, 3]));
        assert_eq!(toml::to_string(&energy).unwrap(), text);
        for name in ["used", "all", "none"] {
            let energy: EnergyConfig = toml::from_str(&format!("gpus = {name:?}")).unwrap();
            assert!(toml::to_string(&energy).unwrap().contains(&format!("gpus = {name:?}")));
        }
        assert_eq!(toml::from_str::<EnergyConfig>("").unwrap(), EnergyConfig::default());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(toml::from_str::<EnergyConfig>("intervall_ms = 50").is_err());
        let error = toml::from_str::<EnergyConfig>("gpus = \"some\"").unwrap_err().to_string();
        assert!(error.contains("\"used\", \"all\", \"none\""), "{error}");
    }

    #[test]
    fn all_faults_are_reported_and_begin_with_their_key() {
        let energy = EnergyConfig {
            interval_ms: 1,
            pue: f64::NAN,
            cpu_tdp_w: Some(0.0),
            idle_baseline_s: f64::NAN,
            ..EnergyConfig::default()
        };
        let carbon = CarbonConfig {
            region: Some("Germny".to_owned()),
            table: Some(PathBuf::from("/nonexistent.csv")),
            ..CarbonConfig::default()
        };
        let cost = CostConfig { price_per_kwh: Some(-1.0), currency: "euro".to_owned() };
        let faults = [energy.faults(), carbon.faults(), cost.faults()].concat();
        let keys: Vec<_> = faults.iter().map(|fault| fault.split(' ').next().unwrap()).collect();
        assert_eq!(
            keys,
            [
                "energy.interval_ms",
                "energy.pue",
                "energy.idle_baseline_s",
                "energy.cpu_tdp_w",
                "carbon.region",
                "carbon.table",
                "cost.price_per_kwh",
                "cost.currency"
            ]
        );
        assert!(faults[4].contains("Germany"), "{}", faults[4]);
        assert!(EnergyConfig::default().faults().is_empty());
        assert!(CarbonConfig::default().faults().is_empty());
        assert!(CostConfig::default().faults().is_empty());
    }
}
