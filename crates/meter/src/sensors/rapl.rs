//! Processor packages and their memory, through the kernel's powercap tree (RAPL).
//!
//! Packages and the `dram` domain are read; `core` and `uncore` are parts of a package and never are. `psys`,
//! the whole platform, is read only where there are no packages. The tree often shows the same domain twice, as
//! `intel-rapl` and as `intel-rapl-mmio`; the first is kept. AMD's processors appear under the same names.
//!
//! A counter belongs to the whole package, whoever uses it. Since CVE-2020-8694 only root may read it.
//!
//! # References
//! Linux, `Documentation/power/powercap/powercap.rst`

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wattle_runlog::MonotonicNs;
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::{Method, SensorKind};

use crate::sensors::sensor::{
    Channels, CounterSpec, CounterUnit, CounterValue, Missing, Quantity, Reading, Sensor,
};

/// Bound on the gain error of a RAPL counter. Vendors state none; this is the bound that data-centre boards
/// get, and an assumption.
pub const SYSTEMATIC_FRACTION: f64 = 0.05;

/// A domain of the powercap tree that counts energy of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// `package-0`, `package-0-die-1`, `psys`; a memory domain has the name of its package.
    pub name: String,
    /// What it stands for.
    pub kind: SensorKind,
    /// Its directory.
    pub path: PathBuf,
}

/// Every domain under `root` to be read, sorted; empty where there is no such tree.
pub fn domains(root: &Path) -> Vec<Domain> {
    let mut zones: Vec<_> = match fs::read_dir(root) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(_) => Vec::new(),
    };
    // "intel-rapl:0" sorts before "intel-rapl-mmio:0" only by its control type, so that is compared first.
    zones.sort_by_key(|zone| (zone.contains("mmio"), zone.clone()));
    let mut found: Vec<Domain> = Vec::new();
    for zone in zones {
        if let Some(domain) = domain(root, &zone)
            && !found.iter().any(|other| (other.kind, &other.name) == (domain.kind, &domain.name))
        {
            found.push(domain);
        }
    }
    if found.iter().any(|domain| domain.kind == SensorKind::Cpu) {
        found.retain(|domain| domain.kind != SensorKind::Platform);
    }
    found.sort_by(|a, b| (a.kind as u8, &a.name).cmp(&(b.kind as u8, &b.name)));
    found
}

/// What `zone` is, if it is a domain to be read.
fn domain(root: &Path, zone: &str) -> Option<Domain> {
    let (control, numbers) = zone.split_once(':')?;
    if !control.starts_with("intel-rapl") {
        return None;
    }
    let path = root.join(zone);
    let name = read_name(&path)?;
    let (kind, name) = match name.as_str() {
        "psys" => (SensorKind::Platform, name),
        "dram" => {
            let package =
                numbers.rsplit_once(':').map(|(parent, _)| root.join(format!("{control}:{parent}")));
            (SensorKind::Dram, package.and_then(|path| read_name(&path)).unwrap_or_else(|| zone.to_owned()))
        }
        _ if name.starts_with("package") => (SensorKind::Cpu, name),
        _ => return None,
    };
    Some(Domain { name, kind, path })
}

fn read_name(zone: &Path) -> Option<String> {
    fs::read_to_string(zone.join("name")).ok().map(|name| name.trim().to_owned())
}

impl Domain {
    /// The file that holds the counter.
    pub fn counter_path(&self) -> PathBuf {
        self.path.join("energy_uj")
    }

    /// The sensor's id.
    pub fn sensor_id(&self) -> String {
        match self.kind {
            SensorKind::Dram => format!("dram:{}", self.name),
            SensorKind::Platform => format!("platform:{}", self.name),
            SensorKind::Cpu | SensorKind::Gpu => format!("cpu:{}", self.name),
        }
    }

    /// Opens the domain as a sensor of the machine called `host`.
    ///
    /// # Errors
    /// If the counter cannot be opened and read.
    pub fn open(&self, host: &str) -> io::Result<RaplSensor> {
        let file = File::open(self.counter_path())?;
        read_counter(&file)?;
        let range = fs::read_to_string(self.path.join("max_energy_range_uj"))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let id = self.sensor_id();
        let info = SensorInfo {
            kind: self.kind,
            method: Method::Counter,
            description: format!("RAPL, whole domain, {}", self.path.display()),
            systematic_fraction: SYSTEMATIC_FRACTION,
            systematic_id: format!("gain/{host}/{id}"),
            id,
            flags: Vec::new(),
            assumption: None,
            calibration: None,
            limits: None,
        };
        Ok(RaplSensor { file, info, spec: CounterSpec { unit: CounterUnit::Microjoules, range } })
    }
}

/// The command that lets everybody read the counters of `unreadable` domains until the next boot.
pub fn remedy(unreadable: &[Domain]) -> String {
    let files: Vec<_> = unreadable.iter().map(|domain| domain.counter_path().display().to_string()).collect();
    format!("sudo chmod a+r {}", files.join(" "))
}

/// One domain.
#[derive(Debug)]
pub struct RaplSensor {
    file: File,
    info: SensorInfo,
    spec: CounterSpec,
}

impl Sensor for RaplSensor {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn channels(&self) -> Channels {
        Channels { counter: Some(self.spec), ..Channels::default() }
    }

    fn read(&mut self) -> Reading {
        let before = MonotonicNs::now();
        let counter = match read_counter(&self.file) {
            Ok(value) => Quantity::Measured(value),
            Err(error) => Quantity::Missing(Missing::Refused(error.to_string())),
        };
        Reading {
            t: before.midpoint(MonotonicNs::now()),
            power: Quantity::Unsupported,
            average: Quantity::Unsupported,
            counter,
        }
    }
}

/// Reads the counter again: a sysfs file gives its present value when read from its start.
fn read_counter(file: &File) -> io::Result<CounterValue> {
    let mut text = [0; 32];
    let len = file.read_at(&mut text, 0)?;
    std::str::from_utf8(&text[..len])
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(CounterValue)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "expected a number of microjoules"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensors::sensor::Advance;
    use wattle_runlog::Joules;

    fn zone(root: &Path, zone: &str, name: &str, uj: &str) {
        let path = root.join(zone);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("name"), format!("{name}\n")).unwrap();
        fs::write(path.join("energy_uj"), format!("{uj}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), "262143328850\n").unwrap();
    }

    fn names(root: &Path) -> Vec<String> {
        domains(root).iter().map(Domain::sensor_id).collect()
    }

    #[test]
    fn packages_and_their_memory_are_read_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir(root.join("intel-rapl")).unwrap();
        for package in ["0", "1"] {
            zone(root, &format!("intel-rapl:{package}"), &format!("package-{package}"), "5");
            zone(root, &format!("intel-rapl:{package}:0"), "core", "1");
            zone(root, &format!("intel-rapl:{package}:1"), "uncore", "1");
            zone(root, &format!("intel-rapl:{package}:2"), "dram", "2");
        }
        zone(root, "intel-rapl-mmio:0", "package-0", "5");
        zone(root, "intel-rapl:2", "psys", "9");
        assert_eq!(names(root), ["cpu:package-0", "cpu:package-1", "dram:package-0", "dram:package-1"]);
        assert!(domains(root).iter().all(|domain| !domain.path.to_string_lossy().contains("mmio")));
    }

    #[test]
    fn the_platform_alone_is_read_where_there_are_no_packages() {
        let dir = tempfile::tempdir().unwrap();
        zone(dir.path(), "intel-rapl:0", "psys", "9");
        assert_eq!(names(dir.path()), ["platform:psys"]);
        assert!(names(&dir.path().join("absent")).is_empty());
    }

    #[test]
    fn a_counter_is_read_again_and_wraps() {
        let dir = tempfile::tempdir().unwrap();
        zone(dir.path(), "intel-rapl:0", "package-0", "262143000000");
        let domain = &domains(dir.path())[0];
        let mut sensor = domain.open("host").unwrap();
        let spec = sensor.channels().counter.unwrap();
        let first = *sensor.read().counter.measured().unwrap();
        fs::write(domain.counter_path(), "671150\n").unwrap();
        let second = *sensor.read().counter.measured().unwrap();
        assert_eq!(spec.advance(first, second), Advance::By(Joules(1.0)));
        fs::write(domain.counter_path(), "\n").unwrap();
        assert!(matches!(sensor.read().counter, Quantity::Missing(Missing::Refused(_))));
    }

    #[test]
    fn the_remedy_names_exactly_the_files_that_are_read() {
        let dir = tempfile::tempdir().unwrap();
        zone(dir.path(), "intel-rapl:0", "package-0", "5");
        zone(dir.path(), "intel-rapl:0:0", "dram", "5");
        let root = dir.path().display();
        assert_eq!(
            remedy(&domains(dir.path())),
            format!("sudo chmod a+r {root}/intel-rapl:0/energy_uj {root}/intel-rapl:0:0/energy_uj")
        );
    }
}
