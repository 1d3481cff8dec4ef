//! Whether the log's clock is the run's: lags out of range, drift, and times that are off by a zone.

use crate::calibrate::fit::{Found, Problem};
use crate::error::MeterError;

/// Times that are wrong by a zone are wrong by whole quarters of an hour, and by no more than this.
const QUARTER_S: f64 = 900.0;
const QUARTERS: i32 = 4 * 14;
/// How far beyond the range a lag is looked for, so that it can be named.
const BEYOND_S: f64 = 600.0;
/// With less explained, the log is not taken for one of this run.
pub(crate) const EXPLAINED: f64 = 0.5;
/// So far the halves of a run may differ in lag, whatever their readings.
const DRIFT_S: f64 = 1.0;
/// Around the lag of the whole, that of each half is looked for.
const HALF_S: f64 = 15.0;

/// The lag of a log, if its clock can be believed.
///
/// # Errors
/// If its clock cannot be believed; the message says what is wrong and how to mend it.
pub(crate) fn lag(problem: &Problem<'_>, max_lag_s: f64) -> Result<Found, MeterError> {
    let refuse = |reason: String| MeterError::NotCalibrated { reason };
    let found = problem.search(-max_lag_s, max_lag_s);
    let is_good = |found: &Found| 1.0 - found.unexplained >= EXPLAINED;
    let Some(found) = found.filter(is_good) else {
        return Err(refuse(match elsewhere(problem, max_lag_s) {
            Some(at) => off_by(at.lag_s),
            None => nowhere(problem, found.as_ref()),
        }));
    };
    if found.lag_s.abs() > max_lag_s - 0.5 {
        let at = problem.search(-BEYOND_S, BEYOND_S).filter(is_good).unwrap_or(found);
        return Err(refuse(off_by(at.lag_s)));
    }
    no_drift(problem, &found, max_lag_s).map_err(refuse)?;
    Ok(found)
}

/// Where else the log fits: a little beyond the range, or off by quarters of an hour.
fn elsewhere(problem: &Problem<'_>, max_lag_s: f64) -> Option<Found> {
    let quarters = (-QUARTERS..=QUARTERS).filter(|quarters| *quarters != 0);
    let ranges = quarters.map(|quarters| {
        let middle = f64::from(quarters) * QUARTER_S;
        (middle - max_lag_s, middle + max_lag_s)
    });
    let beyond = [(-BEYOND_S, BEYOND_S)];
    let tried = beyond.into_iter().chain(ranges).filter(|(low, high)| {
        [*low, f64::midpoint(*low, *high), *high].into_iter().any(|lag| problem.n_within(lag) > 0)
    });
    let found = tried.filter_map(|(low, high)| problem.search(low, high));
    let found = found.min_by(|a, b| a.unexplained.total_cmp(&b.unexplained))?;
    (1.0 - found.unexplained >= 0.8).then_some(found)
}

/// What is said where the log fits at such a lag.
fn off_by(lag_s: f64) -> String {
    let (ahead, seconds) = (if lag_s > 0.0 { "ahead of" } else { "behind" }, lag_s.abs());
    let quarters = (seconds / QUARTER_S).round() * QUARTER_S;
    let remedy = if quarters > 0.0 && (seconds - quarters).abs() < 60.0 {
        "; so round a time is one of another zone: give the log's by --utc-offset, or"
    } else {
        "; set both clocks by NTP, or give"
    };
    format!(
        "the log fits the run where its clock is {seconds:.1} s {ahead} the run's{remedy} --clock-offset={lag_s:.1}"
    )
}

/// What is said where the log fits nowhere.
fn nowhere(problem: &Problem<'_>, found: Option<&Found>) -> String {
    let from = problem.curves.iter().map(|curve| curve.start_s).fold(f64::MIN, f64::max);
    let to = problem.curves.iter().map(|curve| curve.end_s()).fold(f64::MAX, f64::min);
    let (first, last) = match (problem.readings.first(), problem.readings.last()) {
        (Some(first), Some(last)) => (first.0, last.0),
        _ => return "the log holds no readings".to_owned(),
    };
    if last < from {
        format!(
            "the log ends {:.0} s before the run begins, and fits at no whole quarter of an hour; give the log of the \
             run's time",
            from - last
        )
    } else if first > to {
        format!(
            "the log begins {:.0} s after the run ends, and fits at no whole quarter of an hour; give the log of the \
             run's time",
            first - to
        )
    } else {
        match found {
            Some(found) => format!(
                "the log does not follow the run: the sensors explain {:.0} % of what it shows, at the best lag. Is it \
                 of this machine, and its column that of the whole machine's power? Its clock may be off by minutes: \
                 --max-lag looks further",
                100.0 * (1.0 - found.unexplained)
            ),
            None => format!(
                "the log and the run have too few readings in common: {} of the log lie within the run",
                problem.n_within(0.0)
            ),
        }
    }
}

/// Refuses a log whose clock goes faster or slower than the run's.
fn no_drift(problem: &Problem<'_>, found: &Found, max_lag_s: f64) -> Result<(), String> {
    let (Some(first), Some(last)) = (problem.readings.first(), problem.readings.last()) else {
        return Ok(());
    };
    let from = problem.curves.iter().map(|curve| curve.start_s).fold(first.0, f64::max);
    let to = problem.curves.iter().map(|curve| curve.end_s()).fold(last.0, f64::min);
    let middle = f64::midpoint(from, to);
    let halves = [(from, middle), (middle, to)];
    let lags = halves.map(|(from, to)| {
        let half = problem.between(from, to);
        half.drifted(found, HALF_S.min(max_lag_s)).map(|half| half.lag_s)
    });
    let [Some(early), Some(late)] = lags else { return Ok(()) };
    let allowed = DRIFT_S.max(problem.cadence_s());
    let drift = late - early;
    if drift.abs() <= allowed {
        return Ok(());
    }
    let (gains, an_hour) =
        (if drift > 0.0 { "gains" } else { "loses" }, drift.abs() / (to - middle) * 3600.0);
    Err(format!(
        "the log's clock {gains} about {an_hour:.1} s an hour against the run's: its lag is {early:.1} s in the first \
         half and {late:.1} s in the second; set both clocks by NTP, or let one machine write the log"
    ))
}
