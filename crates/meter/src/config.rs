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

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wattle_runlog::beside::{EmbodiedRate, Machine};
use wattle_runlog::{GramsCo2e, Watts};
use wattle_settings::{Kind, SettingType, section};

use crate::books::carbon;
use crate::books::intensity_table::IntensityTable;
use crate::sensors::calibrations::Calibrations;

section! {
    /// What is metered, and how often.
    #[section(energy, at_resume = Free)]
    pub struct EnergyConfig {
        /// Time between two readings.
        // Above ten seconds a 32-bit RAPL counter could wrap twice unseen.
        pub interval_ms: u64 = 50,
            unit("milliseconds"),
            expects(between(10.0, 10_000.0)),
            source(
                "twice the update rate of a data-centre board's instant power, and the fastest at which Zeus saw no \
                 zeros"
            );
        /// Power usage effectiveness.
        ///
        /// What the building draws for each joule of the machine; 1 is the machine alone.
        pub pue: f64 = 1.0, expects(at_least(1.0).number());
        /// A file of calibrations.
        ///
        /// Made by `wattle calibrate`. What a sensor says is multiplied by its calibration's gain, and records name it.
        pub calibration: Option<PathBuf> = None,
            unset("the file of `wattle calibrate`"),
            check(Self::unreadable_calibration);
        /// Whether calibrations are applied.
        pub calibrated: bool = true;
        /// Which GPU boards are metered.
        ///
        /// `"used"`: those that the run computes on. `"all"`: every board of the machine. `"none"`: none. A list:
        /// these, by NVML's numbers, which `nvidia-smi` shows.
        pub gpus: GpuSelection = GpuSelection::Used;
        /// Where the kernel shows RAPL.
        pub powercap_root: PathBuf = PathBuf::from("/sys/class/powercap");
        /// Time to measure idle power for; 0: off.
        ///
        /// Before the run's load. The machine's idle power is stated beside the total and never subtracted from it.
        pub idle_baseline_s: f64 = 0.0, unit("seconds"), expects(between(0.0, 3_600.0));
        /// Thermal design power of the processor.
        ///
        /// For the estimate that is made where RAPL cannot be read.
        pub cpu_tdp_w: Option<f64> = None,
            unit("watts"),
            unset("guessed by the number of CPUs"),
            expects(above(0.0).words("a number of watts above 0"));
        /// Idle power of the whole machine.
        ///
        /// By a measurement of yours. Its joules are stated beside a record's energy and never added to it: sensors
        /// measure a part of them.
        pub machine_idle_w: Option<f64> = None,
            unit("watts"),
            unset("not stated"),
            expects(above(0.0).words("a number of watts above 0"));
        /// Address to serve live figures at.
        ///
        /// For Prometheus: over HTTP, in OpenMetrics' text.
        pub metrics_addr: Option<SocketAddr> = None, unset("they are not served");
    }
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

section! {
    /// The carbon intensity of the electricity.
    #[section(carbon, at_resume = Free)]
    pub struct CarbonConfig {
        /// Your own figure, instead of a region's.
        pub intensity_g_per_kwh: Option<f64> = None,
            unit("grams of CO₂-equivalent per kilowatt-hour"),
            unset("that of `carbon.region`"),
            expects(at_least(0.0).number());
        /// A country by its code or name.
        ///
        /// An ISO 3166-1 code (`DE`, `DEU`) or an English name.
        pub region: Option<String> = None,
            unset("the world's mean"),
            check(Self::no_intensity),
            idle(when_set("carbon.intensity_g_per_kwh"));
        /// Carbon intensities over time: a CSV file.
        ///
        /// Its columns are `timestamp,g_per_kwh`. Each joule is priced at the moment of its use; the other keys of
        /// the section apply to what the table does not cover.
        pub table: Option<PathBuf> = None, unset("one intensity throughout"), check(Self::unreadable_table);
        /// Emissions of making the machine.
        ///
        /// Of all of it that the run keeps others from using. A record's share is its duration over
        /// `carbon.lifetime_h`: M of the software carbon intensity, stated beside the emissions of the energy.
        pub embodied_g: Option<f64> = None,
            unit("grams of CO₂-equivalent"),
            unset("not stated"),
            expects(at_least(0.0).number()),
            check(Self::no_lifetime);
        /// Working hours of the machine in its life.
        ///
        /// Hours in which it computes for somebody. Its emissions are spread over these alone.
        pub lifetime_h: Option<f64> = None,
            unit("hours"),
            unset("needed with `carbon.embodied_g`"),
            expects(above(0.0).words("a number of hours above 0")),
            idle(without("carbon.embodied_g"));
    }
}

section! {
    /// The price of the electricity.
    #[section(cost, at_resume = Free)]
    pub struct CostConfig {
        /// Price of a kilowatt-hour.
        pub price_per_kwh: Option<f64> = None,
            unit("`cost.currency` per kilowatt-hour"),
            unset("no cost is stated"),
            expects(at_least(0.0).number());
        /// ISO 4217 code of the currency.
        ///
        /// It cannot change once costs are booked: sums of two currencies have no meaning.
        pub currency: String = "EUR".to_owned(),
            expects_that("an ISO 4217 code such as \"EUR\"", |code| is_currency(code)),
            idle(without("cost.price_per_kwh"));
    }
}

impl EnergyConfig {
    /// Time between two readings.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

impl EnergyConfig {
    fn unreadable_calibration(&self) -> Option<String> {
        let path = self.calibration.as_deref().filter(|_| self.calibrated)?;
        Calibrations::read(path).err().map(|error| format!("energy.calibration: {error}"))
    }
}

impl CarbonConfig {
    fn no_intensity(&self) -> Option<String> {
        let is_given = self.intensity_g_per_kwh.is_some();
        (!is_given).then(|| carbon::resolve(self).err())?.map(|error| error.to_string())
    }

    fn no_lifetime(&self) -> Option<String> {
        let is_missing = self.embodied_g.is_some() && self.lifetime_h.is_none();
        is_missing.then(|| {
            "carbon.embodied_g needs carbon.lifetime_h, the hours that the machine is used for".to_owned()
        })
    }

    fn unreadable_table(&self) -> Option<String> {
        IntensityTable::open(self.table.as_deref()?).err().map(|error| error.to_string())
    }
}

/// What a configuration states of the machine besides its prices.
pub fn stated_machine(energy: &EnergyConfig, carbon: &CarbonConfig) -> Machine {
    let rate = |(machine_g, lifetime_h)| EmbodiedRate { machine_g: GramsCo2e(machine_g), lifetime_h };
    Machine {
        embodied: carbon.embodied_g.zip(carbon.lifetime_h).map(rate),
        idle_w: energy.machine_idle_w.map(Watts),
    }
}

fn is_currency(code: &str) -> bool {
    code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase())
}

/// An address to serve live figures at.
///
/// # Errors
/// If `text` is not an address, with what was expected.
pub fn metrics_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("expected {}", SocketAddr::KIND.expected()))
}

/// What a message says of the boards that are metered.
const SELECTION: &str = "\"used\", \"all\", \"none\", or a list of board numbers such as [0, 1]";

impl SettingType for GpuSelection {
    const KIND: Kind = Kind::Other(SELECTION);
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
        f.write_str(SELECTION)
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
        let text = "interval_ms = 100\npue = 1.2\ncalibrated = true\ngpus = [0, 3]\npowercap_root = \"/tmp/powercap\"\nidle_baseline_s = 0.0\n";
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
    fn embodied_emissions_need_a_lifetime() {
        let alone = CarbonConfig { embodied_g: Some(1e6), ..CarbonConfig::default() };
        assert_eq!(
            alone.faults(),
            ["carbon.embodied_g needs carbon.lifetime_h, the hours that the machine is used for"]
        );
        let both = CarbonConfig { lifetime_h: Some(35_000.0), ..alone };
        assert!(both.faults().is_empty());
        let never = CarbonConfig { lifetime_h: Some(0.0), ..both };
        assert!(never.faults()[0].starts_with("carbon.lifetime_h = 0"), "{:?}", never.faults());
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
