//! Segments that ended without saying so: what they drew after their last record, from `power.trace`.

use std::path::Path;
use std::time::Duration;

use wattle_runlog::manifest::{SegmentTariff, SensorInfo};
use wattle_runlog::record::{Overhead, RecordKind, Resources};
use wattle_runlog::{
    Event, EventBody, Joules, MonotonicNs, Phase, Record, Seconds, Span, SpanClock, WallAnchor, Watts,
};

use crate::books::intensity_table::IntensityTable;
use crate::books::ledger::{Entry, Ledger, LedgerOptions, set_per_token};
use crate::books::pauses::{Pause, pauses};
use crate::books::pricing::Tariff;
use crate::error::MeterError;
use crate::readings::history::History;
use crate::readings::ticks::TickValue;
use crate::readings::trace::{Sample, SampleValue, SegmentHeader, TraceQuantity};
use crate::readings::trace_reader::{TraceItem, TraceReader};
use crate::sensors::sensor::{Channels, CounterValue, Missing, PowerSample, Quantity, Reading};
use crate::windows::window::WindowEnergy;

/// Ticks in a trace are known to about the duration of a call.
const TICK_ERROR: Seconds = Seconds(0.004);

/// The checkpoint that a run goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Finished updates in it.
    pub step: u64,
    /// Tokens trained on up to it.
    pub tokens: u64,
}

/// A segment as its trace shows it.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) anchor: WallAnchor,
    histories: Vec<History>,
    /// The channel's sensor and quantity and whether it is a counter that is read at its ticks, by channel number.
    channels: Vec<(usize, TraceQuantity, bool)>,
    pending: Option<(usize, Reading)>,
    pub(crate) first: Option<MonotonicNs>,
    pub(crate) last: Option<MonotonicNs>,
    /// What other machines saw of the same segment, by the names that their sensors' names begin with.
    others: Vec<(String, Segment)>,
}

impl Ledger {
    /// Books what killed segments drew after their last record, up to their last sample, each in a record of
    /// kind `interrupted`; a segment that has one already is passed over.
    ///
    /// Call it after [`Ledger::resume`] and before the new segment begins its trace. `resumed` is the checkpoint
    /// that the run goes on from, `None` if it starts again. What was drawn after that checkpoint stood, as
    /// `events` tell it, was wasted (all of it, if they do not tell), and the tokens after it do not count. What happened in the segment that is
    /// about to begin is not looked at.
    ///
    /// # Errors
    /// If the trace cannot be read, or is no trace. Without a trace there is nothing to book.
    pub fn settle(
        &mut self,
        trace: &Path,
        events: &[Event],
        resumed: Option<ResumePoint>,
    ) -> Result<Vec<Record>, MeterError> {
        let kept = resumed.and_then(|point| kept_at(events, point));
        let segments = if trace.exists() { self.read_killed(trace, kept)? } else { Vec::new() };
        let mut records = Vec::new();
        for segment in &segments {
            if let Some((record, wasted)) = self.tail(segment, events, kept) {
                records.push(self.book(record, wasted));
            }
        }
        self.keep(resumed.map_or(0, |point| point.tokens), &mut records);
        Ok(records)
    }

    /// Sets the tokens that count; the last record tells those that no record had counted.
    fn keep(&mut self, tokens: u64, records: &mut [Record]) {
        if let Some(last) = records.last_mut() {
            last.tokens = tokens.saturating_sub(last.cumulative.tokens);
            last.cumulative.tokens = tokens;
            set_per_token(last);
        }
        self.keep_tokens(tokens);
    }

    fn read_killed(
        &self,
        trace: &Path,
        kept: Option<(u32, MonotonicNs)>,
    ) -> Result<Vec<Segment>, MeterError> {
        let is_wanted = |id: u32| id < self.options.segment && !self.is_settled(id);
        let edges = |header: &SegmentHeader| -> Vec<MonotonicNs> {
            let id = header.segment.id;
            let end = self.ends.iter().find(|end| end.segment == id).map(|end| end.end);
            let cut = kept.filter(|(segment, _)| *segment == id).map(|(_, t)| t);
            end.into_iter().chain(cut).collect()
        };
        let mut segments = wanted_segments(trace, is_wanted, edges)?;
        for (machine, trace) in self.other_traces.iter().filter(|(_, trace)| trace.exists()) {
            for other in wanted_segments(trace, is_wanted, |_| Vec::new())? {
                let id = other.header.segment.id;
                if let Some(segment) = segments.iter_mut().find(|segment| segment.header.segment.id == id) {
                    segment.others.push((machine.clone(), other));
                }
            }
        }
        Ok(segments)
    }

    fn is_settled(&self, segment: u32) -> bool {
        self.ends.iter().any(|end| end.segment == segment && end.settled)
    }

    /// The record of a killed segment's tail, and what of the segment was wasted; `None` if both are nothing.
    fn tail(
        &self,
        segment: &Segment,
        events: &[Event],
        kept: Option<(u32, MonotonicNs)>,
    ) -> Option<(Record, Joules)> {
        let id = segment.header.segment.id;
        let (first, last) = (segment.first?, segment.last?);
        let recorded = self.ends.iter().find(|end| end.segment == id);
        let from = recorded.map_or(first, |end| end.end);
        let lost_from = match kept {
            Some((kept, _)) if id < kept => None,
            Some((kept, t)) if id == kept => Some(t.max(first)),
            _ => Some(first),
        };
        // Only steps can be wasted: what a segment drew after its last checkpoint without one is not done again.
        let is_step = |event: &Event, after| {
            event.segment == id && event.t_ns > after && matches!(event.body, EventBody::Step(_))
        };
        let wasted = lost_from
            .filter(|t| *t < last && events.iter().any(|event| is_step(event, *t)))
            .map_or(Joules::ZERO, |t| segment.window(t, last).energy);
        if from >= last && wasted == Joules::ZERO {
            return None;
        }
        let steps: Vec<_> = events
            .iter()
            .filter(|event| event.segment == id)
            .filter_map(|event| match &event.body {
                EventBody::Step(step) => Some((step.step, step.epoch)),
                _ => None,
            })
            .collect();
        let before =
            steps.first().map_or(segment.header.segment.step_start, |(step, _)| step.saturating_sub(1));
        let step_start = recorded.map_or(before, |end| end.step);
        let entry = Entry {
            kind: RecordKind::Interrupted,
            epoch: steps.last().map(|(_, epoch)| *epoch).or(recorded.and_then(|end| end.epoch)),
            complete: false,
            step_start,
            step_end: steps.last().map_or(step_start, |(step, _)| (*step).max(step_start)),
            tokens: 0,
            window: segment.window(from.min(last), last),
            spans: &paused(events, id, last),
            resources: Resources::default(),
            overhead: Overhead::default(),
        };
        Some((self.priced_as(segment).build(entry, id, segment.anchor), wasted))
    }

    /// These books with the prices that applied in `segment`: those that its trace states, else those of its last record.
    fn priced_as(&self, segment: &Segment) -> Self {
        let mut books = self.clone();
        let LedgerOptions { pue, carbon, tariff, .. } = &mut books.options;
        if let Some(prices) = &segment.header.segment.prices {
            *pue = prices.pue;
            *carbon = prices.carbon.clone();
            *tariff = prices.tariff.as_ref().map(|SegmentTariff { per_kwh, currency }| Tariff {
                per_kwh: *per_kwh,
                currency: currency.clone(),
            });
            books.machine = prices.machine;
            books.table = prices.carbon_table.as_ref().and_then(|path| self.table_at(Path::new(path)));
        } else if let Some(end) = self.ends.iter().find(|end| end.segment == segment.header.segment.id) {
            *pue = end.pue;
            *tariff = end.tariff.clone();
            if end.carbon.table_fraction.is_none() {
                *carbon = end.carbon.clone();
                books.table = None;
            }
        }
        books
    }

    /// The table of intensities that a segment was priced by; without it, the mean stands for all.
    fn table_at(&self, path: &Path) -> Option<IntensityTable> {
        if let Some(table) = self.table.as_ref().filter(|table| table.path() == path) {
            return Some(table.clone());
        }
        IntensityTable::open(path)
            .inspect_err(|error| {
                tracing::warn!("{error}; an earlier segment is priced by the mean intensity");
            })
            .ok()
    }
}

/// The pauses of a segment that ended at `end`. Other spans of it are not kept.
fn paused(events: &[Event], segment: u32, end: MonotonicNs) -> Vec<Span> {
    let span = |pause: Pause| Span {
        segment,
        step: 0,
        phase: Phase::Paused,
        start_ns: pause.from,
        end_ns: pause.to,
        clock: SpanClock::Host,
        error_ns: 0,
        overlaps: false,
    };
    pauses(events, segment, end).into_iter().map(span).collect()
}

/// The segment and moment at which the checkpoint of `point` stood: its event, or failing that the step's. Where steps
/// were made while it was written, it stands for what was before the first of them.
fn kept_at(events: &[Event], point: ResumePoint) -> Option<(u32, MonotonicNs)> {
    let checkpoint =
        |event: &Event| matches!(event.body, EventBody::Checkpoint { step, .. } if step == point.step);
    let step = |event: &Event| matches!(&event.body, EventBody::Step(step) if step.step <= point.step);
    let found = events.iter().rposition(checkpoint).or_else(|| events.iter().rposition(step))?;
    let segment = events[found].segment;
    let is_later = |event: &Event| {
        event.segment == segment && matches!(&event.body, EventBody::Step(step) if step.step > point.step)
    };
    let meanwhile = events[..found].iter().position(is_later);
    let last = meanwhile.filter(|at| *at > 0 && events[at - 1].segment == segment).map(|at| at - 1);
    Some((segment, events[last.unwrap_or(found)].t_ns))
}

/// All segments of a trace. Readings next to a segment's `edges` are kept apart.
///
/// # Errors
/// If the trace cannot be read, or is no trace.
pub(crate) fn segments_of(
    trace: &Path,
    edges: impl Fn(&SegmentHeader) -> Vec<MonotonicNs>,
) -> Result<Vec<Segment>, MeterError> {
    wanted_segments(trace, |_| true, edges)
}

/// Those segments of a trace whose numbers are wanted, as [`segments_of`] reads them.
fn wanted_segments(
    trace: &Path,
    is_wanted: impl Fn(u32) -> bool,
    edges: impl Fn(&SegmentHeader) -> Vec<MonotonicNs>,
) -> Result<Vec<Segment>, MeterError> {
    let mut segments: Vec<Segment> = Vec::new();
    let (mut own_edges, mut is_in) = (Vec::new(), false);
    for item in TraceReader::open(trace)? {
        match item? {
            TraceItem::Segment(header) => {
                is_in = is_wanted(header.segment.id);
                if is_in {
                    own_edges = edges(&header);
                    segments.push(Segment::new(*header, trace)?);
                }
            }
            TraceItem::Sample(sample) => {
                if let Some(segment) = segments.last_mut().filter(|_| is_in) {
                    segment.add(sample, &own_edges);
                }
            }
        }
    }
    segments.iter_mut().for_each(|segment| segment.flush(&[]));
    Ok(segments)
}

impl Segment {
    pub(crate) fn new(header: SegmentHeader, path: &Path) -> Result<Self, MeterError> {
        let anchor = header.segment.anchor().ok_or_else(|| MeterError::NotATrace {
            path: path.to_owned(),
            reason: format!("expected an RFC 3339 wall_anchor, got {:?}", header.segment.wall_anchor),
        })?;
        let interval = Duration::from_secs_f64(header.interval_ms.clamp(0.0, 1e6) / 1e3);
        let mut sensors: Vec<(SensorInfo, Channels)> = Vec::new();
        let mut channels = Vec::new();
        for channel in &header.channels {
            let known = sensors.iter().position(|(info, _)| info.id == channel.sensor.id);
            let index = known.unwrap_or_else(|| {
                sensors.push((channel.sensor.clone(), Channels::default()));
                sensors.len() - 1
            });
            let supports = channel.supports();
            let all = &mut sensors[index].1;
            *all = Channels {
                power: all.power.or(supports.power),
                average: all.average || supports.average,
                counter: all.counter.or(supports.counter),
                temperature: all.temperature || supports.temperature,
                slow_counter: all.slow_counter.or(supports.slow_counter),
                samples: all.samples || supports.samples,
                clocks: false,
            };
            channels.push((index, channel.quantity, channel.at_ticks));
        }
        let histories =
            sensors.into_iter().map(|(info, channels)| History::new(info, channels, interval)).collect();
        Ok(Self {
            header,
            anchor,
            histories,
            channels,
            pending: None,
            first: None,
            last: None,
            others: Vec::new(),
        })
    }

    /// Adds a sample to its sensor's reading; samples of one reading have one time.
    pub(crate) fn add(&mut self, sample: Sample, edges: &[MonotonicNs]) {
        let Some((sensor, quantity, at_ticks)) = self.channels.get(usize::from(sample.channel)).copied()
        else {
            return;
        };
        // It is asked for between readings, and is none.
        if quantity == TraceQuantity::TemperatureMc {
            return;
        }
        if at_ticks || quantity == TraceQuantity::SampleMw {
            self.flush(edges);
            self.add_late(sensor, quantity, &sample);
            return;
        }
        if self.pending.as_ref().is_none_or(|(of, reading)| (*of, reading.t) != (sensor, sample.t)) {
            self.flush(edges);
            let nothing = Reading {
                t: sample.t,
                power: Quantity::Unsupported,
                average: Quantity::Unsupported,
                counter: Quantity::Unsupported,
            };
            self.pending = Some((sensor, nothing));
        }
        if let Some((_, reading)) = &mut self.pending {
            match quantity {
                TraceQuantity::PowerMw => {
                    reading.power = quantity_of(sample.value, |mw| Watts(mw as f64 / 1e3));
                }
                TraceQuantity::AverageMw => {
                    reading.average = quantity_of(sample.value, |mw| Watts(mw as f64 / 1e3));
                }
                TraceQuantity::EnergyMj | TraceQuantity::EnergyUj => {
                    reading.counter = quantity_of(sample.value, CounterValue);
                }
                TraceQuantity::TemperatureMc | TraceQuantity::SampleMw => {}
            }
        }
    }

    pub(crate) fn forget_before(&mut self, t: MonotonicNs) {
        self.histories.iter_mut().for_each(|history| history.forget_before(t));
    }

    pub(crate) fn histories(&self) -> &[History] {
        &self.histories
    }

    /// Its first and its last reading.
    pub(crate) fn span(&self) -> (Option<MonotonicNs>, Option<MonotonicNs>) {
        (self.first, self.last)
    }

    /// Adds what is written some time after the moment that it stands for.
    fn add_late(&mut self, sensor: usize, quantity: TraceQuantity, sample: &Sample) {
        let SampleValue::Measured(value) = sample.value else { return };
        let history = &mut self.histories[sensor];
        if quantity == TraceQuantity::SampleMw {
            history.push_samples(&[PowerSample { t: sample.t, power: Watts(value as f64 / 1e3) }]);
        } else {
            history.push_tick(TickValue { t: sample.t, error: TICK_ERROR, value });
        }
    }

    pub(crate) fn flush(&mut self, edges: &[MonotonicNs]) {
        if let Some((sensor, reading)) = self.pending.take() {
            self.first.get_or_insert(reading.t);
            self.last = self.last.max(Some(reading.t));
            self.histories[sensor].push(&reading);
            self.histories[sensor].thin(edges);
        }
    }

    pub(crate) fn window(&self, start: MonotonicNs, end: MonotonicNs) -> WindowEnergy {
        let own = WindowEnergy::of(&self.histories, start, end, None, false);
        // Machines have clocks of their own.
        let others = self.others.iter().flat_map(|(machine, other)| {
            let there = |t| other.anchor.monotonic_at(self.anchor.wall_ns_at(t));
            let window = WindowEnergy::of(&other.histories, there(start), there(end), None, false);
            window.sensors.into_iter().map(move |sensor| sensor.of_machine(machine))
        });
        let others = others.collect();
        own.with_sensors(others)
    }
}

fn quantity_of<T>(value: SampleValue, measured: impl Fn(u64) -> T) -> Quantity<T> {
    match value {
        SampleValue::Measured(value) => Quantity::Measured(measured(value)),
        SampleValue::Missing => Quantity::Missing(Missing::Refused("missing in the trace".to_owned())),
        SampleValue::Lost => Quantity::Missing(Missing::DeviceLost),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::books::ledger::tests::options;
    use crate::books::pricing::segment_prices;
    use crate::config::{CarbonConfig, CostConfig};
    use crate::readings::trace_writer::TraceWriter;
    use crate::sensors::sensor::tests::{BOARD, board_info};
    use wattle_runlog::event::StepEvent;

    pub(crate) fn at(seconds: f64) -> MonotonicNs {
        MonotonicNs((seconds * 1e9) as u64)
    }

    /// A segment of the tests, as a manifest has it.
    pub(crate) fn segment_entry(id: u32) -> wattle_runlog::manifest::Segment {
        wattle_runlog::manifest::Segment {
            wall_anchor: "2026-09-21T14:13:20Z".to_owned(),
            monotonic_anchor: MonotonicNs(0),
            ..wattle_runlog::manifest::Segment::now(id, 0)
        }
    }

    /// Appends a segment of 300 W from `start` to `end` seconds, sampled every 100 ms.
    fn sampled(path: &Path, id: u32, start: f64, end: f64) {
        sampled_at(path, id, start, end, |_| 300.0);
    }

    /// The same at any power; its clock is anchored at its start.
    pub(crate) fn sampled_at(path: &Path, id: u32, start: f64, end: f64, watts: impl Fn(f64) -> f64) {
        sampled_as(path, segment_entry(id), start, end, watts);
    }

    fn sampled_as(
        path: &Path,
        segment: wattle_runlog::manifest::Segment,
        start: f64,
        end: f64,
        watts: impl Fn(f64) -> f64,
    ) {
        let segment = wattle_runlog::manifest::Segment { monotonic_anchor: at(start), ..segment };
        let mut writer = TraceWriter::open(path).unwrap();
        writer.begin_segment(&SegmentHeader::new("run-1", segment, 100.0, [(&board_info(), BOARD)])).unwrap();
        let mut mj = 1e6;
        for i in 0..=((end - start) * 10.0) as u64 {
            let seconds = start + i as f64 / 10.0;
            let (t, power) = (at(seconds), watts(seconds));
            let value = |value: f64| SampleValue::Measured(value.round() as u64);
            writer.append(Sample { channel: 0, t, value: value(power * 1e3) }).unwrap();
            writer.append(Sample { channel: 1, t, value: value(mj) }).unwrap();
            mj += power * 100.0;
        }
        writer.sync().unwrap();
    }

    fn step(segment: u32, t: f64, step: u64) -> Event {
        let body = StepEvent {
            step,
            epoch: 1 + step / 10,
            tokens: step * 100,
            loss: 1.0,
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens_per_s: 100.0,
            accuracy: 0.5,
        };
        Event::new(segment, at(t), EventBody::Step(body))
    }

    fn checkpoint(segment: u32, t: f64, step: u64) -> Event {
        let body = EventBody::Checkpoint { step, path: format!("checkpoints/step-{step:08}"), best: false };
        Event::new(segment, at(t), body)
    }

    pub(crate) fn epoch(ledger: &mut Ledger, start: f64, end: f64, steps: (u64, u64)) -> Record {
        ledger.record(Entry {
            kind: RecordKind::Epoch,
            epoch: Some(1),
            complete: true,
            step_start: steps.0,
            step_end: steps.1,
            tokens: (steps.1 - steps.0) * 100,
            window: WindowEnergy {
                energy: Joules(300.0 * (end - start)),
                ..WindowEnergy::empty(at(start), at(end))
            },
            spans: &[],
            resources: Resources::default(),
            overhead: Overhead::default(),
        })
    }

    fn near(energy: Joules, expected: f64) -> bool {
        (energy.get() - expected).abs() < 1e-3
    }

    #[test]
    fn steps_made_while_their_checkpoint_was_written_are_wasted_too() {
        let point = ResumePoint { step: 10, tokens: 1_000 };
        let late = [step(0, 110.0, 10), step(0, 110.5, 11), checkpoint(0, 111.0, 10), step(0, 119.5, 19)];
        assert_eq!(kept_at(&late, point), Some((0, at(110.0))));
        let waited = [step(0, 110.0, 10), checkpoint(0, 111.0, 10), step(0, 119.5, 19)];
        assert_eq!(kept_at(&waited, point), Some((0, at(111.0))));
        // Later steps of an earlier segment have nothing to do with it.
        let resumed = [step(0, 105.0, 12), step(1, 110.0, 10), checkpoint(1, 111.0, 10)];
        assert_eq!(kept_at(&resumed, point), Some((1, at(111.0))));
    }

    #[test]
    fn a_killed_tail_is_booked_once_and_what_came_after_the_checkpoint_is_wasted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        sampled(&path, 0, 100.0, 120.0);
        let mut first = Ledger::new(options(0));
        let mut records = vec![epoch(&mut first, 100.0, 110.0, (0, 10))];
        // Epoch 1 up to 110 s, its checkpoint at 111 s, killed at 120 s in step 19 of epoch 2.
        let events = [step(0, 110.0, 10), checkpoint(0, 111.0, 10), step(0, 119.5, 19)];
        let resumed = Some(ResumePoint { step: 10, tokens: 1_000 });
        let mut second = Ledger::resume(options(1), &records);
        let tails = second.settle(&path, &events, resumed).unwrap();
        let [tail] = &tails[..] else { panic!("{tails:?}") };
        assert_eq!((tail.kind, tail.segment, tail.complete), (RecordKind::Interrupted, 0, false));
        assert!(near(tail.energy_j, 3_000.0), "{tail:?}");
        assert!(near(tail.cumulative.wasted_j, 2_700.0), "{tail:?}");
        assert_eq!((tail.step_start, tail.step_end, tail.epoch), (10, 19, Some(2)));
        assert_eq!((tail.tokens, tail.cumulative.tokens), (0, 1_000));
        assert_eq!(tail.started_at, "2026-09-21T14:13:30Z");
        assert!(near(tail.cumulative.energy_j, 6_000.0));
        assert_eq!(tail.sensors[0].id, "gpu:x");
        records.extend(tails);
        // Settled: the next process finds nothing more of segment 0.
        let mut third = Ledger::resume(options(2), &records);
        assert!(third.settle(&path, &events, resumed).unwrap().is_empty());
        assert_eq!(third.cumulative(), records[1].cumulative);
    }

    #[test]
    fn a_tail_has_the_prices_of_its_own_segment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        let prices = |pue, grams, per_kwh: Option<f64>| {
            let carbon = CarbonConfig { intensity_g_per_kwh: Some(grams), ..CarbonConfig::default() };
            let cost = CostConfig { price_per_kwh: per_kwh, ..CostConfig::default() };
            segment_prices(pue, &carbon, &cost, None).unwrap()
        };
        let stated = wattle_runlog::manifest::Segment {
            prices: Some(prices(2.0, 50.0, Some(1.0))),
            ..segment_entry(0)
        };
        // Segments of 300 W: the first states its prices, the second is of an earlier version.
        sampled_as(&path, stated, 0.0, 20.0, |_| 300.0);
        sampled(&path, 1, 100.0, 120.0);
        let mut earlier = Ledger::new(LedgerOptions { pue: 3.0, tariff: None, ..options(1) });
        let recorded = epoch(&mut earlier, 100.0, 110.0, (0, 10));
        let mut ledger = Ledger::resume(options(2), std::slice::from_ref(&recorded));
        let tails = ledger.settle(&path, &[], None).unwrap();
        let [first, second] = &tails[..] else { panic!("{tails:?}") };
        let kwh = 300.0 * 20.0 / 3.6e6;
        assert_eq!((first.segment, first.pue), (0, 2.0));
        assert!((first.emissions_g.get() - kwh * 2.0 * 50.0).abs() < 1e-9, "{first:?}");
        let cost = first.cost.as_ref().unwrap();
        assert!((cost.value - kwh * 2.0).abs() < 1e-9 && cost.tariff_per_kwh == 1.0, "{cost:?}");
        // By the last record of its segment.
        assert_eq!((second.segment, second.pue, &second.cost), (1, 3.0, &None));
        assert_eq!(second.carbon, recorded.carbon);
        assert_eq!(second.cumulative.cost, Some(cost.value));
        assert!(second.cumulative.cost_fraction.is_some_and(|fraction| fraction < 0.6), "{second:?}");
    }

    #[test]
    fn an_epoch_whose_checkpoint_was_not_finished_is_wasted_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        sampled(&path, 0, 0.0, 20.0);
        let mut first = Ledger::new(options(0));
        let records = [epoch(&mut first, 0.0, 10.0, (0, 10)), epoch(&mut first, 10.0, 20.0, (10, 20))];
        assert_eq!(first.cumulative().tokens, 2_000);
        let events = [step(0, 10.0, 10), checkpoint(0, 10.0, 10), step(0, 20.0, 20)];
        let mut second = Ledger::resume(options(1), &records);
        let tails = second.settle(&path, &events, Some(ResumePoint { step: 10, tokens: 1_000 })).unwrap();
        let cumulative = second.cumulative();
        assert!(near(cumulative.wasted_j, 3_000.0) && near(cumulative.energy_j, 6_000.0), "{cumulative:?}");
        assert_eq!((cumulative.tokens, tails[0].energy_j), (1_000, Joules::ZERO));
        assert_eq!(tails[0].cumulative, cumulative);
    }

    #[test]
    fn without_a_checkpoint_a_segment_that_made_steps_was_wasted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        sampled(&path, 0, 0.0, 5.0);
        sampled(&path, 1, 50.0, 52.0);
        let mut ledger = Ledger::new(options(2));
        let records = ledger.settle(&path, &[step(0, 4.0, 3)], None).unwrap();
        assert_eq!(records.len(), 2);
        let cumulative = ledger.cumulative();
        // The second was killed before its first step: there is nothing of it to do again.
        assert!(near(cumulative.energy_j, 2_100.0) && near(cumulative.wasted_j, 1_500.0), "{cumulative:?}");
        assert_eq!(cumulative.tokens, 0);
    }

    #[test]
    fn steps_that_no_record_counted_but_a_checkpoint_kept_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        sampled(&path, 0, 0.0, 10.0);
        let events = [step(0, 4.0, 5), step(0, 9.0, 9)];
        let mut ledger = Ledger::new(options(1));
        // The checkpoint's event was lost with the process: the step's own stands for it.
        let records = ledger.settle(&path, &events, Some(ResumePoint { step: 5, tokens: 500 })).unwrap();
        assert_eq!((records[0].tokens, records[0].cumulative.tokens), (500, 500));
        assert!(near(records[0].cumulative.wasted_j, 1_800.0), "{records:?}");
    }

    #[test]
    fn without_a_trace_there_is_nothing_to_book() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::new(options(1));
        assert!(ledger.settle(&dir.path().join("power.trace"), &[], None).unwrap().is_empty());
    }
}
