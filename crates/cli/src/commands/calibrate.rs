//! `wattle calibrate`: a sensor's gain by a wall meter's log.

use std::path::{Path, PathBuf};

use serde_json::json;
use wattle_meter::MeterError;
use wattle_meter::calibrate::curve::RunCurves;
use wattle_meter::calibrate::fit::{Interval, Response};
use wattle_meter::calibrate::log::{LogOptions, WallLog};
use wattle_meter::calibrate::{Compared, Comparison, Given, compare};
use wattle_meter::sensors::calibrations::{Calibration, Calibrations};
use wattle_report::words::quantity::{count, duration, plus_minus};
use wattle_report::words::table::{Table, hang};
use wattle_runlog::Seconds;

use crate::args::CalibrateArgs;
use crate::exit::{BadUsage, Exit};
use crate::terminal::print_line;

/// A run's trace within its directory.
const TRACE: &str = "power.trace";

/// Lags beyond an hour are a wrong clock's.
const LONGEST_LAG_S: f64 = 3600.0;

/// Holds a run against a log and keeps what came of it.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<Exit> {
    let faults = faults(args);
    if !faults.is_empty() {
        return Err(BadUsage { faults }.into());
    }
    let file = args.file.clone().or_else(Calibrations::default_path);
    let file = file.ok_or_else(|| BadUsage {
        faults: vec![
            "neither XDG_DATA_HOME nor HOME is set; name a file for calibrations by --file".to_owned(),
        ],
    })?;
    let trace = trace_of(&args.run);
    let run = RunCurves::read(&trace)?;
    let log = WallLog::open(&args.log, &log_options(args))?;
    let given = given(args);
    let found = compare(&run, &log, &given)?;
    let kept = found.calibrations(&run, &args.log.display().to_string(), &given);
    // Read before anything is printed: a file that is damaged is not written over.
    let mut calibrations = Calibrations::read_or_none(&file)?;
    let writes = !kept.is_empty() && !args.dry_run;
    if writes {
        calibrations.replace(&kept);
        calibrations.write(&file)?;
    }
    let told = Told {
        args,
        trace: &trace,
        run: &run,
        log: &log,
        given: &given,
        found: &found,
        kept: &kept,
        file: &file,
    };
    print_line(&if args.json { told.json(writes) } else { told.text(writes).join("\n") })?;
    if kept.is_empty() && !args.dry_run {
        return Err(nothing_kept(&found).into());
    }
    Ok(Exit::Done)
}

fn nothing_kept(found: &Comparison) -> MeterError {
    let reason = |sensor: &Compared| Some(format!("{}: {}", sensor.info.id, sensor.why_not.as_ref()?));
    let reasons: Vec<String> = found.sensors.iter().filter_map(reason).collect();
    MeterError::NotCalibrated { reason: format!("no sensor could be calibrated. {}", reasons.join("; ")) }
}

fn faults(args: &CalibrateArgs) -> Vec<String> {
    let share = |flag: &str, value: f64, low: f64| {
        let is_sound =
            (low..=1.0).contains(&value) && (value > 0.0 || low < value || flag != "--psu-efficiency");
        (!is_sound).then(|| format!("{flag} {value}: expected a share from {low} to 1, such as 0.92"))
    };
    let positive = |flag: &str, value: f64| {
        (!(value.is_finite() && value > 0.0)).then(|| format!("{flag} {value}: expected a number above 0"))
    };
    [
        args.psu_efficiency.and_then(|value| share("--psu-efficiency", value, 0.5)),
        share("--psu-uncertainty", args.psu_uncertainty, 0.0),
        share("--meter-accuracy", args.meter_accuracy, 0.0),
        args.watts_per_unit.and_then(|value| positive("--watts-per-unit", value)),
        positive("--max-lag", args.max_lag),
        (args.max_lag > LONGEST_LAG_S).then(|| {
            format!(
                "--max-lag {}: expected at most {LONGEST_LAG_S}; --clock-offset moves the range",
                args.max_lag
            )
        }),
        (!args.clock_offset.is_finite()).then(|| "--clock-offset: expected a number of seconds".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A run directory's trace, or the trace itself.
fn trace_of(run: &Path) -> PathBuf {
    if run.is_dir() { run.join(TRACE) } else { run.to_owned() }
}

fn log_options(args: &CalibrateArgs) -> LogOptions {
    LogOptions {
        column: args.column.clone(),
        watts_per_unit: args.watts_per_unit,
        utc_offset_s: args.utc_offset,
        clock_ahead_s: args.clock_offset,
    }
}

fn given(args: &CalibrateArgs) -> Given {
    let psu = |value| Interval { value, half_width: args.psu_uncertainty };
    Given {
        psu_efficiency: args.psu_efficiency.map(psu),
        meter_accuracy: args.meter_accuracy,
        max_lag_s: args.max_lag,
    }
}

/// Everything that there is to tell.
struct Told<'a> {
    args: &'a CalibrateArgs,
    trace: &'a Path,
    run: &'a RunCurves,
    log: &'a WallLog,
    given: &'a Given,
    found: &'a Comparison,
    kept: &'a [Calibration],
    file: &'a Path,
}

impl Told<'_> {
    fn text(&self, writes: bool) -> Vec<String> {
        let fitted = &self.found.fitted;
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| lines.extend(hang(&format!("  {name:<11} "), &text));
        line("run", self.run_words());
        line("log", self.log_words());
        let lag = plus_minus(fitted.lag_s.value, fitted.lag_s.half_width, "s");
        line("lag", format!("{lag}, of the log's clock and of the meter together"));
        line(
            "response",
            match fitted.response {
                Response::Mean(seconds) => format!("as a mean over {}", duration(Seconds(seconds))),
                Response::Smooth(seconds) => {
                    format!("as if smoothed with a time constant of {}", duration(Seconds(seconds)))
                }
            },
        );
        let base = plus_minus(fitted.base_w.value, fitted.base_w.half_width, "W");
        line(
            "base",
            format!("{base} at the wall for the rest of the machine; a sensor's offset is part of it"),
        );
        line(
            "fit",
            format!(
                "{:.1} % of what the log shows follows the sensors; {:.1} W are left",
                100.0 * fitted.explained,
                fitted.residual_w
            ),
        );
        lines.push(String::new());
        let mut table = Table::new(["sensor", "low", "high", "wall W a sensor W", "gain"], &[0]);
        for sensor in &self.found.sensors {
            table.row(cells(sensor));
        }
        lines.extend(table.lines());
        for sensor in &self.found.sensors {
            let why_not = sensor.why_not.as_ref().map(|why| format!("not calibrated: {why}"));
            lines.extend(why_not.iter().flat_map(|why| hang(&format!("  ! {}: ", sensor.info.id), why)));
        }
        lines.push(String::new());
        lines.extend(hang("  ", &self.gain_words()));
        lines.extend(hang("  ", &self.kept_words(writes)));
        lines
    }

    fn run_words(&self) -> String {
        let seconds =
            self.run.sensors.iter().map(|(_, curve)| curve.end_s() - curve.start_s).fold(0.0, f64::max);
        let segment = match self.run.n_segments {
            1 => String::new(),
            n => format!(", segment {}, the longest of {n}", self.run.segment),
        };
        format!("{}: {}{segment}", self.trace.display(), duration(Seconds(seconds)))
    }

    fn log_words(&self) -> String {
        let WallLog { format, readings, left_out, assumes_utc } = self.log;
        let used = self.found.fitted.readings;
        let mut parts = vec![format!(
            "{}: {}, {} of {} readings within the run",
            self.args.log.display(),
            format.name(),
            count(used as u64),
            count(readings.len() as u64)
        )];
        if *left_out > 0 {
            parts.push(format!("{} without a number left out", count(*left_out as u64)));
        }
        if *assumes_utc {
            parts.push("its times name no zone and are taken for UTC (--utc-offset)".to_owned());
        }
        parts.join("; ")
    }

    /// What the gain is made of, and what it takes for granted.
    fn gain_words(&self) -> String {
        let meter =
            format!("the wall meter's own error of at most {:.1} %", 100.0 * self.given.meter_accuracy);
        let others = "what no sensor measures and rises with one, such as fans, counts as that sensor's";
        match self.given.psu_efficiency {
            Some(psu) => format!(
                "gain = wall watts a sensor watt × the power supply's {:.3} ± {:.3}; its interval holds that and \
                 {meter}; {others}",
                psu.value, psu.half_width
            ),
            None => format!(
                "a gain is the wall watts a sensor watt times the share of them that the power supply passes on, which \
                 is unknown here; {others}"
            ),
        }
    }

    fn kept_words(&self, writes: bool) -> String {
        let file = self.file.display();
        match (self.kept.is_empty(), writes) {
            (true, _) => "nothing is kept".to_owned(),
            (false, false) => format!("--dry-run: nothing is kept; it would be in {file}"),
            (false, true) => format!(
                "kept in {file}: runs from now on are corrected by it and name it; records of before stay as they are"
            ),
        }
    }

    fn json(&self, writes: bool) -> String {
        let interval =
            |interval: &Interval| json!({ "value": interval.value, "half_width": interval.half_width });
        let fitted = &self.found.fitted;
        let (response, seconds) = match fitted.response {
            Response::Mean(seconds) => ("mean", seconds),
            Response::Smooth(seconds) => ("smooth", seconds),
        };
        let sensors: Vec<_> = self
            .found
            .sensors
            .iter()
            .map(|sensor| {
                json!({
                    "id": sensor.info.id,
                    "low_w": sensor.range_w.0,
                    "high_w": sensor.range_w.1,
                    "wall_per_sensor": sensor.wall_per_sensor.as_ref().map(interval),
                    "gain": sensor.gain.as_ref().map(interval),
                    "why_not": sensor.why_not,
                })
            })
            .collect();
        let report = json!({
            "schema": "wattle.calibrate/1",
            "run_id": self.run.run_id,
            "segment": self.run.segment,
            "log": {
                "path": self.args.log.display().to_string(),
                "format": self.log.format.name(),
                "readings": self.log.readings.len(),
                "used": fitted.readings,
                "left_out": self.log.left_out,
                "assumes_utc": self.log.assumes_utc,
            },
            "lag_s": interval(&fitted.lag_s),
            "response": { "kind": response, "seconds": seconds },
            "base_w": interval(&fitted.base_w),
            "explained": fitted.explained,
            "residual_w": fitted.residual_w,
            "correlation_s": fitted.correlation_s,
            "sensors": sensors,
            "calibrations": self.kept,
            "file": writes.then(|| self.file.display().to_string()),
        });
        format!("{report:#}")
    }
}

fn cells(sensor: &Compared) -> [String; 5] {
    let percent = |interval: &Interval| 100.0 * interval.half_width / interval.value.abs();
    [
        sensor.info.id.clone(),
        format!("{:.0} W", sensor.range_w.0),
        format!("{:.0} W", sensor.range_w.1),
        sensor
            .wall_per_sensor
            .map(|per| format!("{:.4} ± {:.4}", per.value, per.half_width))
            .unwrap_or_default(),
        sensor.gain.map(|gain| format!("{:.4} ± {:.1} %", gain.value, percent(&gain))).unwrap_or_default(),
    ]
}
