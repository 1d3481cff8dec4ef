//! The run so far, as its records add up.

use std::collections::{BTreeMap, BTreeSet};

use wattle_runlog::beside::{Embodied, MachineIdle};
use wattle_runlog::grid::GridEnergy;
use wattle_runlog::masked::Masked;
use wattle_runlog::record::{
    Carbon, ClockRecord, Cost, Cumulative, Edges, Flag, Method, PhaseJoules, PhasesMethod, SensorRecord,
};
use wattle_runlog::{Joules, MonotonicNs, Phase, Record, Seconds};

use crate::windows::figure::{known_quadrature, quadrature};
use crate::windows::window::is_above;

/// Everything so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) cumulative: Cumulative,
    /// Tokens that were not learnt.
    pub(crate) masked: Option<Masked>,
    /// Tokens of padding.
    pub(crate) padding: Option<Masked>,
    /// Tokens that went through the model.
    pub(crate) processed: u64,
    pub(crate) started_at: Option<String>,
    pub(crate) step_start: u64,
    pub(crate) step_end: u64,
    pub(crate) duration: Seconds,
    pub(crate) uncertainty: Option<Joules>,
    pub(crate) measured: Joules,
    /// What a table of intensities covered.
    pub(crate) tabled: Joules,
    /// What the grid's figures covered.
    pub(crate) by_grid: GridEnergy,
    pub(crate) facility_kwh: f64,
    pub(crate) rates: RecordedRates,
    pub(crate) device_hours: f64,
    /// Of the records that have a share of it.
    pub(crate) embodied: Option<Embodied>,
    /// Of the records that state it, and how long those are.
    machine_idle: Option<(MachineIdle, Seconds)>,
    /// Devices without a sensor in any record.
    pub(crate) unmetered: BTreeSet<String>,
    pub(crate) phases: PhaseJoules,
    pub(crate) phases_method: Option<PhasesMethod>,
    pub(crate) phases_uncertainty: Option<PhaseJoules>,
    pub(crate) phases_methods: BTreeMap<Phase, PhasesMethod>,
    /// What the sensors with a baseline would have drawn idle, in records that have one.
    idle: Option<Joules>,
    sensors: Vec<SensorTotal>,
}

/// By what the records were priced. Each list has one entry while nothing changes between segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordedRates {
    pub(crate) pues: Vec<f64>,
    pub(crate) carbons: Vec<Carbon>,
    pub(crate) tariffs: Vec<f64>,
    /// The currency of all costs.
    pub(crate) currency: Option<String>,
    /// Energy that has a cost.
    pub(crate) priced: Joules,
    /// The same at the building.
    priced_kwh: f64,
}

/// A sensor over all records that name it, and how long those were.
#[derive(Clone, Debug)]
struct SensorTotal {
    record: SensorRecord,
    time: Seconds,
    ends: Ends,
}

/// The error of a sensor's records together. Where one ends and the next begins, what the end of the first is off by is
/// what the start of the second is off by, and cancels.
#[derive(Clone, Debug, Default)]
struct Ends {
    /// Records that follow on each other: their outer ends, and the segment and moment at which the last of them ends.
    chain: Option<(Edges, u32, MonotonicNs)>,
    /// Squared half-widths of the outer ends of earlier chains.
    earlier_j2: f64,
    /// What lies between the ends of records, squared.
    within_j2: f64,
    /// Whether a record does not tell what its ends contribute.
    is_unknown: bool,
}

impl Ends {
    fn absorb(&mut self, sensor: &SensorRecord, record: &Record) {
        let (Some(edges), Some(half_width), Some(start), Some(end)) =
            (sensor.edges, sensor.uncertainty_j, record.start_ns, record.end_ns)
        else {
            self.is_unknown = true;
            return;
        };
        self.within_j2 += (half_width.get().powi(2) - edges.half_width().get().powi(2)).max(0.0);
        let before = self.chain.take();
        let (follows, other) = match before {
            Some((chain, segment, t)) if (segment, t) == (record.segment, start) => (Some(chain), None),
            other => (None, other),
        };
        self.earlier_j2 += other.map_or(0.0, |(chain, ..)| chain.half_width().get().powi(2));
        let start = follows.map_or(edges.start, |chain| chain.start);
        self.chain = Some((Edges { start, end: edges.end }, record.segment, end));
    }

    /// The half-width of all records together; `None` where their ends are not known.
    fn half_width(&self) -> Option<Joules> {
        let (chain, ..) = self.chain.filter(|_| !self.is_unknown)?;
        Some(Joules((self.within_j2 + self.earlier_j2 + chain.half_width().get().powi(2)).sqrt()))
    }

    /// The outer ends, where there are two.
    fn outer(&self) -> Option<Edges> {
        self.chain.filter(|_| !self.is_unknown && self.earlier_j2 == 0.0).map(|(chain, ..)| chain)
    }
}

impl Totals {
    /// Adds a record.
    pub(crate) fn absorb(&mut self, record: &Record) {
        let cumulative = &mut self.cumulative;
        cumulative.energy_j += record.energy_j;
        cumulative.emissions_g += record.emissions_g;
        let cost = self.rates.absorb(record);
        cumulative.cost = cost.map(|cost| cumulative.cost.unwrap_or(0.0) + cost.value).or(cumulative.cost);
        cumulative.cost_fraction = cumulative.cost.and_then(|_| self.rates.fraction(cumulative.energy_j));
        cumulative.tokens += record.tokens;
        let beside = [record.masked, record.padding].into_iter().flatten();
        self.processed += record.tokens + beside.map(|masked| masked.tokens).sum::<u64>();
        let processed = self.processed;
        for (sum, new) in [(&mut self.masked, record.masked), (&mut self.padding, record.padding)] {
            if let Some(new) = new {
                *sum = Some(sum.map_or(new, |sum| sum.and(new, processed)));
            }
        }
        if self.started_at.is_none() {
            self.started_at = Some(record.started_at.clone());
            self.step_start = record.step_start;
        }
        self.step_end = record.step_end;
        self.duration += record.duration_s;
        if let Some(above) = record.energy_above_idle_j {
            let idle = record.energy_j - above;
            self.idle = Some(self.idle.unwrap_or(Joules::ZERO) + idle);
        }
        self.uncertainty = known_quadrature([self.uncertainty, record.energy_uncertainty_j]);
        self.measured += record.energy_j * record.measured_fraction;
        self.tabled += record.energy_j * record.carbon.table_fraction.unwrap_or(0.0);
        if let Some(shares) = &record.carbon.grid {
            self.by_grid.add(shares, record.energy_j);
        }
        self.facility_kwh += record.facility_kwh;
        self.device_hours += record.resources.device_hours;
        self.absorb_beside(record);
        self.unmetered.extend(record.unmetered_devices.iter().cloned());
        let mut phases = record.phases;
        for phase in Phase::ALL {
            *self.phases.get_mut(phase) += *phases.get_mut(phase);
        }
        self.absorb_methods(record);
        for sensor in &record.sensors {
            self.absorb_sensor(sensor, record);
        }
    }

    /// Adds what stands beside the energy.
    fn absorb_beside(&mut self, record: &Record) {
        if let Some(part) = record.embodied {
            self.embodied = Some(self.embodied.map_or(part, |sum| sum.and(part)));
        }
        if let Some(part) = record.machine_idle {
            let (mut sum, mut time) = self.machine_idle.unwrap_or((part, Seconds::ZERO));
            if time > Seconds::ZERO {
                sum.energy_j += part.energy_j;
                sum.emissions_g += part.emissions_g;
            }
            time += record.duration_s;
            self.machine_idle = Some((sum, time));
        }
    }

    /// The idle machine over the records that state it.
    pub(crate) fn machine_idle(&self) -> Option<MachineIdle> {
        let (sum, time) = self.machine_idle?;
        let power_w = if time > Seconds::ZERO { sum.energy_j / time } else { sum.power_w };
        Some(MachineIdle { power_w, ..sum })
    }

    /// Of a phase's methods, and of the record's, the weakest stands for the run.
    fn absorb_methods(&mut self, record: &Record) {
        self.phases_method = PhasesMethod::weakest(self.phases_method, record.phases_method);
        for (phase, method) in &record.phases_methods {
            let before = self.phases_methods.get(phase).copied();
            self.phases_methods.extend(PhasesMethod::weakest(before, Some(*method)).map(|m| (*phase, m)));
        }
        if let Some(mut widths) = record.phases_uncertainty_j {
            let total = self.phases_uncertainty.get_or_insert_default();
            for phase in Phase::ALL {
                let sum = total.get_mut(phase);
                *sum = quadrature([*sum, *widths.get_mut(phase)]);
            }
        }
    }

    fn absorb_sensor(&mut self, sensor: &SensorRecord, record: &Record) {
        let time = record.duration_s;
        match self.sensors.iter_mut().find(|total| total.record.id == sensor.id) {
            Some(total) => total.absorb(sensor, record),
            None => {
                let mut ends = Ends::default();
                ends.absorb(sensor, record);
                self.sensors.push(SensorTotal { record: sensor.clone(), time, ends });
            }
        }
    }

    /// The half-width of everything. Where a sensor tells what the ends of its records contribute, only the outer ones
    /// count.
    pub(crate) fn half_width(&self) -> Option<Joules> {
        if self.sensors.iter().all(|total| total.ends.half_width().is_none()) {
            return self.uncertainty;
        }
        known_quadrature(self.sensors.iter().map(SensorTotal::half_width))
    }

    /// Energy less what the sensors would have drawn idle; `None` if no record tells that.
    pub(crate) fn above_idle(&self) -> Option<Joules> {
        self.idle.map(|idle| self.cumulative.energy_j - idle)
    }

    /// Each sensor over the whole run.
    pub(crate) fn sensors(&self) -> Vec<SensorRecord> {
        let mean = |total: &SensorTotal| {
            let seen = total.record.samples > 0 && total.time > Seconds::ZERO;
            seen.then(|| total.record.energy_j / total.time)
        };
        let whole = |total: &SensorTotal| {
            let mut record = SensorRecord {
                mean_w: mean(total),
                uncertainty_j: total.half_width(),
                edges: total.ends.outer(),
                ..total.record.clone()
            };
            if is_above(record.mean_w, record.max_w) && !record.flags.contains(&Flag::MeanAboveMax) {
                record.flags.push(Flag::MeanAboveMax);
            }
            record
        };
        self.sensors.iter().map(whole).collect()
    }
}

impl RecordedRates {
    /// Adds a record, and returns its cost if that can be added to those before: a sum of two currencies has no
    /// meaning.
    fn absorb<'a>(&mut self, record: &'a Record) -> Option<&'a Cost> {
        if !self.pues.contains(&record.pue) {
            self.pues.push(record.pue);
        }
        if !self.carbons.iter().any(|carbon| is_same(carbon, &record.carbon)) {
            self.carbons.push(record.carbon.clone());
        }
        let cost = record.cost.as_ref()?;
        let currency = self.currency.get_or_insert_with(|| cost.currency.clone());
        if *currency != cost.currency {
            return None;
        }
        if !self.tariffs.contains(&cost.tariff_per_kwh) {
            self.tariffs.push(cost.tariff_per_kwh);
        }
        self.priced += record.energy_j;
        self.priced_kwh += record.facility_kwh;
        Some(cost)
    }

    /// Share of `energy`, that of all records, that has a cost; `None` if all of it has.
    fn fraction(&self, energy: Joules) -> Option<f64> {
        // Both are sums of the same numbers in the same order where every record has a cost.
        (self.priced < energy).then(|| self.priced / energy)
    }

    /// The tariff of all records together.
    pub(crate) fn tariff(&self, value: f64) -> Option<f64> {
        match self.tariffs.as_slice() {
            [] => None,
            [one] => Some(*one),
            _ if self.priced_kwh > 0.0 => Some(value / self.priced_kwh),
            [.., last] => Some(*last),
        }
    }
}

/// Whether two records were priced by the same intensity, or the same table of intensities.
fn is_same(a: &Carbon, b: &Carbon) -> bool {
    let is_tabled = a.table_fraction.is_some() && b.table_fraction.is_some();
    let is_of_grid = a.grid.is_some() && b.grid.is_some();
    let is_same_origin = (&a.region, &a.source) == (&b.region, &b.source);
    is_same_origin
        && (is_of_grid
            || is_tabled
            || (a.table_fraction, a.intensity_g_per_kwh) == (b.table_fraction, b.intensity_g_per_kwh))
}

impl SensorTotal {
    fn half_width(&self) -> Option<Joules> {
        self.ends.half_width().or(self.record.uncertainty_j)
    }

    fn absorb(&mut self, sensor: &SensorRecord, record: &Record) {
        let time = record.duration_s;
        self.ends.absorb(sensor, record);
        // A sum of which a part is not known is not known.
        let both = |a: Option<Joules>, b: Option<Joules>| Some(a? + b?);
        let total = &mut self.record;
        let before = self.time;
        self.time += time;
        total.energy_j += sensor.energy_j;
        total.uncertainty_j = known_quadrature([total.uncertainty_j, sensor.uncertainty_j]);
        total.counter_j = both(total.counter_j, sensor.counter_j);
        total.integral_j = both(total.integral_j, sensor.integral_j);
        total.average_j = both(total.average_j, sensor.average_j);
        total.samples_j = both(total.samples_j, sensor.samples_j);
        total.baseline = total.baseline.or(sensor.baseline);
        total.throttle.extend(sensor.throttle.iter().cloned());
        total.throttle.sort_unstable();
        total.throttle.dedup();
        total.clocks = add_clocks(total.clocks.take(), before, sensor.clocks.as_ref(), time);
        total.process_share_j = both(total.process_share_j, sensor.process_share_j);
        total.samples += sensor.samples;
        total.max_gap_ms = total.max_gap_ms.max(sensor.max_gap_ms);
        if sensor.max_w > total.max_w {
            total.max_w = sensor.max_w;
        }
        if sensor.max_temperature_c > total.max_temperature_c {
            total.max_temperature_c = sensor.max_temperature_c;
        }
        if total.systematic_id != sensor.systematic_id {
            // Neither error is that of the sum: no other run shares it.
            total.systematic_fraction = total.systematic_fraction.max(sensor.systematic_fraction);
            total.systematic_id = format!("{}+{}", total.systematic_id, sensor.systematic_id);
            total.calibration = None;
        }
        // One stretch without the counter, and the sum is no longer the counter's.
        if total.method == Method::Counter {
            total.method = sensor.method;
        }
        total.flags.extend(&sensor.flags);
        total.flags.sort_unstable();
        total.flags.dedup();
    }
}

/// Two stretches' clocks together: means by time, counts added.
fn add_clocks(
    a: Option<ClockRecord>,
    a_time: Seconds,
    b: Option<&ClockRecord>,
    b_time: Seconds,
) -> Option<ClockRecord> {
    let (Some(mut a), Some(b)) = (a.clone(), b) else { return a.or_else(|| b.cloned()) };
    let whole = (a_time + b_time).get();
    a.sm_mean_mhz = match (a.sm_mean_mhz, b.sm_mean_mhz) {
        (Some(a), Some(b)) if whole > 0.0 => Some((a * a_time.get() + b * b_time.get()) / whole),
        (a, b) => a.or(b),
    };
    a.sm_max_mhz = a.sm_max_mhz.or(b.sm_max_mhz);
    for (reason, time) in &b.held_back_s {
        *a.held_back_s.entry(reason.clone()).or_default() += *time;
    }
    Some(a)
}
