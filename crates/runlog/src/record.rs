//! What a stretch of a run cost: `emissions.jsonl`, one record a line, and `emissions.json` beside a checkpoint.
//!
//! Names carry their units. A line ends in `"crc32c"`, the CRC-32C in hexadecimal of every byte before
//! `,"crc32c"`, so that a reader in any language can check a line without parsing it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::beside::{Embodied, MachineIdle, Projected};
use crate::calibration::AppliedCalibration;
use crate::clock::MonotonicNs;
use crate::grid::GridShares;
use crate::masked::Masked;
use crate::span::Phase;
use crate::units::{Celsius, GramsCo2e, GramsPerKwh, Joules, Seconds, Watts};

/// Name and version of the format of a record.
pub const EMISSIONS_SCHEMA: &str = "wattle.emissions/1";

const CHECKSUM_KEY: &str = ",\"crc32c\":\"";

/// What one stretch of a run cost, and the run so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`EMISSIONS_SCHEMA`].
    pub schema: String,
    /// The run's id, as in its manifest.
    pub run_id: String,
    /// The run's segment.
    pub segment: u32,
    /// What the stretch was.
    pub kind: RecordKind,
    /// The epoch it belongs to, counted from 1; null for a whole run or a command.
    pub epoch: Option<u64>,
    /// Whether what it covers ran to its end.
    pub complete: bool,
    /// Finished updates at its start.
    pub step_start: u64,
    /// Finished updates at its end.
    pub step_end: u64,
    /// Tokens learnt within it.
    pub tokens: u64,
    /// Its start, RFC 3339 in UTC.
    pub started_at: String,
    /// Its start on the segment's monotonic clock; null for a whole run.
    pub start_ns: Option<MonotonicNs>,
    /// Its end on the segment's monotonic clock; null for a whole run.
    pub end_ns: Option<MonotonicNs>,
    /// Its length.
    pub duration_s: Seconds,
    /// Energy of all sensors together, estimates included.
    pub energy_j: Joules,
    /// 95 % half-width of the random error of the measured part of `energy_j`; null where nothing was measured,
    /// since the random error of a model is unknown.
    pub energy_uncertainty_j: Option<Joules>,
    /// `energy_j` less what the sensors with a baseline would have drawn idle; null without a baseline.
    #[serde(default)]
    pub energy_above_idle_j: Option<Joules>,
    /// `energy_j` in kilowatt-hours.
    pub energy_kwh: f64,
    /// `energy_kwh` times `pue`: what the building drew.
    pub facility_kwh: f64,
    /// Power usage effectiveness of the building.
    pub pue: f64,
    /// `facility_kwh` times the carbon intensity.
    pub emissions_g: GramsCo2e,
    /// `facility_kwh` times a tariff; null without one.
    pub cost: Option<Cost>,
    /// Which carbon intensity was used.
    pub carbon: Carbon,
    /// `energy_j` over `tokens`; null without tokens.
    pub joules_per_token: Option<f64>,
    /// Tokens of texts that went through the model and were not learnt; absent where all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<Masked>,
    /// Tokens that fill windows up beside packed documents; absent where none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Masked>,
    /// Software carbon intensity (ISO/IEC 21031), with `embodied` where that is given; null without tokens.
    pub sci: Option<Sci>,
    /// Share of the emissions of making the machine; absent where they were not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embodied: Option<Embodied>,
    /// What the whole machine would have drawn idle; absent where no constant is stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_idle: Option<MachineIdle>,
    /// What the whole run was expected to use; absent where nothing told it yet, of a whole run, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projection: Option<Projected>,
    /// Share of `energy_j` that was measured and not estimated.
    pub measured_fraction: f64,
    /// What each sensor saw.
    pub sensors: Vec<SensorRecord>,
    /// Devices that were trained on and that no sensor measured, such as `cuda:0`: their energy is missing from
    /// `energy_j`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmetered_devices: Vec<String>,
    /// `energy_j` by what the run was doing.
    pub phases: PhaseJoules,
    /// How `phases` was arrived at, the weakest method of any phase; null where there were no spans.
    pub phases_method: Option<PhasesMethod>,
    /// 95 % half-widths of `phases`; null where nothing was measured, and in records from before they were stated.
    #[serde(default)]
    pub phases_uncertainty_j: Option<PhaseJoules>,
    /// How each phase was arrived at.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub phases_methods: BTreeMap<Phase, PhasesMethod>,
    /// The command that was metered; absent where it was a training run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<MeteredCommand>,
    /// The run so far, this record included.
    pub cumulative: Cumulative,
    /// What else was used.
    pub resources: Resources,
    /// What metering itself used.
    pub overhead: Overhead,
}

/// A metered command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeteredCommand {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// Its exit status, 128 + n after signal n.
    pub exit_status: u8,
    /// Boards that were to be metered and could not be, by NVML's numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmetered_boards: Vec<u32>,
    /// Processes that the command started and that were still running when it ended: what they used until then is
    /// counted, what they used afterwards is not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_running: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What a record covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// An epoch, or the part of it that lies in one segment.
    Epoch,
    /// An epoch so far, up to a checkpoint in its midst.
    Checkpoint,
    /// The tail of a segment that was killed, from its power trace.
    Interrupted,
    /// The whole run.
    Final,
    /// A metered command.
    Command,
}

impl RecordKind {
    /// Whether records of this kind add up to their run: they do not overlap, and together they are all of it but
    /// what was drawn after the last of them. A checkpoint's record looks at a part of its epoch, the whole run's at
    /// all of them.
    pub fn is_additive(self) -> bool {
        match self {
            Self::Epoch | Self::Interrupted | Self::Command => true,
            Self::Checkpoint | Self::Final => false,
        }
    }
}

/// Money, kept apart from emissions: the two have nothing to do with each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Amount in `currency`.
    pub value: f64,
    /// ISO 4217 code.
    pub currency: String,
    /// Price of a kilowatt-hour in `currency`; the mean where it changed between segments.
    pub tariff_per_kwh: f64,
    /// Share of the energy that `value` covers: of a run that had a tariff for a part of it. Absent where it covers
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_fraction: Option<f64>,
}

/// A carbon intensity and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Carbon {
    /// Grams of CO₂-equivalent a kilowatt-hour.
    pub intensity_g_per_kwh: GramsPerKwh,
    /// ISO 3166-1 alpha-3 code, "WORLD", or "custom" for the user's own number.
    pub region: String,
    /// Who published it.
    pub source: String,
    /// The year it describes; null for the user's own number.
    pub year: Option<u16>,
    /// What it counts, such as "lifecycle".
    pub basis: String,
    /// Share of the energy that was priced by an hourly table at the moment of its use; the rest was priced by
    /// what `basis` names. Null without a table.
    #[serde(default)]
    pub table_fraction: Option<f64>,
    /// Whose live and forecast figures priced the energy at the moment of its use, and how much of it; absent where
    /// nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridShares>,
}

/// Software carbon intensity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sci {
    /// Grams of CO₂-equivalent.
    pub value: f64,
    /// For how much work.
    pub per: String,
}

/// What a sensor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SensorKind {
    /// A GPU board with its memory.
    Gpu,
    /// A processor package.
    Cpu,
    /// The host's memory.
    Dram,
    /// The whole machine.
    Platform,
}

/// How a sensor's energy was arrived at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The difference of a hardware energy counter; where its ticks lie apart from the ends, completed by power.
    Counter,
    /// The integral of the samples that the device's driver takes by itself.
    DriverSamples,
    /// The integral of sampled power.
    PowerIntegral,
    /// A model of the load; nothing was measured.
    Estimated,
}

impl Method {
    /// Whether something was measured, and not estimated.
    pub fn is_measured(self) -> bool {
        self != Self::Estimated
    }
}

/// What one sensor saw within a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SensorRecord {
    /// The sensor's name, the same in every record of a run.
    pub id: String,
    /// What it stands for.
    pub kind: SensorKind,
    /// How `energy_j` was arrived at.
    pub method: Method,
    /// The best figure.
    pub energy_j: Joules,
    /// 95 % half-width of its random error; null for an estimate, where it is unknown.
    pub uncertainty_j: Option<Joules>,
    /// Bound on its systematic error, as a share of `energy_j`.
    pub systematic_fraction: f64,
    /// Readings with the same id share that error, so their ratio is free of it.
    pub systematic_id: String,
    /// By the energy counter; null where there is none.
    pub counter_j: Option<Joules>,
    /// By the integral of power; null where power cannot be read.
    pub integral_j: Option<Joules>,
    /// By the integral of one-second averages, corrected for their delay; null where the sensor gives none
    /// beside its power.
    #[serde(default)]
    pub average_j: Option<Joules>,
    /// By the integral of the driver's own samples; absent where the driver takes none, and in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples_j: Option<Joules>,
    /// What of `uncertainty_j` comes from the start and from the end; absent where it cannot be divided, and in older
    /// records. Where one record ends and the next begins, the two errors are one, and cancel in their sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edges: Option<Edges>,
    /// The share of `energy_j` that this process's CPU time accounts for; null where it is not known.
    pub process_share_j: Option<Joules>,
    /// Readings within the record.
    pub samples: u64,
    /// Longest time between two readings.
    pub max_gap_ms: f64,
    /// Mean power; null without readings.
    pub mean_w: Option<Watts>,
    /// Highest power read; null without readings.
    pub max_w: Option<Watts>,
    /// What the sensor drew idle, before the run's load; null unless it was measured. Never subtracted.
    #[serde(default)]
    pub baseline: Option<Baseline>,
    /// Highest temperature that was seen of the device; absent where it does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_temperature_c: Option<Celsius>,
    /// What held the device's clocks back within the record, by NVML's names in snake case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub throttle: Vec<String>,
    /// The device's clock, and for how long what held it back; absent where the device does not tell, and in older
    /// records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clocks: Option<ClockRecord>,
    /// What a model takes for granted where nothing tells, such as the processor's thermal design power; absent
    /// where nothing was guessed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumption: Option<String>,
    /// By what its readings were corrected; absent where they stand as the sensor gave them, and where that changed
    /// within the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<AppliedCalibration>,
    /// What to know about the figure.
    pub flags: Vec<Flag>,
}

impl SensorRecord {
    /// A figure without readings.
    pub fn plain(id: String, kind: SensorKind, method: Method, energy: Joules) -> Self {
        Self {
            systematic_id: id.clone(),
            id,
            kind,
            method,
            energy_j: energy,
            uncertainty_j: None,
            systematic_fraction: 0.0,
            counter_j: None,
            integral_j: None,
            average_j: None,
            samples_j: None,
            edges: None,
            process_share_j: None,
            samples: 0,
            max_gap_ms: 0.0,
            mean_w: None,
            max_w: None,
            baseline: None,
            max_temperature_c: None,
            throttle: Vec::new(),
            clocks: None,
            assumption: None,
            calibration: None,
            flags: Vec::new(),
        }
    }
}

/// A device's clock within a record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClockRecord {
    /// Mean clock of the multiprocessors; null where it was not read.
    pub sm_mean_mhz: Option<f64>,
    /// The highest that the device allows; null where it does not tell.
    pub sm_max_mhz: Option<f64>,
    /// For how long each reason held clocks back, as the driver counts it, by NVML's names in snake case. Reasons can
    /// hold at the same time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_back_s: BTreeMap<String, Seconds>,
}

/// What the ends of a stretch contribute to the error of its energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Edges {
    /// The start.
    pub start: EdgeError,
    /// The end.
    pub end: EdgeError,
}

/// What the energy up to a moment may be off by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EdgeError {
    /// 95 % half-width of what other moments do not share.
    pub own_j: Joules,
    /// What all moments are off by together per watt drawn: only differences of it count.
    pub shared_j: Joules,
}

impl Edges {
    /// The half-width of the energy between the two.
    pub fn half_width(&self) -> Joules {
        let shared = (self.end.shared_j - self.start.shared_j).get();
        Joules(self.start.own_j.get().hypot(self.end.own_j.get()).hypot(shared))
    }
}

/// What a sensor drew before the run's load, with nothing else on the device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// Mean power.
    pub power_w: Watts,
    /// 95 % half-width of its random error.
    pub uncertainty_w: Watts,
    /// For how long it was measured.
    pub seconds: Seconds,
}

/// Something to know about a sensor's figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Counter and integral agree within their errors.
    Agree,
    /// Counter and integral do not agree.
    Disagree,
    /// The counter went backwards: the driver was reloaded.
    CounterReset,
    /// The counter stood still though power was drawn.
    CounterStuck,
    /// Readings are missing for longer than expected.
    Gaps,
    /// The stretch is short against the sensor's update period.
    ShortWindow,
    /// Another process used the device.
    Contended,
    /// The device is divided (MIG) and was counted whole.
    WholeDevice,
    /// The device was found by its number alone, which CUDA and NVML may count differently.
    OrderAssumed,
    /// The device stopped answering.
    DeviceLost,
    /// No reading could be taken at one of the stretch's ends.
    EdgeMissing,
    /// Not measured.
    Estimated,
    /// The mean power is above the highest power read: readings are too sparse to have seen the peaks, or the
    /// counter's steps at the edges count for much.
    MeanAboveMax,
    /// The processor is unknown and its thermal design power a guess.
    GuessedTdp,
    /// The energy counter failed at one of the stretch's ends, or both; power was used instead, or what was read of
    /// either.
    CounterMissing,
    /// A machine whose meter did not answer: it is taken to use as much a rank as the machine of rank 0.
    NodeMissing,
}

/// Joules by phase. They add up to the record's energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the phase of its name")]
pub struct PhaseJoules {
    pub setup: Joules,
    pub data: Joules,
    pub forward_backward: Joules,
    pub optimizer: Joules,
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub wait: Joules,
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub exchange: Joules,
    pub evaluate: Joules,
    pub checkpoint: Joules,
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub paused: Joules,
    pub other: Joules,
}

fn is_nothing(energy: &Joules) -> bool {
    *energy == Joules::ZERO
}

impl PhaseJoules {
    /// The joules of one phase.
    pub fn get_mut(&mut self, phase: Phase) -> &mut Joules {
        match phase {
            Phase::Setup => &mut self.setup,
            Phase::Data => &mut self.data,
            Phase::ForwardBackward => &mut self.forward_backward,
            Phase::Optimizer => &mut self.optimizer,
            Phase::Wait => &mut self.wait,
            Phase::Exchange => &mut self.exchange,
            Phase::Evaluate => &mut self.evaluate,
            Phase::Checkpoint => &mut self.checkpoint,
            Phase::Paused => &mut self.paused,
            Phase::Other => &mut self.other,
        }
    }

    /// All phases together.
    pub fn total(mut self) -> Joules {
        Phase::ALL.into_iter().map(|phase| *self.get_mut(phase)).sum()
    }

    /// Of half-widths: gives phases that have energy and no half-width their part of the error of what the other
    /// phases leave of the whole, whose own half-width is `whole`. A small one may be off by all that it has.
    fn bound_unknown(&mut self, whole: Joules, mut phases: Self) {
        let squares: f64 = Phase::ALL.into_iter().map(|phase| self.get_mut(phase).get().powi(2)).sum();
        let rest = whole.get().hypot(squares.sqrt());
        let unknown: Vec<_> = Phase::ALL
            .into_iter()
            .filter(|phase| *self.get_mut(*phase) == Joules::ZERO && *phases.get_mut(*phase) > Joules::ZERO)
            .collect();
        let together: Joules = unknown.iter().map(|phase| *phases.get_mut(*phase)).sum();
        for phase in unknown {
            let energy = phases.get_mut(phase).get();
            *self.get_mut(phase) = Joules((rest * energy / together.get()).max(energy.min(rest)));
        }
    }
}

/// How energy was divided among phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhasesMethod {
    /// Each phase's own readings.
    Measured,
    /// A fit over many steps.
    Regression,
    /// In proportion to time.
    TimeShare,
}

impl PhasesMethod {
    /// The one that says less.
    pub fn weakest(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let strength = |method: &Self| match method {
            Self::TimeShare => 0,
            Self::Regression => 1,
            Self::Measured => 2,
        };
        a.into_iter().chain(b).min_by_key(strength)
    }
}

/// The run so far, over all its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cumulative {
    /// Energy.
    pub energy_j: Joules,
    /// Emissions.
    pub emissions_g: GramsCo2e,
    /// Cost; null without a tariff.
    pub cost: Option<f64>,
    /// Share of the energy that `cost` covers: of a run that had a tariff for a part of it. Absent where it covers
    /// all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_fraction: Option<f64>,
    /// Tokens trained on, those of repeated steps counted once.
    pub tokens: u64,
    /// Energy that went into steps that had to be done again.
    pub wasted_j: Joules,
}

/// What a stretch used besides energy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Hours times compute devices.
    pub device_hours: f64,
    /// Most memory that the process has held so far; null where it is not known.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes that the process has read from storage so far; null where it is not known.
    pub bytes_read: Option<u64>,
    /// Processor time that the process has used so far, over all threads; absent in older records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<Seconds>,
}

/// What metering used, since the start of the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overhead {
    /// CPU time of the sampling thread.
    pub sampler_cpu_s: Seconds,
    /// Rounds of readings taken.
    pub samples: u64,
    /// Rounds that came later than one interval after their time.
    pub missed_deadlines: u64,
    /// Median time that a round of readings takes; null before the first.
    pub read_p50_us: Option<f64>,
    /// 99th percentile of the same.
    pub read_p99_us: Option<f64>,
    /// Time between two rounds as it is now: longer than asked for where readings are slow. Null before the
    /// first.
    #[serde(default)]
    pub interval_ms: Option<f64>,
}

impl Record {
    /// The record as one line of JSON with its checksum.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string(self).expect("a record is plain data");
        let body = json.strip_suffix('}').expect("a record is an object");
        format!("{body}{CHECKSUM_KEY}{:08x}\"}}", crc32c::crc32c(body.as_bytes()))
    }

    /// Reads one line and checks it.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn from_json(line: &str) -> Result<Self, String> {
        let (body, rest) = line.rsplit_once(CHECKSUM_KEY).ok_or("no crc32c at its end")?;
        let stated = rest.trim_end().strip_suffix("\"}").ok_or("no crc32c at its end")?;
        let actual = format!("{:08x}", crc32c::crc32c(body.as_bytes()));
        if stated != actual {
            return Err(format!("crc32c is {stated}, the line's is {actual}"));
        }
        let mut record: Self = serde_json::from_str(&format!("{body}}}")).map_err(|e| e.to_string())?;
        if record.schema != EMISSIONS_SCHEMA {
            return Err(format!("expected schema {EMISSIONS_SCHEMA:?}, got {:?}", record.schema));
        }
        record.correct_half_widths();
        Ok(record)
    }

    /// Corrects half-widths of zero, which earlier versions wrote for what was unknown.
    fn correct_half_widths(&mut self) {
        let is_zero = |half_width: Option<Joules>| half_width == Some(Joules::ZERO);
        for sensor in self.sensors.iter_mut().filter(|sensor| !sensor.method.is_measured()) {
            sensor.uncertainty_j = sensor.uncertainty_j.filter(|half_width| *half_width != Joules::ZERO);
        }
        let is_estimate = !self.sensors.iter().any(|sensor| sensor.method.is_measured());
        if is_estimate && is_zero(self.energy_uncertainty_j) {
            self.energy_uncertainty_j = None;
            self.phases_uncertainty_j = None;
        }
        if let (Some(half_width), Some(half_widths)) =
            (self.energy_uncertainty_j, &mut self.phases_uncertainty_j)
        {
            half_widths.bound_unknown(half_width, self.phases);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn example() -> Record {
        Record {
            schema: EMISSIONS_SCHEMA.to_owned(),
            run_id: "default-20261123-150000-1a2b".to_owned(),
            segment: 0,
            kind: RecordKind::Epoch,
            epoch: Some(1),
            complete: true,
            step_start: 0,
            step_end: 100,
            tokens: 76_800,
            started_at: "2026-11-23T15:00:00.000Z".to_owned(),
            start_ns: Some(MonotonicNs(5_000_000_000)),
            end_ns: Some(MonotonicNs(15_000_000_000)),
            duration_s: Seconds(10.0),
            energy_j: Joules(850.0),
            energy_uncertainty_j: Some(Joules(0.5)),
            energy_above_idle_j: None,
            energy_kwh: Joules(850.0).kwh(),
            facility_kwh: Joules(850.0).kwh() * 1.5,
            pue: 1.5,
            emissions_g: GramsPerKwh(480.6) * Joules(850.0 * 1.5),
            cost: None,
            carbon: Carbon {
                intensity_g_per_kwh: GramsPerKwh(480.6),
                region: "WORLD".to_owned(),
                source: "a table".to_owned(),
                year: Some(2023),
                basis: "lifecycle".to_owned(),
                table_fraction: None,
                grid: None,
            },
            joules_per_token: Some(850.0 / 76_800.0),
            masked: None,
            padding: None,
            sci: None,
            embodied: None,
            machine_idle: None,
            projection: None,
            measured_fraction: 0.0,
            sensors: vec![],
            unmetered_devices: vec![],
            phases: PhaseJoules {
                setup: Joules(50.0),
                forward_backward: Joules(800.0),
                ..Default::default()
            },
            phases_method: Some(PhasesMethod::TimeShare),
            phases_uncertainty_j: None,
            phases_methods: BTreeMap::new(),
            command: None,
            cumulative: Cumulative::default(),
            resources: Resources::default(),
            overhead: Overhead::default(),
        }
    }

    #[test]
    fn a_record_reads_back_and_its_checksum_is_last() {
        let record = example();
        let line = record.to_json();
        assert_eq!(Record::from_json(&line).unwrap(), record);
        let keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
        assert_eq!(keys["crc32c"].as_str().map(str::len), Some(8));
        assert!(line.ends_with(&format!("\"crc32c\":{}}}", keys["crc32c"])));
        assert_eq!(record.phases.total(), record.energy_j);
    }

    #[test]
    fn a_record_from_before_later_keys_is_read() {
        let mut old: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&example().to_json()).unwrap();
        old.remove("crc32c");
        old.remove("energy_above_idle_j").unwrap();
        old.remove("phases_uncertainty_j").unwrap();
        old["carbon"].as_object_mut().unwrap().remove("table_fraction").unwrap();
        old["overhead"].as_object_mut().unwrap().remove("interval_ms").unwrap();
        let body = serde_json::to_string(&old).unwrap();
        let body = body.strip_suffix('}').unwrap();
        let line = format!("{body}{CHECKSUM_KEY}{:08x}\"}}", crc32c::crc32c(body.as_bytes()));
        assert_eq!(Record::from_json(&line).unwrap(), example());
    }

    /// A sensor that says 850 J, give or take nothing, as earlier versions wrote it.
    fn sensor(method: Method) -> SensorRecord {
        let json = serde_json::json!({
            "id": "x", "kind": "cpu", "method": method, "energy_j": 850.0, "uncertainty_j": 0.0,
            "systematic_fraction": 0.5, "systematic_id": "x", "counter_j": null, "integral_j": null,
            "process_share_j": null, "samples": 9, "max_gap_ms": 50.0, "mean_w": 85.0, "max_w": null, "flags": [],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_zero_that_stood_for_an_estimates_unknown_error_reads_as_unknown() {
        let old = Record {
            energy_uncertainty_j: Some(Joules::ZERO),
            phases_uncertainty_j: Some(PhaseJoules::default()),
            sensors: vec![sensor(Method::Estimated)],
            ..example()
        };
        let read = Record::from_json(&old.to_json()).unwrap();
        assert_eq!((read.energy_uncertainty_j, read.phases_uncertainty_j), (None, None));
        assert_eq!(read.sensors[0].uncertainty_j, None);
        let measured = Record { sensors: vec![sensor(Method::Counter)], ..old };
        let read = Record::from_json(&measured.to_json()).unwrap();
        assert_eq!(read.energy_uncertainty_j, Some(Joules::ZERO), "what was measured keeps what it says");
        assert_eq!(read.sensors[0].uncertainty_j, Some(Joules::ZERO));
    }

    #[test]
    fn a_phase_without_a_half_width_gets_the_error_of_what_the_others_leave() {
        let half_widths = PhaseJoules { setup: Joules(3.0), ..Default::default() };
        let old = Record {
            energy_uncertainty_j: Some(Joules(4.0)),
            phases_uncertainty_j: Some(half_widths),
            sensors: vec![sensor(Method::Counter)],
            ..example()
        };
        let read = Record::from_json(&old.to_json()).unwrap().phases_uncertainty_j.unwrap();
        assert_eq!((read.setup, read.forward_backward), (Joules(3.0), Joules(5.0)));
        assert_eq!(read.data, Joules::ZERO, "a phase that took nothing is known to have taken nothing");
        let all_zero = Record { phases_uncertainty_j: Some(PhaseJoules::default()), ..old };
        let mut read = Record::from_json(&all_zero.to_json()).unwrap().phases_uncertainty_j.unwrap();
        for phase in
            Phase::ALL.into_iter().filter(|phase| *all_zero.phases.clone().get_mut(*phase) > Joules::ZERO)
        {
            assert!(*read.get_mut(phase) > Joules::ZERO && *read.get_mut(phase) <= Joules(4.0), "{phase:?}");
        }
    }

    #[test]
    fn numbers_read_back_to_the_bit() {
        // 0.1 + 0.2 and its neighbours are where a fast parser goes wrong by one.
        for i in 0..1000u64 {
            let energy = Joules(f64::from_bits((0.1f64 + 0.2).to_bits() + i * 7919));
            let record = Record { energy_j: energy, ..example() };
            assert_eq!(Record::from_json(&record.to_json()).unwrap().energy_j, energy);
        }
    }

    #[test]
    fn any_changed_byte_is_found() {
        let line = example().to_json();
        for i in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[i] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert!(Record::from_json(&changed).is_err(), "byte {i}");
        }
    }
}
