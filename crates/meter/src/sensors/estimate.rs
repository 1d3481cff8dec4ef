//! Models of what cannot be measured: the processor and the memory of a machine without RAPL.
//!
//! Both count the workload alone and say `estimated` wherever they appear.
//!
//! The processor draws, for the share s of the machine that the workload may use (affinity, cgroup quota, and
//! what other processes leave of that) and its load l of that share,
//!
//! ```text
//! P = TDP · s · (0.1 + 0.9 · l³)    where energy.cpu_tdp_w gives the TDP
//! P = TDP · s · (0.1 + 0.9 · l)     where the TDP is a guess
//! ```
//!
//! Without taking off what others use, the cube would make the same work twice as long and much cheaper on a busy
//! machine.
//!
//! An unknown processor must not look more frugal than a known one, so the guess is high:
//!
//! - Its TDP is [`GUESSED_WATTS_PER_CPU`] for each CPU of the machine, at least [`UNKNOWN_CPU_TDP`]. Servers draw
//!   1.7 to 8.6 W a CPU at full load by SPECpower, depending on their generation; the guess is the highest. CodeCarbon
//!   takes 4 W a CPU for a model that it does not know, and 85 W where it knows nothing.
//! - Power is linear in load. The cube describes all cores of one package that slow down together. A virtual machine
//!   or a server with a few busy cores does not fit it: a quarter of the cores fully busy would draw next to nothing
//!   above idle.
//!
//! The guess may be far too high, or somewhat too low on a desktop that exceeds its rating; its bound is
//! [`GUESSED_SYSTEMATIC_FRACTION`], and records state it as an `assumption`.
//!
//! Memory draws 5 W a module for the share of it that the workload holds. How many modules there are is guessed
//! from their total, as CodeCarbon does.
//!
//! # References
//! - CodeCarbon 3.3.2: `external/hardware.py` (load model, 85 W for an unknown processor), `core/cpu.py` (4 W a
//!   CPU), `external/ram.py`
//! - Cloud Carbon Footprint, *Methodology*: watts a CPU at full load by microarchitecture, from SPECpower_ssj2008
//!   (Graviton2 and EPYC of the second generation 1.7, Sandy Bridge 8.6)

use std::collections::VecDeque;

use wattle_runlog::manifest::{Host, SensorInfo};
use wattle_runlog::record::{Flag, Method, SensorKind};
use wattle_runlog::{MonotonicNs, Seconds, Watts};

use crate::sensors::sensor::{Channels, CounterSpec, CounterValue, Quantity, Reading, Sensor, Survey};
use crate::sensors::share::CpuShare;
use crate::sensors::workload::{Workload, host_busy_time};

/// Least thermal design power of a processor that nothing is known of (CodeCarbon).
pub const UNKNOWN_CPU_TDP: Watts = Watts(85.0);

/// What each CPU of an unknown processor is taken to draw at full load: the highest of all generations of servers
/// that Cloud Carbon Footprint lists.
pub const GUESSED_WATTS_PER_CPU: Watts = Watts(8.6);

/// Bound on the error of both models. Nobody has measured one; it is an assumption.
pub const SYSTEMATIC_FRACTION: f64 = 0.5;

/// The same where the processor's thermal design power is a guess: a server may draw a fifth of it.
pub const GUESSED_SYSTEMATIC_FRACTION: f64 = 1.0;

/// Id of the processor's sensor.
pub const CPU_ID: &str = "cpu:estimate";

/// Id of the memory's sensor.
pub const DRAM_ID: &str = "dram:estimate";

const DIMM_POWER: Watts = Watts(5.0);

/// Others that take more than this share of what the workload may use contend for it.
const CONTENDED_FROM: f64 = 0.1;

/// Load is taken over at least this long, so that its cube does not hang on the sampling interval.
const LOAD_PERIOD: Seconds = Seconds(0.5);

/// A model of power, asked at rising times.
pub trait PowerModel: Send {
    /// Power now.
    fn power(&mut self, t: MonotonicNs) -> Watts;

    /// For how long an answer holds: what is dear to ask is asked seldom.
    fn holds(&self) -> Seconds;

    /// What there is to say of the device besides.
    fn survey(&mut self) -> Survey {
        Survey::default()
    }
}

/// A sensor that integrates a model.
pub struct EstimateSensor<M> {
    info: SensorInfo,
    model: M,
    energy_mj: f64,
    power: Watts,
    last: MonotonicNs,
    asked: MonotonicNs,
}

/// The processor.
pub struct CpuModel {
    workload: Workload,
    tdp: Tdp,
    share: CpuShare,
    used: VecDeque<(MonotonicNs, Seconds)>,
    others: Others,
    surveyed: Option<Busy>,
}

/// The processor's thermal design power.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tdp {
    /// As `energy.cpu_tdp_w` gives it.
    Known(Watts),
    /// By the machine's number of CPUs.
    Guessed { cpus: f64 },
}

/// Processor time by a moment.
#[derive(Clone, Copy, Debug)]
struct Busy {
    t: MonotonicNs,
    workload: Seconds,
    host: Seconds,
}

/// Processors that other processes take of those that the workload may use.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    seen: Option<Busy>,
    taken: f64,
}

/// The memory.
pub struct DramModel {
    workload: Workload,
    total: Watts,
    memory_bytes: u64,
}

/// The processor's estimate. `tdp` is `energy.cpu_tdp_w`.
pub fn cpu(workload: Workload, tdp: Option<Watts>) -> EstimateSensor<CpuModel> {
    let share = CpuShare::of(workload);
    let tdp = tdp.map_or(Tdp::Guessed { cpus: share.host }, Tdp::Known);
    let info = cpu_info(tdp, &share);
    let now = MonotonicNs::now();
    let used = VecDeque::from([(now, workload.cpu_time())]);
    let model = CpuModel { workload, tdp, share, used, others: Others::default(), surveyed: None };
    EstimateSensor::new(info, model, now)
}

fn cpu_info(tdp: Tdp, share: &CpuShare) -> SensorInfo {
    let watts = tdp.watts().get();
    let description = format!(
        "model of the processor, this workload alone: TDP {watts:.0} W ({}), {} of {} CPUs, power by {}",
        tdp.basis(),
        share.available,
        share.host,
        if tdp.is_guess() { "load" } else { "load cubed" },
    );
    let shape = if tdp.is_guess() { "linear/1" } else { "cubed/2" };
    let systematic_id = format!("estimate:cpu-load-{shape}:tdp={watts}");
    let info = info(CPU_ID, SensorKind::Cpu, description, systematic_id);
    if !tdp.is_guess() {
        return info;
    }
    SensorInfo {
        systematic_fraction: GUESSED_SYSTEMATIC_FRACTION,
        assumption: Some(format!("a TDP of {watts:.0} W, {}", tdp.basis())),
        flags: vec![Flag::GuessedTdp],
        ..info
    }
}

/// The memory's estimate; `None` where the machine's memory is not known.
pub fn dram(workload: Workload) -> Option<EstimateSensor<DramModel>> {
    let memory_bytes = Host::here().memory_bytes.filter(|bytes| *bytes > 0)?;
    let dimms = dimm_count(memory_bytes);
    let description = format!(
        "model of the memory by resident set, this workload alone: {dimms} modules of {} W, guessed from {:.0} GiB",
        DIMM_POWER.get(),
        gib(memory_bytes)
    );
    let model = DramModel { workload, total: DIMM_POWER * f64::from(dimms), memory_bytes };
    let systematic_id = "estimate:dram-5w-dimm/1".to_owned();
    let now = MonotonicNs::now();
    Some(EstimateSensor::new(info(DRAM_ID, SensorKind::Dram, description, systematic_id), model, now))
}

fn info(id: &str, kind: SensorKind, description: String, systematic_id: String) -> SensorInfo {
    SensorInfo {
        id: id.to_owned(),
        kind,
        method: Method::Estimated,
        description,
        systematic_fraction: SYSTEMATIC_FRACTION,
        systematic_id,
        flags: Vec::new(),
        assumption: None,
        calibration: None,
        limits: None,
    }
}

impl<M: PowerModel> EstimateSensor<M> {
    fn new(info: SensorInfo, mut model: M, now: MonotonicNs) -> Self {
        let power = model.power(now);
        Self { info, model, energy_mj: 0.0, power, last: now, asked: now }
    }

    /// Integrates up to `t`, the power since the last call being what the model says now.
    fn advance(&mut self, t: MonotonicNs) -> CounterValue {
        if t.since(self.asked) >= self.model.holds() {
            self.power = self.model.power(t);
            self.asked = t;
        }
        self.energy_mj += (self.power * t.since(self.last)).get() * 1e3;
        self.last = self.last.max(t);
        CounterValue(self.energy_mj as u64)
    }
}

impl<M: PowerModel> Sensor for EstimateSensor<M> {
    fn info(&self) -> &SensorInfo {
        &self.info
    }

    fn channels(&self) -> Channels {
        Channels { counter: Some(CounterSpec::MILLIJOULES), ..Channels::default() }
    }

    fn read(&mut self) -> Reading {
        let t = MonotonicNs::now();
        Reading {
            t,
            power: Quantity::Unsupported,
            average: Quantity::Unsupported,
            counter: Quantity::Measured(self.advance(t)),
        }
    }

    fn survey(&mut self) -> Survey {
        self.model.survey()
    }
}

impl Tdp {
    fn watts(self) -> Watts {
        match self {
            Self::Known(watts) => watts,
            Self::Guessed { cpus } => Watts((GUESSED_WATTS_PER_CPU * cpus).get().max(UNKNOWN_CPU_TDP.get())),
        }
    }

    fn is_guess(self) -> bool {
        matches!(self, Self::Guessed { .. })
    }

    /// How much of its power above idle a processor draws at a load, both from 0 to 1.
    fn above_idle(self, load: f64) -> f64 {
        if self.is_guess() { load } else { load.powi(3) }
    }

    /// Where the figure is from, for a person.
    fn basis(self) -> String {
        match self {
            Self::Known(_) => "energy.cpu_tdp_w".to_owned(),
            Self::Guessed { cpus } if self.watts() > UNKNOWN_CPU_TDP => {
                format!("a guess: {} W for each of {cpus} CPUs", GUESSED_WATTS_PER_CPU.get())
            }
            Self::Guessed { .. } => "a guess for an unknown processor".to_owned(),
        }
    }
}

impl CpuModel {
    /// Power at a load between 0 and 1 of the processors that the workload may use, of which others take `taken`.
    fn power_at(&self, load: f64, taken: f64) -> Watts {
        let left = self.share.available - taken;
        if left <= 0.0 {
            return Watts::ZERO;
        }
        let share = CpuShare { available: left, ..self.share };
        let load = (load * self.share.available / left).min(1.0);
        self.tdp.watts() * (share.fraction() * (0.1 + 0.9 * self.tdp.above_idle(load)))
    }

    /// Load of the available processors since the newest moment at least [`LOAD_PERIOD`] ago.
    fn load(&mut self, t: MonotonicNs, used: Seconds) -> f64 {
        while self.used.get(1).is_some_and(|(then, _)| t.since(*then) >= LOAD_PERIOD) {
            self.used.pop_front();
        }
        let (then, used_then) = *self.used.front().unwrap_or(&(t, used));
        self.used.push_back((t, used));
        let available = t.since(then) * self.share.available;
        if available.get() > 0.0 { ((used - used_then) / available).clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl PowerModel for CpuModel {
    fn power(&mut self, t: MonotonicNs) -> Watts {
        let used = self.workload.cpu_time();
        let load = self.load(t, used);
        let is_due = self.others.seen.is_none_or(|seen| t.since(seen.t) >= LOAD_PERIOD);
        if is_due && let Some(host) = host_busy_time() {
            self.others.see(Busy { t, workload: used, host }, &self.share);
        }
        // What the workload itself used nobody took.
        self.power_at(load, self.others.taken.min(self.share.available * (1.0 - load)))
    }

    fn holds(&self) -> Seconds {
        match self.workload {
            Workload::ThisProcess => Seconds::ZERO,
            // Reading the state of other processes from /proc is dear.
            Workload::Children | Workload::Ranks(_) => LOAD_PERIOD * 0.5,
        }
    }

    fn survey(&mut self) -> Survey {
        let now = host_busy_time().map(|host| Busy {
            t: MonotonicNs::now(),
            workload: self.workload.cpu_time(),
            host,
        });
        let before = std::mem::replace(&mut self.surveyed, now);
        let taken = before.zip(now).map(|(before, now)| now.taken_since(&before, &self.share));
        let contended = taken.map(|taken| taken > CONTENDED_FROM * self.share.available);
        Survey { contended, ..Survey::default() }
    }
}

impl Others {
    fn see(&mut self, now: Busy, share: &CpuShare) {
        if let Some(before) = self.seen.replace(now) {
            self.taken = now.taken_since(&before, share);
        }
    }
}

impl Busy {
    /// Processors that others took, between two moments, of those in `share`: as many of the machine's others as
    /// can are outside it.
    fn taken_since(&self, before: &Self, share: &CpuShare) -> f64 {
        let time = self.t.since(before.t);
        if time <= Seconds::ZERO {
            return 0.0;
        }
        let others = ((self.host - before.host) - (self.workload - before.workload)) / time;
        (others - (share.host - share.available)).clamp(0.0, share.available)
    }
}

impl PowerModel for DramModel {
    fn power(&mut self, _: MonotonicNs) -> Watts {
        let share = self.workload.resident_bytes() as f64 / self.memory_bytes as f64;
        self.total * share.min(1.0)
    }

    fn holds(&self) -> Seconds {
        LOAD_PERIOD
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

/// CodeCarbon's guess: few modules in a small machine, at least eight of the largest usual size in a large one.
fn dimm_count(memory_bytes: u64) -> u32 {
    let total = gib(memory_bytes);
    match total {
        _ if total <= 16.0 => 2,
        _ if total <= 64.0 => 4,
        _ if total <= 128.0 => 8,
        _ => {
            let fits = |size: &f64| *size <= total / 8.0;
            let size = [128.0, 64.0, 32.0, 16.0].into_iter().find(fits).unwrap_or(16.0);
            (total / size).ceil().min(32.0) as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(t: u64) -> MonotonicNs {
        MonotonicNs(t * 1_000_000)
    }

    fn model() -> CpuModel {
        model_of(Tdp::Known(Watts(80.0)), CpuShare { available: 2.0, host: 8.0 })
    }

    fn model_of(tdp: Tdp, share: CpuShare) -> CpuModel {
        let used = VecDeque::from([(ms(0), Seconds::ZERO)]);
        let (others, surveyed) = (Others::default(), None);
        CpuModel { workload: Workload::ThisProcess, tdp, share, used, others, surveyed }
    }

    #[test]
    fn power_is_the_formula_for_the_share() {
        let model = model();
        assert_eq!(model.power_at(0.0, 0.0), Watts(2.0));
        assert_eq!(model.power_at(1.0, 0.0), Watts(20.0));
        assert_eq!(model.power_at(0.5, 0.0), Watts(20.0 * (0.1 + 0.9 * 0.125)));
    }

    /// Thermal design power in watts and threads of processors of several generations, by their makers' data sheets.
    const KNOWN: [(f64, f64); 6] = [
        (350.0, 112.0), // Xeon Platinum 8480+
        (280.0, 128.0), // EPYC 7763
        (150.0, 40.0),  // Xeon Gold 6248
        (115.0, 16.0),  // Xeon E5-2670
        (95.0, 16.0),   // Core i9-9900K
        (15.0, 8.0),    // Core i7-8650U
    ];

    #[test]
    fn an_unknown_processor_is_not_more_frugal_than_a_known_one() {
        for (watts, cpus) in KNOWN {
            let share = CpuShare { available: cpus, host: cpus };
            let known = model_of(Tdp::Known(Watts(watts)), share);
            let guessed = model_of(Tdp::Guessed { cpus }, share);
            for load in [0.0, 0.1, 0.275, 0.5, 0.9, 1.0] {
                let (known, guessed) = (known.power_at(load, 0.0), guessed.power_at(load, 0.0));
                assert!(guessed >= known, "{watts} W, {cpus} CPUs, load {load}: {guessed:?} and {known:?}");
            }
        }
    }

    #[test]
    fn a_few_busy_cpus_of_many_draw_what_busy_cpus_draw() {
        let share = CpuShare { available: 16.0, host: 16.0 };
        let guessed = model_of(Tdp::Guessed { cpus: 16.0 }, share);
        let (idle, busy) = (guessed.power_at(0.0, 0.0), guessed.power_at(4.4 / 16.0, 0.0));
        assert!((busy - idle).get() > 4.4 * 7.0, "4.4 busy Xeon CPUs draw {:?} above idle", busy - idle);
        let one = guessed.power_at(1.0 / 16.0, 0.0) - idle;
        assert!(
            (guessed.power_at(0.5, 0.0) - idle - one * 8.0).get().abs() < 1e-9,
            "eight draw eight times one"
        );
    }

    #[test]
    fn a_guess_says_what_it_takes_for_granted_and_how_far_it_may_be_off() {
        let share = CpuShare { available: 16.0, host: 16.0 };
        let guessed = cpu_info(Tdp::Guessed { cpus: 16.0 }, &share);
        assert_eq!(guessed.flags, [Flag::GuessedTdp]);
        let assumption = guessed.assumption.unwrap();
        assert!(
            assumption.contains("138 W") && assumption.contains("8.6 W for each of 16 CPUs"),
            "{assumption}"
        );
        assert!(guessed.description.contains("138 W (a guess"), "{}", guessed.description);
        let known = cpu_info(Tdp::Known(Watts(350.0)), &share);
        assert_eq!((known.assumption, known.flags), (None, vec![]));
        assert!(guessed.systematic_fraction > known.systematic_fraction);
        assert_ne!(guessed.systematic_id, known.systematic_id);
        let small = Tdp::Guessed { cpus: 2.0 };
        assert_eq!(small.watts(), UNKNOWN_CPU_TDP);
        assert!(cpu_info(small, &share).assumption.unwrap().contains("85 W, a guess"));
    }

    #[test]
    fn the_same_work_costs_the_same_where_others_take_half_the_machine() {
        let model = model();
        let alone = model.power_at(1.0, 0.0) * Seconds(10.0);
        let shared = model.power_at(0.5, 1.0) * Seconds(20.0);
        assert_eq!(alone, shared);
        assert_eq!(model.power_at(0.0, 2.0), Watts::ZERO, "nothing is left to it");
    }

    #[test]
    fn others_take_what_does_not_fit_beside_the_share() {
        let share = CpuShare { available: 2.0, host: 8.0 };
        let busy = |t: u64, workload: f64, host: f64| Busy {
            t: ms(t),
            workload: Seconds(workload),
            host: Seconds(host),
        };
        let taken = |own: f64, all: f64| busy(1000, own, all).taken_since(&busy(0, 0.0, 0.0), &share);
        assert_eq!(taken(2.0, 8.0), 0.0, "six others have the six processors outside");
        assert_eq!(taken(1.0, 8.0), 1.0);
        assert_eq!(taken(1.0, 0.9), 0.0, "the two clocks differ by a tick");
        assert_eq!(busy(0, 0.0, 0.0).taken_since(&busy(0, 0.0, 0.0), &share), 0.0);
    }

    #[test]
    fn load_does_not_hang_on_the_interval() {
        // Bursts of 100 ms on both processors, every 200 ms: half load however often it is looked at.
        let used = |t: u64| Seconds((t / 200 * 100 + (t % 200).min(100)) as f64 * 2e-3);
        for interval in [10, 50, 100] {
            let mut model = model();
            let loads: Vec<_> =
                (1..=4000 / interval).map(|i| model.load(ms(i * interval), used(i * interval))).collect();
            let settled = &loads[1000 / interval as usize..];
            // A period that is no multiple of the bursts sees up to one burst more or less in 0.5 s.
            assert!(settled.iter().all(|load| (load - 0.5).abs() < 0.11), "{interval} ms: {settled:?}");
        }
    }

    struct Steps;

    impl PowerModel for Steps {
        fn power(&mut self, t: MonotonicNs) -> Watts {
            Watts(if t.0 < ms(1000).0 { 10.0 } else { 30.0 })
        }
        fn holds(&self) -> Seconds {
            Seconds(0.1)
        }
    }

    #[test]
    fn energy_is_the_integral_of_the_model_and_never_falls() {
        let info = info("x", SensorKind::Cpu, String::new(), String::new());
        let mut sensor = EstimateSensor::new(info, Steps, ms(0));
        let counts: Vec<_> = (0..=200).map(|i| sensor.advance(ms(i * 10)).0).collect();
        assert!(counts.is_sorted());
        // 10 W for a second and 30 W for another; the reading that finds the step charges 10 ms of it to it.
        assert!(counts[200].abs_diff(40_000) <= 200, "{}", counts[200]);
    }

    #[test]
    fn modules_are_guessed_from_their_total() {
        let count = |gib: u64| dimm_count(gib << 30);
        assert_eq!([8, 16, 32, 64, 128, 256, 1024, 4096].map(count), [2, 2, 4, 4, 8, 8, 8, 32]);
    }

    #[test]
    fn both_models_run_here_and_say_what_they_are() {
        let mut cpu = cpu(Workload::ThisProcess, Some(Watts(100.0)));
        let before = cpu.read().counter.measured().unwrap().0;
        while cpu.read().counter.measured().unwrap().0 == before {}
        assert!(cpu.info().description.contains("TDP 100 W"));
        let dram = dram(Workload::ThisProcess).unwrap();
        assert_eq!(dram.info().method, Method::Estimated);
        assert!(dram.power.get() > 0.0);
    }
}
