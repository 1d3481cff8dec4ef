//! What a run had cost by any moment of it.
//!
//! Records know the energy of a stretch, the power trace knows how it came about. The curve passes through what
//! the records say, and between two of them rises as the trace does; without a trace, evenly.

use wattle_runlog::record::RecordKind;
use wattle_runlog::{GramsCo2e, Joules, MonotonicNs, Record};

use crate::join::run::Run;
use crate::join::timeline::Timeline;

/// Energy, emissions and cost together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Energy.
    pub energy: Joules,
    /// Emissions.
    pub emissions: GramsCo2e,
    /// Cost; zero without a tariff.
    pub cost: f64,
}

/// What a run had cost by any moment of it.
#[derive(Clone, Debug)]
pub struct EnergyCurve<'a> {
    run: &'a Run,
    stretches: Vec<Stretch>,
}

/// A stretch whose cost is known.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    segment: u32,
    start: MonotonicNs,
    end: MonotonicNs,
    before: Spent,
    within: Spent,
}

/// The record of the whole run, if it is the last that was written and no later segment has begun.
pub(crate) fn final_record(run: &Run) -> Option<&Record> {
    let segment = run.manifest.segments.iter().map(|segment| segment.id).max();
    run.records.last().filter(|record| record.kind == RecordKind::Final && Some(record.segment) == segment)
}

impl<'a> EnergyCurve<'a> {
    /// The curve of a run.
    pub fn of(run: &'a Run, timeline: &Timeline) -> Self {
        let part = |record: &Record| {
            let (start, end) = (record.start_ns?, record.end_ns?);
            let (segment, before, within) = (record.segment, Spent::default(), Spent::of(record));
            Some(Stretch { segment, start, end, before, within })
        };
        let parts = run.records.iter().filter(|record| record.kind.is_additive());
        let mut stretches: Vec<_> = parts.filter_map(part).collect();
        stretches.sort_by_key(|stretch| (stretch.segment, stretch.start));
        let mut before = Spent::default();
        for stretch in &mut stretches {
            stretch.before = before;
            before += stretch.within;
        }
        let mut curve = Self { run, stretches };
        curve.add_rest(timeline, before);
        curve
    }

    /// What was drawn after the last record: by the record of the whole run, or else by the trace alone, at the
    /// last record's prices.
    fn add_rest(&mut self, timeline: &Timeline, before: Spent) {
        let Some(segment) = timeline.segments().last() else { return };
        let Some((start, end)) = timeline.segment(segment) else { return };
        let recorded = self.stretches.iter().filter(|s| s.segment == segment).map(|s| s.end).max();
        let start = recorded.unwrap_or(start);
        let within = match final_record(self.run) {
            Some(whole) => Spent::of(whole) - before,
            None => {
                let energy =
                    self.run.power.energy_at(segment, end) - self.run.power.energy_at(segment, start);
                let last = self.run.records.last().filter(|last| last.energy_j > Joules::ZERO);
                let share = last.map_or(0.0, |last| energy / last.energy_j);
                Spent { energy, ..last.map_or(Spent::default(), |last| Spent::of(last) * share) }
            }
        };
        self.stretches.push(Stretch { segment, start, end, before, within });
    }

    /// What had been spent by a moment of a segment.
    pub fn at(&self, segment: u32, t: MonotonicNs) -> Spent {
        let next = self.stretches.partition_point(|stretch| (stretch.segment, stretch.start) <= (segment, t));
        let Some(stretch) = next.checked_sub(1).map(|i| &self.stretches[i]) else {
            return Spent::default();
        };
        // Before its first stretch a segment has spent nothing yet.
        if stretch.segment < segment {
            return stretch.before + stretch.within;
        }
        stretch.before + stretch.within * self.share(stretch, t)
    }

    /// All of it.
    pub fn total(&self) -> Spent {
        self.stretches.last().map_or(Spent::default(), |last| last.before + last.within)
    }

    /// What the trace saw after the last record of a run that goes on.
    pub fn unrecorded(&self) -> Spent {
        match (final_record(self.run), self.stretches.last()) {
            (None, Some(rest)) => rest.within,
            _ => Spent::default(),
        }
    }

    /// The share of a stretch that lies before `t`.
    fn share(&self, stretch: &Stretch, t: MonotonicNs) -> f64 {
        if t >= stretch.end {
            return 1.0;
        }
        let power = &self.run.power;
        let until = |t| power.energy_at(stretch.segment, t) - power.energy_at(stretch.segment, stretch.start);
        let all = until(stretch.end);
        match all > Joules::ZERO {
            true => until(t) / all,
            false => t.since(stretch.start) / stretch.end.since(stretch.start),
        }
    }
}

impl Spent {
    /// What a record covers.
    pub fn of(record: &Record) -> Self {
        Self {
            energy: record.energy_j,
            emissions: record.emissions_g,
            cost: record.cost.as_ref().map_or(0.0, |cost| cost.value),
        }
    }
}

impl std::ops::Add for Spent {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            energy: self.energy + other.energy,
            emissions: self.emissions + other.emissions,
            cost: self.cost + other.cost,
        }
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Sub for Spent {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other * -1.0
    }
}

impl std::ops::Mul<f64> for Spent {
    type Output = Self;
    fn mul(self, factor: f64) -> Self {
        Self { energy: self.energy * factor, emissions: self.emissions * factor, cost: self.cost * factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn the_curve_passes_through_the_records_and_rises_as_the_trace_does() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(dir.path());
        let timeline = Timeline::of(&run);
        let curve = EnergyCurve::of(&run, &timeline);
        for record in run.records.iter().filter(|record| record.kind.is_additive()) {
            let end = curve.at(record.segment, record.end_ns.unwrap());
            let expected = record.cumulative.energy_j.get();
            assert!((end.energy.get() - expected).abs() < 1e-9, "{end:?} {expected}");
        }
        let whole = run.records.last().unwrap();
        assert!((curve.total().energy - whole.energy_j).get().abs() < 1e-9);
        // The synthetic board draws twice as much in the second half of an epoch as in the first.
        let first = &run.records[0];
        let middle = first.start_ns.unwrap().midpoint(first.end_ns.unwrap());
        let share = curve.at(0, middle).energy / first.energy_j;
        assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
    }

    #[test]
    fn without_a_trace_it_rises_evenly() {
        let dir = tempfile::tempdir().unwrap();
        SyntheticRun::small().write(dir.path());
        std::fs::remove_file(dir.path().join("power.trace")).unwrap();
        let run = Run::open(dir.path()).unwrap();
        let curve = EnergyCurve::of(&run, &Timeline::of(&run));
        let first = &run.records[0];
        let middle = first.start_ns.unwrap().midpoint(first.end_ns.unwrap());
        assert!((curve.at(0, middle).energy / first.energy_j - 0.5).abs() < 1e-6);
    }
}
