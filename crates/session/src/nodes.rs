//! The meters of several machines: one on each, in its lowest rank, whose figures the leading rank adds up.
//!
//! At each edge of a record every machine says what it used, at the same step. Between records the leading rank takes the
//! other machines' power to be in proportion to its own machine's, as it was in all records so far.

use std::path::Path;

use serde::{Deserialize, Serialize};
use wattle_meter::{
    EDGE_TIMEOUT, Edge, EnergyConfig, Live, Sampler, SamplerOptions, TraceTarget, TraceWriter, WindowEnergy,
    discover_for,
};
use wattle_runlog::machine::{machine_name, machine_of, trace_name};
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::{Flag, Method, SensorKind, SensorRecord};
use wattle_runlog::{Joules, MonotonicNs, Record, Segment};
use wattle_train::Ranks;

use crate::error::SessionError;
use crate::seats::Seats;
use crate::together::Together;

/// What a machine says of a stretch.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Said {
    node: usize,
    /// What its sensors measured; `None` where its meter does not answer.
    sensors: Option<Vec<SensorRecord>>,
}

/// What a rank that does not lead says at the edges of records.
pub(crate) struct NodeVoice {
    ranks: Ranks,
    /// The machine's meter, in its lowest rank.
    meter: Option<NodeMeter>,
}

struct NodeMeter {
    node: usize,
    sampler: Option<Sampler>,
    start: Option<Edge>,
}

/// Where a meter's readings go.
pub(crate) struct NodeTrace<'a> {
    pub(crate) run: &'a Path,
    pub(crate) run_id: &'a str,
    pub(crate) segment: u32,
}

impl NodeVoice {
    /// Starts the machine's meter, if this is its lowest rank and not that of the leading one, and tells the leading rank
    /// of its sensors. `None` if all ranks are on one machine.
    ///
    /// # Errors
    /// If the ranks have parted.
    pub(crate) fn start(
        ranks: &Ranks,
        seats: &Seats,
        config: &EnergyConfig,
        trace: &NodeTrace<'_>,
    ) -> Result<Option<Self>, SessionError> {
        let place = ranks.fabric().place();
        if place.n_nodes == 1 {
            return Ok(None);
        }
        let is_metering = place.node > 0 && place.leads_node();
        let mut infos = None;
        let meter = is_metering.then(|| {
            let workload = seats.workload_of(place.node);
            let discovery = discover_for(config, &seats.devices_of(place.node), workload);
            infos = Some((place.node, discovery.sensor_infos()));
            let options =
                SamplerOptions { interval: config.interval(), workload, trace: trace.open(place.node) };
            let sampler = Sampler::start(discovery.sensors, options)
                .inspect_err(|error| tracing::error!("metering of {} cannot start: {error}", place.host))
                .ok();
            let start = sampler.as_ref().map(|sampler| sampler.edge(EDGE_TIMEOUT));
            NodeMeter { node: place.node, sampler, start }
        });
        Together::new(ranks).gather(&infos, ranks.between_steps())?;
        Ok(Some(Self { ranks: ranks.clone(), meter }))
    }

    /// Tells what the machine used since the last record; the next begins here if this one `is_kept`.
    pub(crate) fn say(&mut self, is_kept: bool) {
        let said = self.meter.as_mut().map(|meter| meter.say(is_kept));
        // Ranks that have parted are told of by training itself.
        let _ = Together::new(&self.ranks).gather(&said, self.ranks.between_steps());
    }
}

impl NodeMeter {
    fn say(&mut self, is_kept: bool) -> Said {
        let end = self.sampler.as_ref().map(|sampler| sampler.edge(EDGE_TIMEOUT));
        let window = |((sampler, start), end): ((&Sampler, Edge), Edge)| sampler.window(&start, &end).ok();
        let window = self.sampler.as_ref().zip(self.start).zip(end).and_then(window);
        if is_kept {
            self.sampler.iter().zip(&end).for_each(|(sampler, end)| sampler.forget_before(end));
            self.start = end;
        }
        Said { node: self.node, sensors: window.map(|window| window.sensors) }
    }
}

impl NodeTrace<'_> {
    /// The machine's own trace: `power.1.trace` and so on.
    fn open(&self, node: usize) -> Option<TraceTarget> {
        let path = self.run.join(trace_name(node));
        let writer = TraceWriter::open(&path)
            .inspect_err(|error| {
                tracing::error!("{error}; the meter of this machine goes on without a trace");
            })
            .ok()?;
        Some(TraceTarget { writer, run_id: self.run_id.to_owned(), segment: Segment::now(self.segment, 0) })
    }
}

/// The other machines, as the leading rank hears of them.
pub(crate) struct OtherNodes {
    ranks: Ranks,
    /// Ranks on each machine.
    n_ranks: Vec<usize>,
    said: Vec<Said>,
    /// Energy of the other machines up to the last record.
    booked: Joules,
    /// Energy of this machine up to then, as the meter counts it.
    own: Joules,
    /// Energy of the others for each joule of this one.
    ratio: f64,
}

impl OtherNodes {
    /// Hears of the other machines' sensors, whose names then begin with their machine's. `None` if there are none.
    ///
    /// # Errors
    /// If the ranks have parted.
    pub(crate) fn hear(
        ranks: &Ranks,
        seats: &Seats,
    ) -> Result<Option<(Self, Vec<SensorInfo>)>, SessionError> {
        let n_ranks = seats.n_ranks();
        if n_ranks.len() == 1 {
            return Ok(None);
        }
        let none: Option<(usize, Vec<SensorInfo>)> = None;
        let told = Together::new(ranks).gather(&none, ranks.between_steps())?.unwrap_or_default();
        let infos = told.into_iter().flatten().flat_map(|(node, infos)| {
            infos.into_iter().map(move |info| info.of_machine(&machine_name(node)))
        });
        let infos = infos.collect();
        let ratio = n_ranks[1..].iter().sum::<usize>() as f64 / n_ranks[0] as f64;
        let (booked, own) = (Joules::ZERO, Joules::ZERO);
        Ok(Some((Self { ranks: ranks.clone(), n_ranks, said: Vec::new(), booked, own, ratio }, infos)))
    }

    /// Hears at an edge what the other machines used since the last record.
    pub(crate) fn listen(&mut self) {
        let none: Option<Said> = None;
        let said = Together::new(&self.ranks).gather(&none, self.ranks.between_steps());
        self.said = said.ok().flatten().unwrap_or_default().into_iter().flatten().collect();
    }

    /// The window of this machine with the sensors of the others. A machine that did not answer is estimated by its number
    /// of ranks, and says so.
    pub(crate) fn with_others(&self, window: WindowEnergy) -> WindowEnergy {
        let known = Known { energy: window.energy, n_ranks: self.n_ranks[0], on: "the machine of rank 0" };
        window.with_sensors(self.sensors_of_others(&known))
    }

    /// The window from `start` to `end` where this machine's meter did not answer: that of the others, by which this one is
    /// estimated. `None` if no other answered either.
    pub(crate) fn without_this(&self, start: MonotonicNs, end: MonotonicNs) -> Option<WindowEnergy> {
        let answers = || self.said.iter().filter_map(|said| Some((said.node, said.sensors.as_ref()?)));
        let energy = answers().flat_map(|(_, sensors)| sensors).map(|sensor| sensor.energy_j).sum();
        let n_ranks: usize = answers().map(|(node, _)| self.n_ranks[node]).sum();
        let known = Known { energy, n_ranks, on: "the machines that answered" };
        (n_ranks > 0).then(|| {
            let this = missing(0, &known, self.n_ranks[0]);
            let sensors = std::iter::once(this).chain(self.sensors_of_others(&known));
            WindowEnergy::empty(start, end).with_sensors(sensors.collect())
        })
    }

    /// The sensors of the other machines; what is `known` stands for those that did not answer.
    fn sensors_of_others(&self, known: &Known) -> Vec<SensorRecord> {
        let of_node = |node| {
            let said = self.said.iter().find(|said| said.node == node);
            match said.and_then(|said| said.sensors.clone()) {
                Some(sensors) => {
                    sensors.into_iter().map(|sensor| sensor.of_machine(&machine_name(node))).collect()
                }
                None => vec![missing(node, known, self.n_ranks[node])],
            }
        };
        (1..self.n_ranks.len()).flat_map(of_node).collect()
    }

    /// Notes what a record of all machines has said; `own` is what this one has used by its end in all.
    pub(crate) fn book(&mut self, record: &Record, own: Joules) {
        let is_other = |sensor: &&SensorRecord| machine_of(&sensor.id) > 0;
        let others: Joules = record.sensors.iter().filter(is_other).map(|sensor| sensor.energy_j).sum();
        self.booked += others;
        self.own = own;
        // Of all records: within a short one, a counter that moves in steps tells little.
        if own > Joules::ZERO && self.booked > Joules::ZERO {
            self.ratio = self.booked / own;
        }
    }

    /// What all machines have used, and draw now.
    pub(crate) fn of_all(&self, live: Live) -> Live {
        let since = live.energy - self.own;
        Live {
            power: live.power.map(|power| power * (1.0 + self.ratio)),
            energy: live.energy + self.booked + since * self.ratio,
            ..live
        }
    }
}

/// What machines that answered used.
struct Known {
    energy: Joules,
    /// Ranks on them.
    n_ranks: usize,
    /// Which they are, for a person.
    on: &'static str,
}

/// A machine of which nothing is known but how many ranks it has.
fn missing(node: usize, known: &Known, n_ranks: usize) -> SensorRecord {
    let energy = known.energy * (n_ranks as f64 / known.n_ranks as f64);
    let record = SensorRecord {
        systematic_fraction: 1.0,
        assumption: Some(format!("as much a rank as on {}", known.on)),
        flags: vec![Flag::NodeMissing, Flag::Estimated],
        ..SensorRecord::plain("missing".to_owned(), SensorKind::Cpu, Method::Estimated, energy)
    };
    if node == 0 { record } else { record.of_machine(&machine_name(node)) }
}

#[cfg(test)]
mod tests {
    use wattle_runlog::Watts;

    use super::*;

    /// This machine with two ranks, node 1 with one, and node 2 with four, which says nothing.
    fn others() -> OtherNodes {
        let board = SensorRecord::plain("gpu:x".to_owned(), SensorKind::Gpu, Method::Counter, Joules(7.0));
        OtherNodes {
            ranks: Ranks::default(),
            n_ranks: vec![2, 1, 4],
            said: vec![Said { node: 1, sensors: Some(vec![board]) }],
            booked: Joules::ZERO,
            own: Joules::ZERO,
            ratio: 2.5,
        }
    }

    #[test]
    fn a_machine_that_does_not_answer_is_estimated_by_its_ranks_and_says_so() {
        let cpu =
            SensorRecord::plain("cpu:estimate".to_owned(), SensorKind::Cpu, Method::Estimated, Joules(10.0));
        let own = WindowEnergy::empty(MonotonicNs(0), MonotonicNs(1_000_000_000)).with_sensors(vec![cpu]);
        let all = others().with_others(own);
        let said: Vec<_> =
            all.sensors.iter().map(|s| (s.id.as_str(), s.energy_j, s.flags.as_slice())).collect();
        assert_eq!(
            said,
            [
                ("cpu:estimate", Joules(10.0), [].as_slice()),
                ("node1/gpu:x", Joules(7.0), &[]),
                ("node2/missing", Joules(20.0), &[Flag::NodeMissing, Flag::Estimated]),
            ]
        );
        assert_eq!((all.energy, all.measured_fraction), (Joules(37.0), 7.0 / 37.0));
    }

    #[test]
    fn where_this_machine_does_not_answer_the_others_stand_in_for_it() {
        let (start, end) = (MonotonicNs(0), MonotonicNs(1_000_000_000));
        let all = others().without_this(start, end).unwrap();
        let said: Vec<_> =
            all.sensors.iter().map(|s| (s.id.as_str(), s.energy_j, s.flags.as_slice())).collect();
        let is_missing = [Flag::NodeMissing, Flag::Estimated];
        assert_eq!(
            said,
            [
                ("missing", Joules(14.0), is_missing.as_slice()),
                ("node1/gpu:x", Joules(7.0), &[]),
                ("node2/missing", Joules(28.0), is_missing.as_slice()),
            ]
        );
        assert_eq!((all.start, all.end, all.energy), (start, end, Joules(49.0)));
        let silent = OtherNodes { said: vec![Said { node: 1, sensors: None }], ..others() };
        assert!(silent.without_this(start, end).is_none());
    }

    #[test]
    fn between_records_other_machines_draw_in_proportion_to_this_one() {
        let live =
            |energy| Live { power: Some(Watts(100.0)), energy: Joules(energy), measured_fraction: 1.0 };
        let mut others = others();
        let all = others.of_all(live(10.0));
        assert_eq!((all.energy, all.power), (Joules(35.0), Some(Watts(350.0))));
        (others.booked, others.own, others.ratio) = (Joules(40.0), Joules(20.0), 2.0);
        assert_eq!(others.of_all(live(21.0)).energy, Joules(63.0));
    }
}
