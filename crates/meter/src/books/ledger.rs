//! Records and running totals: energy times building, times intensity, and apart from it times tariff.
//!
//! emissions = energy × PUE × intensity; cost = energy × PUE × tariff. The two never meet.
//!
//! Records of epochs, commands and interrupted segments do not overlap; each advances the totals, and together
//! they are the run. A record at a checkpoint looks at a part of its epoch and advances nothing. The whole run's
//! record is the totals themselves.

use std::collections::BTreeMap;
use std::path::PathBuf;

use wattle_runlog::beside::{Machine, MachineIdle};
use wattle_runlog::grid::Intensities;
use wattle_runlog::masked::Masked;
use wattle_runlog::record::{Carbon, Cumulative, EMISSIONS_SCHEMA, Overhead, RecordKind, Resources, Sci};
use wattle_runlog::{GramsCo2e, Joules, MonotonicNs, Record, Span, WallAnchor};

use crate::books::intensity_table::IntensityTable;
use crate::books::pricing::{Tariff, facility, facility_kwh};
use crate::books::tally::Used;
use crate::books::tokens_beside::TokensBeside;
use crate::books::totals::Totals;
use crate::sensors::trained_on::TrainedOn;
use crate::windows::phases;
use crate::windows::unmetered::unmetered;
use crate::windows::window::{WindowEnergy, share};

/// For how many tokens a software carbon intensity is stated.
const SCI_TOKENS: f64 = 1000.0;

/// What a ledger needs to know of its run.
#[derive(Clone, Debug)]
pub struct LedgerOptions {
    /// The run's id.
    pub run_id: String,
    /// The segment that writes.
    pub segment: u32,
    /// The anchor of the segment's clock.
    pub anchor: WallAnchor,
    /// `energy.pue`
    pub pue: f64,
    /// The carbon intensity.
    pub carbon: Carbon,
    /// The price of energy, if one was given.
    pub tariff: Option<Tariff>,
    /// Devices computed on: what device hours are counted by.
    pub devices: u32,
    /// The boards computed on, and which sensor measures each: a record names those that none measured.
    pub trained_on: Vec<TrainedOn>,
}

/// What a record is made from.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// What it covers: an epoch, a part of it up to a checkpoint, or a command.
    pub kind: RecordKind,
    /// The epoch, counted from 1.
    pub epoch: Option<u64>,
    /// Whether what it covers ran to its end.
    pub complete: bool,
    /// Finished updates at its start.
    pub step_start: u64,
    /// Finished updates at its end.
    pub step_end: u64,
    /// Tokens trained on within it, for the first time.
    pub tokens: u64,
    /// Its energy.
    pub window: WindowEnergy,
    /// What the run was doing; spans outside the window are passed over.
    pub spans: &'a [Span],
    /// Memory and bytes. Device hours are filled in.
    pub resources: Resources,
    /// What sampling used.
    pub overhead: Overhead,
}

/// The run's books.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(crate) options: LedgerOptions,
    pub(crate) table: Option<IntensityTable>,
    pub(crate) machine: Machine,
    /// Tokens that are not learnt, where there are some.
    beside: Option<TokensBeside>,
    pub(crate) other_traces: Vec<(String, PathBuf)>,
    /// What the grid said in each segment that asked.
    pub(crate) grids: BTreeMap<u32, Intensities>,
    pub(crate) totals: Totals,
    /// Each segment's last record: where the next of that segment begins.
    pub(crate) ends: Vec<SegmentEnd>,
}

/// Where the records of a segment end.
#[derive(Clone, Debug)]
pub(crate) struct SegmentEnd {
    pub(crate) segment: u32,
    pub(crate) end: MonotonicNs,
    pub(crate) step: u64,
    pub(crate) epoch: Option<u64>,
    /// Whether the tail that a kill left has been recorded.
    pub(crate) settled: bool,
    /// How the record was priced.
    pub(crate) pue: f64,
    pub(crate) carbon: Carbon,
    pub(crate) tariff: Option<Tariff>,
}

impl Ledger {
    /// The books of a run that begins.
    pub fn new(options: LedgerOptions) -> Self {
        Self {
            options,
            table: None,
            machine: Machine::default(),
            beside: None,
            other_traces: Vec::new(),
            grids: BTreeMap::new(),
            totals: Totals::default(),
            ends: Vec::new(),
        }
    }

    /// The books with a table of intensities (`carbon.table`), by which each joule is priced at the moment of its
    /// use. What the table does not cover is priced by the intensity of the options, and the record tells so.
    pub fn with_table(self, table: Option<IntensityTable>) -> Self {
        Self { table, ..self }
    }

    /// The books of a run in which not all tokens are learnt that go through the model: a record then tells of those that
    /// are not.
    pub fn with_tokens_beside(self, beside: Option<TokensBeside>) -> Self {
        Self { beside, ..self }
    }

    /// The books with the traces of other machines that took part, each with what their sensors' names begin with: what they
    /// drew after a killed segment's last record is booked with that of this machine.
    pub fn with_other_traces(self, other_traces: Vec<(String, PathBuf)>) -> Self {
        Self { other_traces, ..self }
    }

    /// The books with what is stated of the machine: its embodied emissions and its idle power.
    pub fn with_machine(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// What the grid said in `segment`: by that, each joule of it is priced at the moment of its use. What it does not
    /// cover is priced by the table and the intensity of the options, and the record tells so.
    pub fn set_grid(&mut self, segment: u32, grid: Intensities) {
        self.grids.insert(segment, grid);
    }

    /// The books of a run that goes on, from the records that it has written so far.
    pub fn resume(options: LedgerOptions, records: &[Record]) -> Self {
        let mut ledger = Self::new(options);
        for record in records.iter().filter(|record| record.kind.is_additive()) {
            ledger.absorb(record);
            ledger.totals.cumulative = record.cumulative;
        }
        ledger
    }

    /// The run so far.
    pub fn cumulative(&self) -> Cumulative {
        self.totals.cumulative
    }

    /// What the run has used so far.
    pub fn used(&self) -> Used {
        let Cumulative { energy_j, emissions_g, cost, .. } = self.totals.cumulative;
        let (facility_kwh, priced) = (self.totals.facility_kwh, self.totals.rates.priced);
        Used { energy: energy_j, facility_kwh, emissions: emissions_g, cost, priced }
    }

    /// Makes the record of an entry, and adds it to the totals unless it is a checkpoint's.
    pub fn record(&mut self, entry: Entry<'_>) -> Record {
        let (segment, anchor) = (self.options.segment, self.options.anchor);
        let (kind, record) = (entry.kind, self.build(entry, segment, anchor));
        if kind.is_additive() { self.book(record, Joules::ZERO) } else { self.preview(record) }
    }

    /// The record of the whole run. Its energy is the cumulative energy exactly.
    pub fn whole_run(&self, complete: bool, resources: Resources, overhead: Overhead) -> Record {
        let totals = &self.totals;
        let cumulative = totals.cumulative;
        let mut record = Record {
            schema: EMISSIONS_SCHEMA.to_owned(),
            run_id: self.options.run_id.clone(),
            segment: self.options.segment,
            kind: RecordKind::Final,
            epoch: None,
            complete,
            step_start: totals.step_start,
            step_end: totals.step_end,
            tokens: cumulative.tokens,
            started_at: totals.started_at.clone().unwrap_or_else(|| self.options.anchor.rfc3339()),
            start_ns: None,
            end_ns: None,
            duration_s: totals.duration,
            energy_j: cumulative.energy_j,
            energy_uncertainty_j: totals.half_width(),
            energy_above_idle_j: totals.above_idle(),
            energy_kwh: cumulative.energy_j.kwh(),
            facility_kwh: totals.facility_kwh,
            pue: self.whole_pue(),
            emissions_g: cumulative.emissions_g,
            cost: self.whole_cost(),
            carbon: self.whole_carbon(),
            joules_per_token: None,
            masked: totals.masked,
            padding: totals.padding,
            sci: None,
            embodied: totals.embodied,
            machine_idle: totals.machine_idle(),
            projection: None,
            measured_fraction: share(totals.measured, cumulative.energy_j),
            sensors: totals.sensors(),
            unmetered_devices: totals.unmetered.iter().cloned().collect(),
            phases: totals.phases,
            phases_method: totals.phases_method,
            phases_uncertainty_j: totals.phases_uncertainty,
            phases_methods: totals.phases_methods.clone(),
            command: None,
            cumulative,
            resources: Resources { device_hours: totals.device_hours, ..resources },
            overhead,
        };
        set_per_token(&mut record);
        record
    }

    /// Adds what the run drew since its last record, and makes the record of the whole run.
    pub fn close(&mut self, tail: Entry<'_>) -> Record {
        let (complete, resources, overhead) = (tail.complete, tail.resources, tail.overhead);
        let tail = self.build(tail, self.options.segment, self.options.anchor);
        self.absorb(&tail);
        self.whole_run(complete, resources, overhead)
    }

    /// The record of an entry of any segment, without the run so far.
    pub(crate) fn build(&self, entry: Entry<'_>, segment: u32, anchor: WallAnchor) -> Record {
        let options = &self.options;
        let window = entry.window;
        let (emissions_g, carbon) = self.price(&window, segment, anchor);
        let attribution = phases::attribute(&window, segment, entry.spans);
        let unmetered_devices = unmetered(&options.trained_on, &window);
        let energy_kwh = window.energy.kwh();
        let facility_kwh = facility_kwh(window.energy, options.pue);
        let duration = window.duration();
        let machine_idle = self.machine.idle_w.map(|power_w| {
            let energy_j = power_w * duration;
            // By the mean of the record: no reading tells when an idle machine would have drawn more.
            let emissions_g = carbon.intensity_g_per_kwh * facility(energy_j, options.pue);
            MachineIdle { power_w, energy_j, emissions_g }
        });
        let device_hours = f64::from(options.devices) * duration.get() / 3600.0;
        let mut record = Record {
            schema: EMISSIONS_SCHEMA.to_owned(),
            run_id: options.run_id.clone(),
            segment,
            kind: entry.kind,
            epoch: entry.epoch,
            complete: entry.complete,
            step_start: entry.step_start,
            step_end: entry.step_end,
            tokens: entry.tokens,
            started_at: anchor.rfc3339_at(window.start),
            start_ns: Some(window.start),
            end_ns: Some(window.end),
            duration_s: duration,
            energy_j: window.energy,
            energy_uncertainty_j: window.uncertainty,
            energy_above_idle_j: window.above_idle(),
            energy_kwh,
            facility_kwh,
            pue: options.pue,
            emissions_g,
            cost: options.tariff.as_ref().map(|tariff| tariff.cost(facility_kwh)),
            carbon,
            joules_per_token: None,
            masked: None,
            padding: None,
            sci: None,
            embodied: self.machine.embodied.map(|rate| rate.over(duration)),
            machine_idle,
            projection: None,
            measured_fraction: window.measured_fraction,
            sensors: window.sensors,
            unmetered_devices,
            phases: attribution.joules,
            phases_method: attribution.method(),
            phases_uncertainty_j: window.uncertainty.map(|_| attribution.half_widths),
            phases_methods: attribution.methods,
            command: None,
            cumulative: Cumulative::default(),
            resources: Resources { device_hours, ..entry.resources },
            overhead: entry.overhead,
        };
        set_per_token(&mut record);
        self.tell_beside(&mut record);
        record
    }

    /// Tells of a record's tokens that were not learnt. One of a segment that was cut off does not know its tokens.
    fn tell_beside(&self, record: &mut Record) {
        let Some(beside) = self.beside.as_ref().filter(|_| record.kind != RecordKind::Interrupted) else {
            return;
        };
        let steps = record.step_start..record.step_end.max(record.step_start);
        let processed = (steps.end - steps.start) * beside.tokens_per_step;
        let padding = beside.padding.as_ref().map(|padding| padding(steps));
        let not_learnt = processed.saturating_sub(record.tokens + padding.unwrap_or(0));
        let of = |tokens| Masked::of(tokens, processed, record.phases.forward_backward);
        (record.masked, record.padding) = (beside.is_masked.then(|| of(not_learnt)), padding.map(of));
    }

    /// Adds a record to the totals, and the totals to the record.
    pub(crate) fn book(&mut self, mut record: Record, wasted: Joules) -> Record {
        self.absorb(&record);
        self.totals.cumulative.wasted_j += wasted;
        record.cumulative = self.totals.cumulative;
        record
    }

    /// Adds to a record what the totals would be with it.
    fn preview(&self, mut record: Record) -> Record {
        let mut totals = self.totals.clone();
        totals.absorb(&record);
        record.cumulative = totals.cumulative;
        record
    }

    /// Sets how many tokens of those trained on so far are kept.
    pub(crate) fn keep_tokens(&mut self, tokens: u64) {
        self.totals.cumulative.tokens = tokens;
    }

    fn absorb(&mut self, record: &Record) {
        self.totals.absorb(record);
        let Some(end) = record.end_ns else { return };
        let entry = SegmentEnd {
            segment: record.segment,
            end,
            step: record.step_end,
            epoch: record.epoch,
            settled: record.kind == RecordKind::Interrupted,
            pue: record.pue,
            carbon: record.carbon.clone(),
            tariff: record.cost.as_ref().map(Tariff::of),
        };
        self.ends.retain(|end| end.segment != record.segment);
        self.ends.push(entry);
    }
}

pub(crate) fn set_per_token(record: &mut Record) {
    if record.tokens > 0 {
        let tokens = record.tokens as f64;
        record.joules_per_token = Some(record.energy_j.get() / tokens);
        let embodied = record.embodied.map_or(GramsCo2e::ZERO, |embodied| embodied.emissions_g);
        let GramsCo2e(grams) = record.emissions_g + embodied;
        record.sci = Some(Sci { value: grams / tokens * SCI_TOKENS, per: format!("{SCI_TOKENS} tokens") });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::books::carbon;
    use crate::config::{CarbonConfig, CostConfig};
    use proptest::prelude::*;
    use wattle_runlog::beside::EmbodiedRate;
    use wattle_runlog::record::{EdgeError, Edges, Flag, Method, SensorKind, SensorRecord};
    use wattle_runlog::{Seconds, Watts};

    pub(crate) fn options(segment: u32) -> LedgerOptions {
        LedgerOptions {
            run_id: "run-1".to_owned(),
            segment,
            anchor: WallAnchor { wall_ns: 1_790_000_000_000_000_000, monotonic: MonotonicNs(0) },
            pue: 1.5,
            carbon: carbon::resolve(&CarbonConfig {
                intensity_g_per_kwh: Some(400.0),
                ..CarbonConfig::default()
            })
            .unwrap(),
            tariff: Some(Tariff { per_kwh: 0.2, currency: "EUR".to_owned() }),
            devices: 2,
            trained_on: Vec::new(),
        }
    }

    pub(crate) fn entry(
        kind: RecordKind,
        start_s: u64,
        end_s: u64,
        energy: f64,
        tokens: u64,
    ) -> Entry<'static> {
        let second = |s: u64| MonotonicNs(s * 1_000_000_000);
        Entry {
            kind,
            epoch: Some(1),
            complete: kind == RecordKind::Epoch,
            step_start: start_s,
            step_end: end_s,
            tokens,
            window: WindowEnergy {
                energy: Joules(energy),
                uncertainty: Some(Joules(3.0)),
                measured_fraction: 0.5,
                ..WindowEnergy::empty(second(start_s), second(end_s))
            },
            spans: &[],
            resources: Resources::default(),
            overhead: Overhead::default(),
        }
    }

    #[test]
    fn an_hour_at_a_kilowatt_costs_what_the_formulas_say() {
        let mut ledger = Ledger::new(options(0));
        let record = ledger.record(entry(RecordKind::Epoch, 0, 3600, 3.6e6, 2_000));
        assert_eq!((record.energy_kwh, record.facility_kwh), (1.0, 1.5));
        assert_eq!(record.emissions_g, GramsCo2e(600.0));
        let cost = record.cost.as_ref().unwrap();
        assert!((cost.value - 0.3).abs() < 1e-12 && cost.currency == "EUR" && cost.tariff_per_kwh == 0.2);
        assert_eq!(record.joules_per_token, Some(1800.0));
        assert_eq!(record.sci, Some(Sci { value: 300.0, per: "1000 tokens".to_owned() }));
        assert_eq!(record.resources.device_hours, 2.0);
        assert_eq!(record.started_at, "2026-09-21T14:13:20Z");
        assert_eq!(record.phases.total(), record.energy_j);
        assert_eq!(Record::from_json(&record.to_json()).unwrap(), record);
    }

    #[test]
    fn what_is_stated_of_the_machine_stands_beside_the_energy_and_never_in_it() {
        let rate = EmbodiedRate { machine_g: GramsCo2e(40_000.0), lifetime_h: 1_000.0 };
        let machine = Machine { embodied: Some(rate), idle_w: Some(Watts(100.0)) };
        let plain = Ledger::new(options(0)).record(entry(RecordKind::Epoch, 0, 3600, 3.6e6, 2_000));
        let mut ledger = Ledger::new(options(0)).with_machine(machine);
        let record = ledger.record(entry(RecordKind::Epoch, 0, 3600, 3.6e6, 2_000));
        let idle = record.machine_idle.unwrap();
        assert_eq!((idle.energy_j, idle.emissions_g), (Joules(360_000.0), GramsCo2e(60.0)));
        assert_eq!(record.embodied.unwrap().emissions_g, GramsCo2e(40.0));
        // 600 g of the energy and 40 g of the machine, over two thousand tokens.
        assert_eq!(record.sci.as_ref().unwrap().value, 320.0);
        let without = Record { sci: plain.sci.clone(), embodied: None, machine_idle: None, ..record.clone() };
        assert_eq!(without, plain, "energy, emissions and cost are the same to the bit");

        // A second segment is stated to draw 250 W idle.
        let records = [record, ledger.record(entry(RecordKind::Epoch, 3600, 7200, 3.6e6, 2_000))];
        let machine = Machine { idle_w: Some(Watts(250.0)), ..machine };
        let mut later = Ledger::resume(options(1), &records).with_machine(machine);
        later.record(entry(RecordKind::Epoch, 0, 3600, 3.6e6, 2_000));
        let whole = later.whole_run(true, Resources::default(), Overhead::default());
        let idle = whole.machine_idle.unwrap();
        assert_eq!((idle.power_w, idle.energy_j), (Watts(150.0), Joules(1_620_000.0)));
        assert_eq!(whole.embodied.unwrap().emissions_g, GramsCo2e(120.0));
        assert_eq!(whole.energy_j, Joules(10.8e6));
        assert_eq!(whole.sci.unwrap().value, 320.0);
        assert_eq!(Record::from_json(&records[0].to_json()).unwrap(), records[0]);
    }

    #[test]
    fn without_a_tariff_there_is_no_cost() {
        let mut ledger = Ledger::new(LedgerOptions { tariff: None, ..options(0) });
        let record = ledger.record(entry(RecordKind::Epoch, 0, 1, 1.0, 0));
        assert_eq!((record.cost, record.cumulative.cost, record.sci), (None, None, None));
        assert_eq!(Tariff::from_config(&CostConfig::default()), None);
    }

    fn priced(segment: u32, pue: f64, grams: f64, tariff: Option<f64>) -> LedgerOptions {
        let config = CarbonConfig { intensity_g_per_kwh: Some(grams), ..CarbonConfig::default() };
        let tariff = tariff.map(|per_kwh| Tariff { per_kwh, currency: "EUR".to_owned() });
        LedgerOptions { pue, carbon: carbon::resolve(&config).unwrap(), tariff, ..options(segment) }
    }

    #[test]
    fn each_record_has_the_prices_of_its_segment_and_they_add_up() {
        let hour = |kind, start| entry(kind, start, start + 3600, 3.6e6, 10);
        let mut first = Ledger::new(priced(0, 1.5, 400.0, Some(0.2)));
        let a = first.record(hour(RecordKind::Epoch, 0));
        let alone = first.whole_run(false, Resources::default(), Overhead::default());
        assert_eq!(
            (alone.pue, alone.carbon, alone.cost.unwrap().tariff_per_kwh),
            (1.5, a.carbon.clone(), 0.2)
        );
        let mut second = Ledger::resume(priced(1, 1.0, 100.0, Some(0.4)), std::slice::from_ref(&a));
        let b = second.record(hour(RecordKind::Epoch, 3600));
        assert_eq!((a.emissions_g, b.emissions_g), (GramsCo2e(600.0), GramsCo2e(100.0)));
        let value = |record: &Record| record.cost.as_ref().unwrap().value;
        assert!((value(&a) - 0.3).abs() < 1e-12 && (value(&b) - 0.4).abs() < 1e-12);
        assert_eq!(b.cumulative.emissions_g, GramsCo2e(700.0));
        assert_eq!((b.cumulative.cost, b.cumulative.cost_fraction), (Some(value(&a) + value(&b)), None));

        let whole = second.whole_run(true, Resources::default(), Overhead::default());
        let cost = whole.cost.clone().unwrap();
        assert_eq!((whole.facility_kwh, whole.pue, cost.value), (2.5, 1.25, value(&a) + value(&b)));
        assert!(
            (cost.tariff_per_kwh - 0.7 / 2.5).abs() < 1e-12 && cost.energy_fraction.is_none(),
            "{cost:?}"
        );
        assert_eq!(whole.carbon.intensity_g_per_kwh.get(), 280.0);
        let basis = "the mean of segments with 400 g/kWh (custom) and 100 g/kWh (custom)";
        assert_eq!((whole.carbon.basis.as_str(), whole.carbon.year), (basis, None));
        let used = second.used();
        assert_eq!((used.facility_kwh, used.priced, used.cost), (2.5, used.energy, b.cumulative.cost));
    }

    #[test]
    fn a_tariff_for_a_part_of_the_run_says_for_how_much_of_it() {
        let hour = |start| entry(RecordKind::Epoch, start, start + 3600, 3.6e6, 10);
        let mut without = Ledger::new(priced(0, 1.0, 400.0, None));
        let a = without.record(hour(0));
        assert_eq!((&a.cost, a.cumulative.cost, a.cumulative.cost_fraction), (&None, None, None));
        // It appears.
        let mut with = Ledger::resume(priced(1, 1.0, 400.0, Some(0.2)), std::slice::from_ref(&a));
        let nothing = with.whole_run(false, Resources::default(), Overhead::default()).cost.unwrap();
        assert_eq!((nothing.value, nothing.energy_fraction), (0.0, Some(0.0)));
        let b = with.record(hour(3600));
        assert_eq!((b.cumulative.cost, b.cumulative.cost_fraction), (Some(0.2), Some(0.5)));
        assert_eq!(b.cost.as_ref().unwrap().energy_fraction, None, "the record itself is priced whole");
        // It goes away.
        let records = [a, b];
        let mut again = Ledger::resume(priced(2, 1.0, 400.0, None), &records);
        let c = again.record(entry(RecordKind::Epoch, 7200, 10_800, 7.2e6, 10));
        assert_eq!((&c.cost, c.cumulative.cost, c.cumulative.cost_fraction), (&None, Some(0.2), Some(0.25)));
        let cost = again.whole_run(true, Resources::default(), Overhead::default()).cost.unwrap();
        assert_eq!((cost.value, cost.tariff_per_kwh, cost.energy_fraction), (0.2, 0.2, Some(0.25)));
        assert!(
            c.to_json().contains("\"cost_fraction\":0.25")
                && !records[0].to_json().contains("_fraction\":0.25")
        );
        assert_eq!(Record::from_json(&c.to_json()).unwrap(), c);
    }

    #[test]
    fn costs_in_another_currency_are_not_added() {
        let mut euros = Ledger::new(options(0));
        let a = euros.record(entry(RecordKind::Epoch, 0, 3600, 3.6e6, 10));
        let dollars = Tariff { per_kwh: 1.0, currency: "USD".to_owned() };
        let mut other =
            Ledger::resume(LedgerOptions { tariff: Some(dollars), ..options(1) }, std::slice::from_ref(&a));
        let b = other.record(entry(RecordKind::Epoch, 3600, 7200, 3.6e6, 10));
        assert_eq!((b.cumulative.cost, b.cumulative.cost_fraction), (a.cumulative.cost, Some(0.5)));
    }

    #[test]
    fn a_checkpoint_looks_ahead_and_books_nothing() {
        let mut ledger = Ledger::new(options(0));
        ledger.record(entry(RecordKind::Epoch, 0, 10, 100.0, 10));
        let view = ledger.record(entry(RecordKind::Checkpoint, 10, 15, 50.0, 5));
        assert_eq!((view.cumulative.energy_j, view.cumulative.tokens), (Joules(150.0), 15));
        let epoch = ledger.record(entry(RecordKind::Epoch, 10, 20, 100.0, 10));
        assert_eq!((epoch.cumulative.energy_j, epoch.cumulative.tokens), (Joules(200.0), 20));
    }

    #[test]
    fn closing_books_what_came_after_the_last_record() {
        let mut ledger = Ledger::new(options(0));
        ledger.record(entry(RecordKind::Epoch, 0, 10, 100.0, 10));
        let last = ledger.close(entry(RecordKind::Final, 10, 12, 7.0, 0));
        assert_eq!((last.kind, last.energy_j, last.tokens), (RecordKind::Final, Joules(107.0), 10));
        assert_eq!((last.cumulative, last.duration_s), (ledger.cumulative(), Seconds(12.0)));
    }

    fn sensor(energy: f64, flags: &[Flag]) -> SensorRecord {
        SensorRecord {
            uncertainty_j: Some(Joules(3.0)),
            systematic_fraction: 0.05,
            systematic_id: "gain/x".to_owned(),
            counter_j: Some(Joules(energy)),
            samples: 7,
            max_gap_ms: energy,
            flags: flags.to_vec(),
            ..SensorRecord::plain("gpu:x".to_owned(), SensorKind::Gpu, Method::Counter, Joules(energy))
        }
    }

    #[test]
    fn the_whole_run_has_the_error_of_its_outer_ends() {
        let edge = |joules: f64| EdgeError { own_j: Joules(joules), shared_j: Joules::ZERO };
        let part = |ledger: &mut Ledger, start: u64, end: u64, edges: Option<[f64; 2]>| {
            let mut entry = entry(RecordKind::Epoch, start, end, 100.0, 10);
            let edges = edges.map(|[start, end]| Edges { start: edge(start), end: edge(end) });
            let half_width = edges.map_or(Joules(5.0), |edges| edges.half_width());
            let board = sensor(100.0, &[]);
            entry.window.sensors = vec![SensorRecord { uncertainty_j: Some(half_width), edges, ..board }];
            entry.window.uncertainty = Some(half_width);
            ledger.record(entry)
        };
        let whole = |ledger: &Ledger| ledger.whole_run(true, Resources::default(), Overhead::default());
        let mut ledger = Ledger::new(options(0));
        part(&mut ledger, 0, 10, Some([3.0, 50.0]));
        part(&mut ledger, 10, 20, Some([50.0, 70.0]));
        part(&mut ledger, 20, 30, Some([70.0, 4.0]));
        let record = whole(&ledger);
        assert!((record.energy_uncertainty_j.unwrap() - Joules(5.0)).get().abs() < 1e-9, "{record:?}");
        assert_eq!(record.sensors[0].uncertainty_j, record.energy_uncertainty_j);
        // A part that does not follow has ends of its own.
        part(&mut ledger, 40, 50, Some([3.0, 4.0]));
        let apart = whole(&ledger).energy_uncertainty_j.unwrap();
        assert!((apart.get() - 50f64.sqrt()).abs() < 1e-9, "{apart:?}");
        // Records that do not tell their ends add up as they always did.
        let mut old = Ledger::new(options(0));
        part(&mut old, 0, 10, Some([3.0, 4.0]));
        part(&mut old, 10, 20, None);
        let together = whole(&old).energy_uncertainty_j.unwrap();
        assert!((together.get() - 50f64.sqrt()).abs() < 1e-9, "{together:?}");
    }

    #[test]
    fn a_board_that_trained_unmetered_is_named_in_every_record_and_in_the_runs() {
        let board = TrainedOn { device: "cuda:0".to_owned(), sensor: Some("gpu:x".to_owned()) };
        let mut ledger = Ledger::new(LedgerOptions { trained_on: vec![board], ..options(0) });
        let record = ledger.record(entry(RecordKind::Epoch, 0, 1, 1.0, 1));
        assert_eq!(record.unmetered_devices, ["cuda:0"]);
        assert!(record.to_json().contains("\"unmetered_devices\":[\"cuda:0\"]"));
        // The next process meters it; the run as a whole still lacks what the first left out.
        let mut resumed = Ledger::resume(options(1), &[record]);
        let record = resumed.record(entry(RecordKind::Epoch, 1, 2, 1.0, 1));
        assert!(record.unmetered_devices.is_empty() && !record.to_json().contains("unmetered_devices"));
        let whole = resumed.whole_run(true, Resources::default(), Overhead::default());
        assert_eq!(whole.unmetered_devices, ["cuda:0"]);
    }

    #[test]
    fn the_whole_run_knows_each_sensor_over_all_records() {
        let mut ledger = Ledger::new(options(0));
        for (energy, seconds, flags) in [(100.0, 1, [Flag::Agree]), (300.0, 3, [Flag::Gaps])] {
            let mut entry = entry(RecordKind::Epoch, 0, seconds, energy, 1);
            entry.window.sensors = vec![sensor(energy, &flags)];
            ledger.record(entry);
        }
        let record = ledger.whole_run(true, Resources::default(), Overhead::default());
        let total = &record.sensors[0];
        assert_eq!(
            (total.energy_j, total.counter_j, total.integral_j),
            (Joules(400.0), Some(Joules(400.0)), None)
        );
        assert_eq!((total.samples, total.max_gap_ms), (14, 300.0));
        assert!((total.mean_w.unwrap().get() - 100.0).abs() < 1e-9);
        assert!((total.uncertainty_j.unwrap().get() - 18f64.sqrt()).abs() < 1e-12);
        assert_eq!(total.flags, [Flag::Agree, Flag::Gaps]);
        assert_eq!(record.duration_s, Seconds(4.0));
    }

    proptest! {
        /// However a run is cut into epochs, views at checkpoints and processes, the books balance.
        #[test]
        fn records_add_up_to_the_run(
            entries in proptest::collection::vec((0u8..4, 0.0..1e7f64, 0u64..1_000_000), 1..60),
        ) {
            let mut ledger = Ledger::new(options(0));
            let mut written: Vec<Record> = Vec::new();
            for (i, (what, energy, tokens)) in entries.into_iter().enumerate() {
                let (start, end) = (i as u64, i as u64 + 1);
                match what {
                    0 => written.push(ledger.record(entry(RecordKind::Checkpoint, start, end, energy, tokens))),
                    1 => {
                        // A kill: the tail is recorded by the next process, from what the last one wrote.
                        let segment = ledger.options.segment;
                        ledger = Ledger::resume(options(segment + 1), &written);
                        let tail = entry(RecordKind::Interrupted, start, end, energy, 0);
                        let tail = ledger.build(tail, segment, ledger.options.anchor);
                        written.push(ledger.book(tail, Joules(energy / 2.0)));
                    }
                    _ => written.push(ledger.record(entry(RecordKind::Epoch, start, end, energy, tokens))),
                }
            }
            let last = ledger.whole_run(true, Resources::default(), Overhead::default());
            let booked = || written.iter().filter(|record| record.kind.is_additive());
            let energy: Joules = booked().map(|record| record.energy_j).sum();
            prop_assert_eq!(last.energy_j, energy);
            prop_assert_eq!(last.cumulative.energy_j, energy);
            prop_assert_eq!(last.emissions_g, booked().map(|record| record.emissions_g).sum());
            let tokens: u64 = booked().map(|record| record.tokens).sum();
            prop_assert_eq!(last.cumulative.tokens, tokens);
            let tails = || booked().filter(|record| record.kind == RecordKind::Interrupted);
            let wasted: Joules = tails().map(|record| record.energy_j * 0.5).sum();
            prop_assert_eq!(last.cumulative.wasted_j, wasted);
            let cost: f64 = booked().filter_map(|record| record.cost.as_ref()).map(|cost| cost.value).sum();
            prop_assert_eq!(last.cumulative.cost.unwrap_or(0.0), cost);
            prop_assert!((last.phases.total() - energy).get().abs() <= 1e-9 * energy.get() + 1e-9);
            let kwh: f64 = booked().map(|record| record.facility_kwh).sum();
            prop_assert_eq!(last.facility_kwh, kwh);
        }
    }
}
