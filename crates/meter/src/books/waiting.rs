//! What waiting for cleaner electricity saved, and what it cost.
//!
//! A run that paused is held against itself without the pauses: the same work, joule by joule, each as much earlier
//! as the pauses before it lasted, at the intensities that the grid was seen to have then. Both sides are reckoned
//! from `power.trace` and `grid.jsonl`. What the machine drew while it waited is taken off what was saved.

use std::path::Path;

use wattle_runlog::grid::{GridEntry, Intensities};
use wattle_runlog::manifest::Segment as SegmentEntry;
use wattle_runlog::{Event, EventBody, GramsCo2e, Joules, MonotonicNs, Seconds};

use crate::books::interrupted::{Segment, segments_of};
use crate::books::pauses::{Pause, pauses};
use crate::books::pricing::Rates;
use crate::error::MeterError;
use crate::readings::trace::SegmentHeader;
use crate::windows::window::WindowEnergy;

/// What the pauses of a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waited {
    /// The pauses.
    pub pauses: Vec<Pause>,
    /// What the machine drew in them.
    pub idle: Joules,
    /// Emissions of that, at the building.
    pub idle_emissions: GramsCo2e,
    /// Emissions of everything else that the segments with pauses did, at the building.
    pub work: GramsCo2e,
    /// What the same would have emitted without the pauses.
    pub at_once: GramsCo2e,
}

impl Waited {
    /// How long they lasted.
    pub fn time(&self) -> Seconds {
        self.pauses.iter().map(|pause| pause.to.since(pause.from)).sum()
    }

    /// Emissions that waiting saved, less those of the machine that waited; below zero where it cost more.
    pub fn saved(&self) -> GramsCo2e {
        self.at_once - self.work - self.idle_emissions
    }
}

/// What the pauses of a run saved and cost; `None` if there were none, or the trace does not tell.
///
/// # Errors
/// If the trace cannot be read.
pub fn waited(
    segments: &[SegmentEntry],
    events: &[Event],
    entries: &[GridEntry],
    trace: &Path,
) -> Result<Option<Waited>, MeterError> {
    if !trace.exists() || !events.iter().any(|event| matches!(event.body, EventBody::Pause { .. })) {
        return Ok(None);
    }
    let mut all = Waited::default();
    let edges = |header: &SegmentHeader| {
        let pauses = pauses(events, header.segment.id, MonotonicNs(u64::MAX));
        pauses.iter().flat_map(|pause| [pause.from, pause.to]).collect()
    };
    for traced in segments_of(trace, edges)? {
        let id = traced.header.segment.id;
        let (Some(first), Some(last)) = (traced.first, traced.last) else { continue };
        let pauses = pauses(events, id, last);
        let known = Intensities::of_segment(entries, id);
        let entry = segments.iter().find(|entry| entry.id == id).and_then(|entry| entry.prices.as_ref());
        let (Some(known), Some(prices), false) = (known, entry, pauses.is_empty()) else { continue };
        let rates = Rates {
            pue: prices.pue,
            intensity: prices.carbon.intensity_g_per_kwh,
            table: None,
            grid: Some(&known),
        };
        all.add(&rates, &traced, &traced.window(first, last), &pauses);
    }
    Ok((!all.pauses.is_empty()).then_some(all))
}

impl Waited {
    fn add(&mut self, rates: &Rates<'_>, traced: &Segment, window: &WindowEnergy, pauses: &[Pause]) {
        // Emissions of what was used from `from` to `to`, had it been used `earlier` by so much.
        let priced = |from: MonotonicNs, to: MonotonicNs, earlier: Seconds| {
            let used = |a: MonotonicNs, b: MonotonicNs| window.between(a.after(earlier), b.after(earlier));
            let span = (from.before(earlier), to.before(earlier));
            rates.emissions(traced.anchor, span, used(span.0, span.1), &used).grams
        };
        let (mut at, mut waited) = (window.start, Seconds::ZERO);
        let mut work = |from: MonotonicNs, to: MonotonicNs, waited: Seconds| {
            self.work += priced(from, to, Seconds::ZERO);
            self.at_once += priced(from, to, waited);
        };
        for pause in pauses {
            work(at, pause.from.max(at), waited);
            waited += pause.to.since(pause.from);
            at = pause.to;
        }
        work(at, window.end.max(at), waited);
        for pause in pauses {
            self.idle += window.between(pause.from, pause.to);
            self.idle_emissions += priced(pause.from, pause.to, Seconds::ZERO);
        }
        self.pauses.extend(pauses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::interrupted::tests::{sampled_at, segment_entry};
    use crate::books::ledger::tests::options;
    use wattle_runlog::GramsPerKwh;
    use wattle_runlog::event::PauseReason;
    use wattle_runlog::grid::{GRID_SCHEMA, GridBasis, GridOrigin};
    use wattle_runlog::manifest::SegmentPrices;

    fn s(seconds: u64) -> MonotonicNs {
        MonotonicNs(seconds * 1_000_000_000)
    }

    fn entry(from: u64, to: u64, g: f64) -> GridEntry {
        GridEntry {
            schema: GRID_SCHEMA.to_owned(),
            segment: 0,
            origin: GridOrigin { provider: "uk".into(), zone: "GB".into(), counts: "direct".into() },
            basis: GridBasis::Live,
            from: String::new(),
            to: String::new(),
            from_ns: s(from),
            to_ns: s(to),
            g_per_kwh: GramsPerKwh(g),
        }
    }

    fn events(pause: u64, resume: u64) -> [Event; 2] {
        let (reason, g_per_kwh) = (PauseReason::Above, GramsPerKwh(500.0));
        [
            Event::new(0, s(pause), EventBody::Pause { step: 5, reason, g_per_kwh }),
            Event::new(0, s(resume), EventBody::Resume { step: 5 }),
        ]
    }

    #[test]
    fn a_pause_saves_what_the_same_joules_would_have_emitted_at_once_less_what_the_machine_drew_idle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("power.trace");
        // 10 s of work at 300 W, 20 s idle at 50 W, 10 s of work.
        sampled_at(&path, 0, 0.0, 40.0, |t| if (10.0..30.0).contains(&t) { 50.0 } else { 300.0 });
        let entries = [entry(0, 20, 500.0), entry(20, 40, 100.0)];
        let prices = SegmentPrices {
            machine: wattle_runlog::beside::Machine::default(),
            pue: 1.5,
            carbon: options(0).carbon,
            carbon_table: None,
            tariff: None,
            grid: None,
        };
        let segments = [wattle_runlog::Segment { prices: Some(prices), ..segment_entry(0) }];
        let waited = waited(&segments, &events(10, 30), &entries, &path).unwrap().unwrap();
        let grams = |joules: f64, g: f64| joules * 1.5 / 3.6e6 * g;
        let close = |got: GramsCo2e, expected: f64| (got.get() / expected - 1.0).abs() < 0.03;
        assert!((waited.idle.get() / 1000.0 - 1.0).abs() < 0.05, "{waited:?}");
        assert_eq!(waited.time(), Seconds(20.0));
        assert!(close(waited.work, grams(3000.0, 500.0) + grams(3000.0, 100.0)), "{waited:?}");
        assert!(close(waited.at_once, grams(6000.0, 500.0)), "{waited:?}");
        assert!(close(waited.idle_emissions, grams(500.0, 500.0) + grams(500.0, 100.0)), "{waited:?}");
        let saved = grams(3000.0, 400.0) - grams(500.0, 500.0) - grams(500.0, 100.0);
        assert!(close(waited.saved(), saved), "{:?}, {saved}", waited.saved());
    }

    #[test]
    fn a_pause_that_a_kill_ended_lasts_until_the_last_reading_and_a_run_without_one_waited_for_nothing() {
        let [pause, _] = events(10, 30);
        let found = pauses(std::slice::from_ref(&pause), 0, s(25));
        assert_eq!((found.len(), found[0].from, found[0].to), (1, s(10), s(25)));
        assert_eq!(pauses(&[pause], 1, s(25)), []);
        assert_eq!(waited(&[], &[], &[], Path::new("/nowhere")).unwrap(), None);
    }
}
