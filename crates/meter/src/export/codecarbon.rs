//! `emissions.csv`: one row a run, cumulative, in the columns of CodeCarbon 3.3.2.
//!
//! Its units are not ours: kilowatt-hours, kilograms, kilograms a second, watts, seconds. As there, power and
//! energy include the PUE. What is not known stays empty and is never zero. A board that was trained on and not
//! metered is named so in `gpu_model`; `gpu_count` counts the boards that were metered.
//!
//! # References
//! CodeCarbon 3.3.2: `output_methods/emissions_data.py` (columns), `emissions_tracker.py` (`energy *= pue`)

use std::path::Path;

use serde::Serialize;
use wattle_runlog::manifest::Host;
use wattle_runlog::record::SensorKind;
use wattle_runlog::run_dir::write_atomic;
use wattle_runlog::{Joules, Record, RunlogError, WallAnchor, Watts, clock};

use crate::books::carbon;
use crate::books::pricing::facility;

/// The columns, in their order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[allow(missing_docs, reason = "each field is CodeCarbon's column of its name")]
pub struct Row {
    pub timestamp: String,
    pub project_name: String,
    pub run_id: String,
    pub experiment_id: String,
    pub duration: f64,
    pub emissions: f64,
    pub emissions_rate: Option<f64>,
    pub cpu_power: Option<f64>,
    pub gpu_power: Option<f64>,
    pub ram_power: Option<f64>,
    pub cpu_energy: f64,
    pub gpu_energy: Option<f64>,
    pub ram_energy: f64,
    pub energy_consumed: f64,
    pub water_consumed: Option<f64>,
    pub country_name: String,
    pub country_iso_code: String,
    pub region: String,
    pub cloud_provider: String,
    pub cloud_region: String,
    pub os: String,
    pub python_version: String,
    pub codecarbon_version: String,
    pub cpu_count: u32,
    pub cpu_model: String,
    pub gpu_count: usize,
    pub gpu_model: String,
    pub longitude: Option<f64>,
    pub latitude: Option<f64>,
    pub ram_total_size: Option<f64>,
    pub tracking_mode: String,
    pub cpu_utilization_percent: Option<f64>,
    pub gpu_utilization_percent: Option<f64>,
    pub ram_utilization_percent: Option<f64>,
    pub ram_used_gb: Option<f64>,
    pub on_cloud: String,
    pub pue: f64,
    pub wue: Option<f64>,
}

/// What the row says besides the record.
#[derive(Clone, Debug)]
pub struct RunFacts<'a> {
    /// `run.name`
    pub project_name: &'a str,
    /// The machine.
    pub host: &'a Host,
    /// Names of the boards that are metered.
    pub gpu_models: &'a [String],
}

impl Row {
    /// The row of a whole run's record, as of now.
    pub fn new(record: &Record, facts: &RunFacts<'_>) -> Self {
        let seconds = record.duration_s.get();
        // Grams to kilograms, once.
        let emissions_kg = record.emissions_g.get() / 1000.0;
        let cpu = Part::of(record, &[SensorKind::Cpu, SensorKind::Platform]);
        let (gpu, ram) = (Part::of(record, &[SensorKind::Gpu]), Part::of(record, &[SensorKind::Dram]));
        let country = carbon::find(&record.carbon.region);
        let known = |name: Option<&str>| name.unwrap_or_default().to_owned();
        Self {
            timestamp: clock::zoneless(WallAnchor::now().wall_ns),
            project_name: facts.project_name.to_owned(),
            run_id: record.run_id.clone(),
            experiment_id: String::new(),
            duration: seconds,
            emissions: emissions_kg,
            emissions_rate: (seconds > 0.0).then(|| emissions_kg / seconds),
            cpu_power: cpu.power.map(Watts::get),
            gpu_power: gpu.power.map(Watts::get),
            ram_power: ram.power.map(Watts::get),
            cpu_energy: cpu.energy.kwh(),
            gpu_energy: (gpu.exists || record.unmetered_devices.is_empty()).then(|| gpu.energy.kwh()),
            ram_energy: ram.energy.kwh(),
            energy_consumed: record.facility_kwh,
            water_consumed: None,
            country_name: known(country.map(|c| c.name.as_str())),
            country_iso_code: known(country.map(|c| c.iso3.as_str())),
            region: String::new(),
            cloud_provider: String::new(),
            cloud_region: String::new(),
            os: facts.host.os.clone(),
            python_version: String::new(),
            codecarbon_version: format!("wattle {}", env!("CARGO_PKG_VERSION")),
            cpu_count: facts.host.cpus,
            cpu_model: known(facts.host.cpu_model.as_deref()),
            gpu_count: facts.gpu_models.len(),
            gpu_model: gpu_models(record, facts).join(", "),
            longitude: None,
            latitude: None,
            ram_total_size: facts.host.memory_bytes.map(|bytes| bytes as f64 / f64::from(1u32 << 30)),
            tracking_mode: if cpu.whole { "machine" } else { "process" }.to_owned(),
            cpu_utilization_percent: None,
            gpu_utilization_percent: None,
            ram_utilization_percent: None,
            ram_used_gb: None,
            on_cloud: "N".to_owned(),
            pue: record.pue,
            wue: None,
        }
    }

    /// The file: the header and this row.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.serialize(self).expect("a row of plain values in memory");
        let bytes = writer.into_inner().expect("memory is always flushed");
        String::from_utf8(bytes).expect("csv of text is text")
    }

    /// Replaces the file at `path`, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RunlogError> {
        write_atomic(path, self.to_csv().as_bytes())
    }
}

/// The sensors of one column.
struct Part {
    energy: Joules,
    /// Whether there is such a sensor.
    exists: bool,
    /// Mean over the run; `None` where there is no such sensor.
    power: Option<Watts>,
    /// Whether a whole device was measured, and not this process modelled.
    whole: bool,
}

impl Part {
    fn of(record: &Record, kinds: &[SensorKind]) -> Self {
        let sensors: Vec<_> = record.sensors.iter().filter(|s| kinds.contains(&s.kind)).collect();
        let energy = facility(sensors.iter().map(|sensor| sensor.energy_j).sum(), record.pue);
        let exists = !sensors.is_empty();
        let known = exists && record.duration_s.get() > 0.0;
        let whole = sensors.iter().any(|sensor| sensor.method.is_measured());
        Self { energy, exists, power: known.then(|| energy / record.duration_s), whole }
    }
}

/// The boards that were metered, and those that should have been.
fn gpu_models(record: &Record, facts: &RunFacts<'_>) -> Vec<String> {
    let unmetered = record.unmetered_devices.iter().map(|device| format!("{device} (not metered)"));
    facts.gpu_models.iter().cloned().chain(unmetered).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::books::ledger::tests::options;
    use crate::books::ledger::{Entry, Ledger};
    use crate::windows::window::WindowEnergy;
    use wattle_runlog::MonotonicNs;
    use wattle_runlog::record::{Method, Overhead, RecordKind, Resources, SensorRecord};

    /// CodeCarbon 3.3.2, `EmissionsData`.
    const COLUMNS: &str = "timestamp,project_name,run_id,experiment_id,duration,emissions,emissions_rate,\
        cpu_power,gpu_power,ram_power,cpu_energy,gpu_energy,ram_energy,energy_consumed,water_consumed,\
        country_name,country_iso_code,region,cloud_provider,cloud_region,os,python_version,codecarbon_version,\
        cpu_count,cpu_model,gpu_count,gpu_model,longitude,latitude,ram_total_size,tracking_mode,\
        cpu_utilization_percent,gpu_utilization_percent,ram_utilization_percent,ram_used_gb,on_cloud,pue,wue";

    /// An hour at 1 kW of a board and 0.5 kW of a processor, PUE 1.5, 400 g/kWh: 0.9 kg.
    pub(crate) fn record() -> Record {
        let sensor = |id: &str, kind, kwh: f64| SensorRecord {
            uncertainty_j: Some(Joules::ZERO),
            systematic_fraction: 0.05,
            samples: 1,
            ..SensorRecord::plain(id.to_owned(), kind, Method::Counter, Joules::from_kwh(kwh))
        };
        let mut ledger = Ledger::new(options(0));
        ledger.record(Entry {
            kind: RecordKind::Epoch,
            epoch: Some(1),
            complete: true,
            step_start: 0,
            step_end: 1,
            tokens: 1,
            window: WindowEnergy {
                energy: Joules::from_kwh(1.5),
                sensors: vec![sensor("gpu:x", SensorKind::Gpu, 1.0), sensor("cpu:x", SensorKind::Cpu, 0.5)],
                ..WindowEnergy::empty(MonotonicNs(0), MonotonicNs(3_600_000_000_000))
            },
            spans: &[],
            resources: Resources::default(),
            overhead: Overhead::default(),
        });
        ledger.whole_run(true, Resources::default(), Overhead::default())
    }

    fn row(record: &Record) -> Row {
        let models = ["NVIDIA H200, and a comma".to_owned()];
        let host = Host { hostname: "h".to_owned(), os: "Linux 6".to_owned(), cpus: 4, ..Host::default() };
        Row::new(record, &RunFacts { project_name: "default", host: &host, gpu_models: &models })
    }

    #[test]
    fn the_columns_are_codecarbons_in_their_order() {
        let csv = row(&record()).to_csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!((lines[0], lines.len()), (COLUMNS, 2));
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let fields = reader.records().next().unwrap().unwrap();
        assert_eq!(fields.len(), 38);
        assert_eq!(&fields[26], "NVIDIA H200, and a comma");
        assert_eq!(fields[0].len(), "2026-09-21T14:13:20".len());
    }

    #[test]
    fn kilograms_there_are_a_thousandth_of_grams_here() {
        let record = record();
        let row = row(&record);
        assert_eq!(record.emissions_g.get(), 900.0);
        assert_eq!(row.emissions * 1000.0, record.emissions_g.get());
        assert!((row.emissions_rate.unwrap() * 3600.0 - 0.9).abs() < 1e-12);
        assert_eq!((row.gpu_energy, row.cpu_energy, row.ram_energy), (Some(1.5), 0.75, 0.0));
        assert_eq!(row.energy_consumed, 2.25, "with the PUE, as there");
        assert_eq!(row.tracking_mode, "machine", "the processor is measured whole");
        assert_eq!((row.gpu_power, row.cpu_power, row.ram_power), (Some(1500.0), Some(750.0), None));
    }

    #[test]
    fn a_board_that_was_not_metered_has_no_energy_rather_than_none_at_all() {
        let mut record = record();
        record.sensors.retain(|sensor| sensor.kind != SensorKind::Gpu);
        let host = Host::default();
        let facts = RunFacts { project_name: "default", host: &host, gpu_models: &[] };
        assert_eq!(Row::new(&record, &facts).gpu_energy, Some(0.0), "there was no board");
        record.unmetered_devices = vec!["cuda:0".to_owned()];
        let row = Row::new(&record, &facts);
        assert_eq!((row.gpu_energy, row.gpu_power), (None, None));
        assert_eq!((row.gpu_count, row.gpu_model.as_str()), (0, "cuda:0 (not metered)"));
    }

    #[test]
    fn the_file_holds_one_row_however_often_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("emissions.csv");
        let row = row(&record());
        row.write(&path).unwrap();
        row.write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), row.to_csv());
    }
}
