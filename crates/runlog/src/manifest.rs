//! Where, on what, and from what a run was made: `manifest.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::beside::Machine;
use crate::calibration::AppliedCalibration;
use crate::clock::{MonotonicNs, WallAnchor, boot_id};
use crate::device::ComputeDevice;
use crate::error::RunlogError;
use crate::grid::GridOrigin;
use crate::record::{Carbon, Flag, Method, SensorKind};
use crate::units::Watts;

/// Name and version of the format of a manifest.
pub const MANIFEST_SCHEMA: &str = "wattle.manifest/1";

/// Everything that identifies a run besides its configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`].
    pub schema: String,
    /// The run's id.
    pub run_id: String,
    /// The run's name, `run.name`.
    pub name: String,
    /// Versions of what made it.
    pub versions: Versions,
    /// The command line that started it.
    pub command: Vec<String>,
    /// `run.seed`.
    pub seed: u64,
    /// What it computes on.
    pub devices: Vec<ComputeDevice>,
    /// Driver versions; null where there is no such driver.
    pub drivers: Drivers,
    /// The machine.
    pub host: Host,
    /// What was metered.
    pub sensors: Vec<SensorInfo>,
    /// The data trained on; null until they are prepared.
    pub data: Option<DataInfo>,
    /// The model's size; null until it is built.
    pub model: Option<ModelInfo>,
    /// One entry a process: the first start and each resume.
    pub segments: Vec<Segment>,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// If it is missing, is not a manifest, or is of another version.
    pub fn read(path: &Path) -> Result<Self, RunlogError> {
        let json = wattle_files::read(path, wattle_files::SMALL).map_err(RunlogError::io("read", path))?;
        let manifest: Self = serde_json::from_slice(&json)
            .map_err(|e| RunlogError::corrupt(path, format!("not a manifest of a run: {e}")))?;
        if manifest.schema != MANIFEST_SCHEMA {
            let reason = format!("expected schema {MANIFEST_SCHEMA:?}, got {:?}", manifest.schema);
            return Err(RunlogError::corrupt(path, reason));
        }
        Ok(manifest)
    }
}

/// Versions of software.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// This program's.
    pub wattle: String,
    /// The tensor library's.
    pub candle: Option<String>,
}

/// Versions of drivers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drivers {
    /// The NVIDIA driver's.
    pub nvidia: Option<String>,
    /// The newest CUDA that the driver serves.
    pub cuda: Option<String>,
}

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Operating system and kernel release.
    pub os: String,
    /// The processor's name.
    pub cpu_model: Option<String>,
    /// Logical processors that the process may use.
    pub cpus: u32,
    /// Installed memory.
    pub memory_bytes: Option<u64>,
}

/// A sensor as it was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SensorInfo {
    /// Its name in records.
    pub id: String,
    /// What it stands for.
    pub kind: SensorKind,
    /// How its energy is arrived at where all goes well.
    pub method: Method,
    /// What it is, for a person.
    pub description: String,
    /// Bound on its systematic error, as a share.
    pub systematic_fraction: f64,
    /// Readings with the same id share that error.
    pub systematic_id: String,
    /// What holds for all that it says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Flag>,
    /// What a model takes for granted where nothing tells; absent where nothing was guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumption: Option<String>,
    /// By what its readings were corrected; absent where they stand as the sensor gave them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<AppliedCalibration>,
    /// Its power limits, where the device has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PowerLimits>,
}

/// The power limits of a board as they were when it was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PowerLimits {
    /// What the board holds itself to.
    pub enforced_w: Watts,
    /// The lowest that can be set; null where the board does not tell.
    pub min_w: Option<Watts>,
    /// The highest that can be set; null where the board does not tell.
    pub max_w: Option<Watts>,
}

/// The data trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataInfo {
    /// Hash over tokens and tokenizer.
    pub sha256: String,
    /// Hash over the text and where it is split, whatever tokens it is cut into; absent in older runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_sha256: Option<String>,
    /// Hash of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// Tokens of the training split.
    pub train_tokens: u64,
    /// Tokens of the validation split.
    pub val_tokens: u64,
    /// Whether the tokens were not compared with their hashes (`--no-verify`): `sha256` is then what they should be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unverified: bool,
    /// The loss that no model can go below on the validation split, where the text is from a grammar whose entropy
    /// is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<LossFloor>,
    /// What was done with documents before they became tokens, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<DataStep>,
}

/// A step of preparation: documents and bytes of text that went in and came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataStep {
    /// Its name.
    pub name: String,
    /// What it keeps or does.
    pub rule: String,
    /// Documents that came to it.
    pub documents_in: u64,
    /// Documents that it let pass.
    pub documents_out: u64,
    /// Their bytes before it.
    pub bytes_in: u64,
    /// The bytes of those that it let pass, after it.
    pub bytes_out: u64,
    /// Of personal data: how much of each kind was found.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, u64>,
}

/// The entropy of a text, in the units of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossFloor {
    /// Nats a token.
    pub nats_per_token: f64,
    /// Bits a byte of text.
    pub bits_per_byte: f64,
}

/// The model's size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its family.
    pub family: String,
    /// Trainable parameters, shared ones counted once.
    pub parameters: u64,
}

/// One process of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Counted from 0.
    pub id: u32,
    /// The host's name.
    pub host: String,
    /// The kernel's id of the boot: monotonic times compare only within one.
    pub boot_id: String,
    /// Wall time of the anchor, RFC 3339 in UTC.
    pub wall_anchor: String,
    /// The same moment on the monotonic clock, in nanoseconds.
    pub monotonic_anchor: MonotonicNs,
    /// Finished updates at its start.
    pub step_start: u64,
    /// How its energy is priced; absent in older runs and where nothing is metered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<SegmentPrices>,
    /// The processes that trained together, where there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<SegmentRanks>,
}

/// Processes that train one model together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRanks {
    /// Their number.
    pub world: usize,
    /// What they talked by: library and version.
    pub fabric: String,
    /// Host name and number of ranks of each machine, in the order of their lowest ranks.
    pub nodes: Vec<NodeRanks>,
}

/// The ranks of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRanks {
    /// The machine's host name.
    pub host: String,
    /// Ranks on it.
    pub ranks: usize,
}

/// How the energy of a segment is priced. Prices may change at a resume; a segment that ends without its last record is
/// priced by what stands here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentPrices {
    /// Power usage effectiveness of the building.
    pub pue: f64,
    /// The carbon intensity; with a table, that of what the table does not cover.
    pub carbon: Carbon,
    /// The table of intensities by the moment of use, `carbon.table`; null without one.
    pub carbon_table: Option<String>,
    /// The price of energy; null without one.
    pub tariff: Option<SegmentTariff>,
    /// What is stated of the machine; absent where nothing is.
    #[serde(default, skip_serializing_if = "Machine::is_empty")]
    pub machine: Machine,
    /// Who is asked for the grid's intensity at the moment of use; absent where nobody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridOrigin>,
}

/// The price of energy in a segment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentTariff {
    /// Price of a kilowatt-hour.
    pub per_kwh: f64,
    /// ISO 4217 code.
    pub currency: String,
}

impl Segment {
    /// A segment that starts now on this host.
    pub fn now(id: u32, step_start: u64) -> Self {
        let anchor = WallAnchor::now();
        Self {
            id,
            host: hostname(),
            boot_id: boot_id(),
            wall_anchor: anchor.rfc3339(),
            monotonic_anchor: anchor.monotonic,
            step_start,
            prices: None,
            ranks: None,
        }
    }

    /// The anchor of its clock; `None` if the manifest's text was changed.
    pub fn anchor(&self) -> Option<WallAnchor> {
        WallAnchor::parse(&self.wall_anchor, self.monotonic_anchor)
    }
}

impl Host {
    /// This machine.
    pub fn here() -> Self {
        let uname = rustix::system::uname();
        Self {
            hostname: hostname(),
            os: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            cpu_model: cpu_model(),
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory_bytes: memory_bytes(),
        }
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn cpu_model() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version wrote it.
    const OLD: &str = r#"{
        "schema": "wattle.manifest/1", "run_id": "old-20261121-101500-61fb", "name": "old",
        "versions": { "wattle": "0.1.0", "candle": "0.11.1" },
        "command": ["wattle", "train"], "seed": 1,
        "devices": [{ "kind": "cpu", "ordinal": 0, "uuid": null, "pci": null }],
        "drivers": { "nvidia": null, "cuda": null },
        "host": { "hostname": "vm", "os": "Linux", "cpu_model": null, "cpus": 2, "memory_bytes": null },
        "sensors": [{
            "id": "cpu:estimate", "kind": "cpu", "method": "estimated", "description": "a model",
            "systematic_fraction": 0.5, "systematic_id": "estimate:cpu-load-cubed/1"
        }],
        "data": { "sha256": "8db6", "tokenizer_sha256": "9835", "train_tokens": 97987, "val_tokens": 10867 },
        "model": { "family": "gpt2", "parameters": 1066112 },
        "segments": []
    }"#;

    #[test]
    fn a_manifest_of_an_older_version_is_read_and_what_it_lacks_is_absent() {
        let manifest: Manifest = serde_json::from_str(OLD).unwrap();
        let data = manifest.data.as_ref().unwrap();
        assert_eq!((data.text_sha256.as_ref(), data.floor), (None, None));
        assert!(manifest.sensors[0].flags.is_empty() && manifest.sensors[0].limits.is_none());
        // Written again, it is what it was.
        let again: serde_json::Value = serde_json::to_value(&manifest).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(OLD).unwrap());
    }
}
