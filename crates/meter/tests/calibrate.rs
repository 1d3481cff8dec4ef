//! Synthetic wall meters beside synthetic loads, with the truth known.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use wattle_meter::MeterError;
use wattle_meter::calibrate::curve::{Curve, RunCurves};
use wattle_meter::calibrate::fit::Interval;
use wattle_meter::calibrate::log::{LogFormat, WallLog};
use wattle_meter::calibrate::{Comparison, Given, compare};
use wattle_runlog::manifest::SensorInfo;
use wattle_runlog::record::{Method, SensorKind};

const ORIGIN_NS: i64 = 1_790_000_000_000_000_000;
const STEP_S: f64 = 0.1;

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn even(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        low + (high - low) * ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.even(1e-12, 1.0).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.even(0.0, 1.0)).cos()
    }
}

/// What a wall meter is like.
#[derive(Clone, Copy, Debug)]
struct Meter {
    /// Watts at the wall for each watt of the sensor.
    per_sensor: f64,
    base_w: f64,
    /// From the end of what a reading stands for to the reading.
    delay_s: f64,
    response: Response,
    cadence_s: f64,
    /// By so much of the cadence a reading comes sooner or later.
    jitter: f64,
    /// A reading is a whole number of these.
    resolution_w: f64,
    /// White noise.
    noise_w: f64,
    /// What the rest of the machine draws: standard deviation, and for how long it resembles itself.
    rest: (f64, f64),
    /// Watts an hour by which the base grows.
    drift_w_per_h: f64,
    /// Share of readings that are lost.
    lost: f64,
    /// The log's clock gains so many seconds a second.
    clock_rate: f64,
}

#[derive(Clone, Copy, Debug)]
enum Response {
    /// The mean over so long.
    Mean(f64),
    /// A smoothing with this time constant.
    Smooth(f64),
}

impl Meter {
    /// From the middle of what a reading stands for to the reading.
    fn lag_s(&self) -> f64 {
        self.delay_s
            + match self.response {
                Response::Mean(seconds) => seconds / 2.0,
                Response::Smooth(seconds) => seconds,
            }
    }
}

const STEADY: Meter = Meter {
    per_sensor: 1.12,
    base_w: 150.0,
    delay_s: 1.2,
    response: Response::Mean(1.0),
    cadence_s: 1.0,
    jitter: 0.0,
    resolution_w: 0.1,
    noise_w: 1.0,
    rest: (0.0, 1.0),
    drift_w_per_h: 0.0,
    lost: 0.0,
    clock_rate: 0.0,
};

/// Meters of five kinds, each of its own gain, base and delay.
fn family(kind: usize, random: &mut Random) -> Meter {
    let common = Meter {
        per_sensor: random.even(0.95, 1.25),
        base_w: random.even(60.0, 250.0),
        delay_s: random.even(-5.0, 10.0),
        ..STEADY
    };
    match kind {
        // A good meter, and a machine that does nothing else.
        0 => common,
        // The rest of the machine comes and goes.
        1 => Meter { rest: (4.0, 10.0), ..common },
        // A PDU: whole watts, seldom, and a room that warms up.
        2 => Meter {
            response: Response::Mean(5.0),
            cadence_s: 5.0,
            resolution_w: 1.0,
            drift_w_per_h: 30.0,
            rest: (2.0, 30.0),
            ..common
        },
        // A plug that smooths, read at uneven times, with losses.
        3 => Meter { response: Response::Smooth(1.5), jitter: 0.3, lost: 0.1, rest: (2.0, 5.0), ..common },
        // Moments, every two seconds, in tens of watts.
        _ => Meter {
            response: Response::Mean(0.1),
            cadence_s: 2.0,
            resolution_w: 10.0,
            noise_w: 3.0,
            ..common
        },
    }
}

/// Power of a board whose load comes and goes for so long, at moments a step apart.
fn load(random: &mut Random, seconds: f64) -> Vec<f64> {
    let mut powers = Vec::new();
    let mut high = false;
    while (powers.len() as f64) < seconds / STEP_S {
        let length = random.even(15.0, 60.0);
        let level = if high { random.even(300.0, 700.0) } else { random.even(60.0, 90.0) };
        let swing = if high { random.even(0.0, 40.0) } else { 0.0 };
        for i in 0..(length / STEP_S) as usize {
            let t = i as f64 * STEP_S;
            powers.push(level + swing * (t * 2.3).sin());
        }
        high = !high;
    }
    powers
}

fn curve(powers: &[f64]) -> Curve {
    let mut sum = 0.0;
    let energy = std::iter::once(0.0).chain(powers.iter().map(|watts| {
        sum += watts * STEP_S;
        sum
    }));
    Curve { start_s: 0.0, step_s: STEP_S, energy: energy.collect() }
}

fn board(id: &str) -> SensorInfo {
    SensorInfo {
        id: format!("gpu:GPU-{id}"),
        kind: SensorKind::Gpu,
        method: Method::Counter,
        description: "simulated".to_owned(),
        systematic_fraction: 0.05,
        systematic_id: format!("gain/gpu:GPU-{id}"),
        flags: Vec::new(),
        assumption: None,
        calibration: None,
        limits: None,
    }
}

fn run(curves: Vec<Curve>) -> RunCurves {
    let sensors = curves.into_iter().enumerate().map(|(i, curve)| (board(&i.to_string()), curve)).collect();
    RunCurves { run_id: "run-1".to_owned(), segment: 0, n_segments: 1, origin_ns: ORIGIN_NS, sensors }
}

/// What a meter says of curves, from a minute before them to a minute after.
fn log(meter: &Meter, curves: &[(&Curve, f64)], random: &mut Random) -> WallLog {
    let end = curves[0].0.end_s();
    let power =
        |from: f64, to: f64| -> f64 { curves.iter().map(|(curve, k)| k * curve.mean(from, to)).sum::<f64>() };
    let mut readings = Vec::new();
    let (mut rest, mut smooth, mut at) = (0.0, power(0.0, 0.1), -60.0);
    let mut t = -60.0f64;
    while t < end + 60.0 {
        let seen = match meter.response {
            Response::Mean(seconds) => power(t - meter.delay_s - seconds, t - meter.delay_s),
            Response::Smooth(constant) => {
                while at < t - meter.delay_s {
                    smooth += (power(at, at + 0.05) - smooth) * 0.05 / constant;
                    at += 0.05;
                }
                smooth
            }
        };
        let keeps = (-meter.cadence_s / meter.rest.1).exp();
        rest = rest * keeps + meter.rest.0 * (1.0 - keeps * keeps).sqrt() * random.normal();
        let drift = meter.drift_w_per_h * t / 3600.0;
        let watts = meter.base_w + meter.per_sensor * seen + rest + drift + meter.noise_w * random.normal();
        let watts = (watts / meter.resolution_w).round() * meter.resolution_w;
        if random.even(0.0, 1.0) >= meter.lost {
            readings.push((ORIGIN_NS + ((t * (1.0 + meter.clock_rate)) * 1e9) as i64, watts.max(0.0)));
        }
        t += meter.cadence_s * (1.0 + meter.jitter * random.even(-1.0, 1.0));
    }
    WallLog { format: LogFormat::Csv, readings, left_out: 0, assumes_utc: false }
}

const GIVEN: Given = Given {
    psu_efficiency: Some(Interval { value: 0.92, half_width: 0.0 }),
    meter_accuracy: 0.0,
    max_lag_s: 20.0,
};

fn compared(meter: &Meter, seed: u64, seconds: f64) -> Result<Comparison, MeterError> {
    let mut random = Random(seed);
    let powers = load(&mut random, seconds);
    let curve = curve(&powers);
    let log = log(meter, &[(&curve, 1.0)], &mut random);
    compare(&run(vec![curve]), &log, &GIVEN)
}

fn refused(meter: &Meter, seed: u64) -> String {
    compared(meter, seed, 900.0).unwrap_err().to_string()
}

fn holds(interval: &Interval, truth: f64) -> bool {
    (interval.value - truth).abs() <= interval.half_width
}

#[derive(Clone, Copy, Default)]
struct Tally {
    n: u32,
    /// Refused because the rest of the machine changed too slowly.
    refused: u32,
    gain: u32,
    base: u32,
    lag: u32,
    gain_width: f64,
    lag_width: f64,
}

#[test]
fn over_a_thousand_meters_the_truth_is_inside_the_interval_in_ninety_five_of_a_hundred() {
    let threads: u64 = 4;
    let parts: Vec<[Tally; 5]> = std::thread::scope(|scope| {
        let work = |thread: u64| {
            scope.spawn(move || {
                let mut tallies = [Tally::default(); 5];
                for seed in (thread..1_000).step_by(threads as usize) {
                    let mut random = Random(seed ^ 0x5EED);
                    let kind = (seed % 5) as usize;
                    let meter = family(kind, &mut random);
                    let seconds = [900.0, 2_400.0, 5_400.0, 1_500.0, 900.0][kind];
                    let tally = &mut tallies[kind];
                    let found = match compared(&meter, seed, seconds) {
                        Ok(found) => found,
                        Err(error) => {
                            let error = error.to_string();
                            assert!(
                                error.contains("too little in common"),
                                "seed {seed}, {meter:?}: {error}"
                            );
                            tally.refused += 1;
                            continue;
                        }
                    };
                    let gain = found.sensors[0].gain.unwrap();
                    // The base is that of the middle of the readings, which is that of the run.
                    let base = meter.base_w + meter.drift_w_per_h * seconds / 2.0 / 3600.0;
                    tally.n += 1;
                    tally.gain += u32::from(holds(&gain, meter.per_sensor * 0.92));
                    tally.base += u32::from(holds(&found.fitted.base_w, base));
                    tally.lag += u32::from(holds(&found.fitted.lag_s, meter.lag_s()));
                    tally.gain_width += gain.half_width / gain.value;
                    tally.lag_width += found.fitted.lag_s.half_width;
                }
                tallies
            })
        };
        let handles: Vec<_> = (0..threads).map(work).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let mut whole = Tally::default();
    for kind in 0..5 {
        let of = |f: fn(&Tally) -> f64| parts.iter().map(|part| f(&part[kind])).sum::<f64>();
        let n = of(|t| f64::from(t.n));
        let share = |f: fn(&Tally) -> f64| 100.0 * of(f) / n;
        println!(
            "kind {kind}: {} refused, gain {:.1} %, base {:.1} %, lag {:.1} %; half-widths {:.2} % and {:.2} s",
            of(|t| f64::from(t.refused)),
            share(|t| f64::from(t.gain)),
            share(|t| f64::from(t.base)),
            share(|t| f64::from(t.lag)),
            share(|t| t.gain_width),
            of(|t| t.lag_width) / n
        );
        whole.n += n as u32;
        whole.gain += of(|t| f64::from(t.gain)) as u32;
        whole.base += of(|t| f64::from(t.base)) as u32;
        whole.lag += of(|t| f64::from(t.lag)) as u32;
    }
    println!("all: gain {}, base {}, lag {} of {}", whole.gain, whole.base, whole.lag, whole.n);
    assert!(whole.n >= 980, "{} refused", 1_000 - whole.n);
    for held in [whole.gain, whole.base, whole.lag] {
        assert!(f64::from(held) >= 0.95 * f64::from(whole.n), "{held} of {}", whole.n);
    }
}

#[test]
fn a_lag_out_of_range_is_named_with_the_flag_that_corrects_it() {
    for (delay_s, word, offset) in
        [(90.0, "ahead of", "--clock-offset=90"), (-240.0, "behind", "--clock-offset=-239")]
    {
        let said = refused(&Meter { delay_s, ..STEADY }, 1);
        assert!(said.contains(word) && said.contains(offset) && said.contains("NTP"), "{said}");
    }
}

#[test]
fn a_clock_of_another_zone_is_told_from_one_that_is_merely_off() {
    let mut random = Random(2);
    let curve = curve(&load(&mut random, 900.0));
    for hours in [-5.0, 2.0, 5.75] {
        let mut log = log(&STEADY, &[(&curve, 1.0)], &mut random);
        log.readings.iter_mut().for_each(|(ns, _)| *ns += (hours * 3600.0 * 1e9) as i64);
        let said = compare(&run(vec![curve.clone()]), &log, &GIVEN).unwrap_err().to_string();
        let sign = if hours > 0.0 { "ahead of" } else { "behind" };
        assert!(
            said.contains(sign) && said.contains("another zone") && said.contains("--utc-offset"),
            "{said}"
        );
    }
}

#[test]
fn a_clock_that_drifts_is_noticed_and_a_good_one_is_not() {
    // Three seconds in fifteen minutes.
    let said = refused(&Meter { clock_rate: 3.0 / 900.0, ..STEADY }, 3);
    assert!(said.contains("gains about") && said.contains("s an hour") && said.contains("NTP"), "{said}");
    let said = refused(&Meter { clock_rate: -4.0 / 900.0, ..STEADY }, 3);
    assert!(said.contains("loses about"), "{said}");
    compared(&Meter { clock_rate: 0.2 / 900.0, ..STEADY }, 3, 900.0).unwrap();
}

#[test]
fn a_log_of_another_time_or_another_machine_is_refused() {
    let mut random = Random(4);
    let curve = curve(&load(&mut random, 900.0));
    let run = run(vec![curve.clone()]);
    let mut late = log(&STEADY, &[(&curve, 1.0)], &mut random);
    late.readings.iter_mut().for_each(|(ns, _)| *ns += 86_400 * 1_000_000_000);
    let said = compare(&run, &late, &GIVEN).unwrap_err().to_string();
    assert!(said.contains("begins") && said.contains("after the run ends"), "{said}");
    let mut other = log(&STEADY, &[(&curve, 1.0)], &mut random);
    other.readings.iter_mut().for_each(|(_, watts)| *watts = 200.0 + 30.0 * random.normal());
    let said = compare(&run, &other, &GIVEN).unwrap_err().to_string();
    assert!(said.contains("does not follow the run"), "{said}");
}

#[test]
fn a_steady_load_is_refused_with_a_command_that_makes_another() {
    let mut random = Random(5);
    let flat = curve(&vec![300.0; 9_000]);
    let step: Vec<f64> = (0..9_000).map(|i| if i < 3_000 { 70.0 } else { 650.0 }).collect();
    for (curve, word) in [(flat, "300 to 300 W"), (curve(&step), "70 to 650 W, changes: 1")] {
        let log = log(&STEADY, &[(&curve, 1.0)], &mut random);
        let said = compare(&run(vec![curve]), &log, &GIVEN).unwrap_err().to_string();
        assert!(said.contains(word) && said.contains("wattle meter --trace"), "{said}");
    }
}

#[test]
fn a_load_that_repeats_itself_fits_at_many_lags_and_the_smallest_is_taken() {
    let mut random = Random(8);
    let steps: Vec<f64> = (0..1_200).map(|i| if i / 16 % 2 == 0 { 100.0 } else { 400.0 }).collect();
    let curve = curve(&steps);
    let meter = Meter { cadence_s: 0.1, noise_w: 0.1, delay_s: 0.3, response: Response::Mean(0.4), ..STEADY };
    let log = log(&meter, &[(&curve, 1.0)], &mut random);
    let found = compare(&run(vec![curve]), &log, &GIVEN).unwrap();
    assert!((found.fitted.lag_s.value - 0.5).abs() < 0.15, "{:?}", found.fitted);
    assert!((found.fitted.per_sensor[0].value - 1.12).abs() < 0.01, "{:?}", found.fitted);
}

#[test]
fn two_boards_are_told_apart_where_their_loads_differ_and_refused_where_they_do_not() {
    let mut random = Random(6);
    let (one, other) = (curve(&load(&mut random, 1_800.0)), curve(&load(&mut random, 1_800.0)));
    let log_of_both = log(&STEADY, &[(&one, 1.0), (&other, 0.9)], &mut random);
    let n = one.energy.len().min(other.energy.len());
    let cut = |curve: &Curve| Curve { energy: curve.energy[..n].to_vec(), ..curve.clone() };
    let found = compare(&run(vec![cut(&one), cut(&other)]), &log_of_both, &GIVEN).unwrap();
    for (sensor, k) in found.sensors.iter().zip([1.12, 0.9 * 1.12]) {
        let per_sensor = sensor.wall_per_sensor.unwrap();
        assert!((per_sensor.value - k).abs() < 2.0 * per_sensor.half_width && per_sensor.half_width < 0.01);
        assert_eq!(sensor.why_not, None);
    }
    let together = log(&STEADY, &[(&one, 1.0), (&one, 0.9)], &mut random);
    let said = compare(&run(vec![one.clone(), one]), &together, &GIVEN).unwrap_err().to_string();
    assert!(said.contains("rise and fall together"), "{said}");
}

#[test]
fn what_is_not_given_or_not_credible_keeps_a_sensor_from_being_calibrated() {
    let mut random = Random(7);
    let curve = curve(&load(&mut random, 900.0));
    let log = log(&STEADY, &[(&curve, 1.0)], &mut random);
    let with = |given: Given, change: &dyn Fn(&mut RunCurves)| {
        let mut run = run(vec![curve.clone()]);
        change(&mut run);
        let found = compare(&run, &log, &given).unwrap();
        let kept = found.calibrations(&run, "plug.csv", &given);
        (found.sensors[0].clone(), kept)
    };
    let same = |_: &mut RunCurves| {};
    let (sensor, kept) = with(Given { psu_efficiency: None, ..GIVEN }, &same);
    assert!(sensor.wall_per_sensor.is_some() && sensor.gain.is_none() && kept.is_empty());
    assert!(sensor.why_not.unwrap().contains("--psu-efficiency"));

    let psu = Interval { value: 0.92, half_width: 0.01 };
    let given = Given { psu_efficiency: Some(psu), meter_accuracy: 0.005, ..GIVEN };
    let (sensor, kept) = with(given, &same);
    let gain = sensor.gain.unwrap();
    // The supply's share and the meter's together, and next to nothing of the fit's.
    let share = (0.01f64 / 0.92).hypot(0.005);
    assert!((gain.half_width / gain.value - share).abs() < 1e-3, "{gain:?}");
    let [kept] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!((kept.sensor.as_str(), kept.systematic_id.as_str()), ("gpu:GPU-0", "gain/gpu:GPU-0"));
    assert!((kept.gain - 1.12 * 0.92).abs() < 0.005 && kept.gain_uncertainty == gain.half_width / gain.value);

    let wide = Given { psu_efficiency: Some(Interval { value: 0.85, half_width: 0.1 }), ..GIVEN };
    assert!(with(wide, &same).0.why_not.unwrap().contains("too wide"));
    let kilowatts = Given { psu_efficiency: Some(Interval { value: 0.1, half_width: 0.0 }), ..GIVEN };
    assert!(with(kilowatts, &same).0.why_not.unwrap().contains("no sensor's"));
    let nameless = |run: &mut RunCurves| run.sensors[0].0.id = "gpu:0".to_owned();
    assert!(with(given, &nameless).0.why_not.unwrap().contains("UUID"));
}
