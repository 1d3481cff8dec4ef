//! The fit of a wall meter's readings to what the sensors said.
//!
//! The model is wall(t) = base + drift·t + Σ kᵢ·sensorᵢ, each sensor's power as a mean over the time that a reading of
//! the wall meter stands for, whose middle lies the lag before it. Lag and averaging time are searched for by the least
//! sum of squares; the rest is linear.
//!
//! What the rest of the machine draws comes and goes slowly, so residuals resemble their neighbours and ordinary errors
//! would be far too small. The readings are cut into blocks that are long against the residuals' correlation time, and
//! the fit is repeated without each of them (delete-a-block jackknife): (g − 1)/g·Σ(θ₋ᵢ − θ)² is the variance, and
//! Student's t for g − 1 degrees of freedom gives the half-width. Lag and response take part in it by their linear terms.
//!
//! # References
//! Künsch, *The Jackknife and the Bootstrap for General Stationary Observations*, Annals of Statistics 17 (1989);
//! Sokal, *Monte Carlo Methods in Statistical Mechanics* (1997), for the window of the correlation time

use crate::books::projection::student;
use crate::calibrate::curve::Curve;
use crate::windows::regression::inverse;

/// Blocks at least and at most.
const MIN_BLOCKS: usize = 5;
const MAX_BLOCKS: usize = 16;
/// A block lasts so many correlation times at least.
const BLOCK_TIMES: f64 = 10.0;
/// Blocks of this length still share a little, and a response is not quite that of any model: without this, 93 intervals
/// in 100 held.
const WIDEN: f64 = 1.2;
/// Averaging times that are tried first.
const AVERAGING_S: [f64; 11] = [0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0];
/// Time constants of a smoothing that are tried first.
const SMOOTHING_S: [f64; 6] = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
/// What a smoothed power is averaged over besides.
const MOMENT_S: f64 = 0.1;
/// A lag is known no better than a curve's step, and this share of the time between two readings.
const LAG_STEP_S: f64 = 0.1;
const LAG_CADENCE: f64 = 0.05;
/// Of lags that fit equally well but for so much, the smallest is taken: a load that repeats itself fits at many.
const ALIKE: f64 = 1.1;
/// What a dip can be deeper than the lags that were tried show, and what two dips may differ by in any case.
const BETWEEN_STEPS: f64 = 0.05;
const ROUNDING: f64 = 1e-4;
/// A lag is tried where it leaves so much of the most readings that any lag does.
const OVERLAP: f64 = 0.6;
/// By so much more than [`ALIKE`] another lag has to leave less of a part of the readings.
const CLEARLY: f64 = 2e-3;

/// A value and the half-width of its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The value.
    pub value: f64,
    /// The half-width.
    pub half_width: f64,
}

/// What came of a fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Watts at the wall for each watt of each sensor.
    pub per_sensor: Vec<Interval>,
    /// Watts at the wall without them, in the middle of the readings.
    pub base_w: Interval,
    /// By how many seconds the middle of what a reading stands for lies before the reading.
    pub lag_s: Interval,
    /// What a reading seems to stand for.
    pub response: Response,
    /// Share of the readings' variance that the sensors explain.
    pub explained: f64,
    /// Standard deviation of what they leave.
    pub residual_w: f64,
    /// For how long what is left resembles itself.
    pub correlation_s: f64,
    /// Readings that were used.
    pub readings: usize,
}

/// What a reading of a wall meter stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Response {
    /// The mean over so many seconds.
    Mean(f64),
    /// Power that is smoothed with a time constant of so many seconds.
    Smooth(f64),
}

/// Why no fit can be made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NoFit {
    /// The columns cannot be told apart.
    Alike,
    /// There are too few readings, or too few blocks of them; so many seconds are needed.
    TooShort {
        /// Seconds that would be long enough.
        needed_s: f64,
    },
}

/// Readings beside curves: all that a fit looks at.
pub(crate) struct Problem<'a> {
    pub(crate) curves: Vec<&'a Curve>,
    /// The run's seconds, and watts, in order.
    pub(crate) readings: &'a [(f64, f64)],
}

/// A lag that was found by search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) lag_s: f64,
    pub(crate) response: Response,
    /// Share of the variance that is left.
    pub(crate) unexplained: f64,
}

impl Problem<'_> {
    /// The usual time between two readings.
    pub(crate) fn cadence_s(&self) -> f64 {
        let mut gaps: Vec<f64> = self.readings.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        gaps.sort_by(f64::total_cmp);
        gaps.get(gaps.len() / 2).copied().unwrap_or(1.0).max(0.05)
    }

    /// The part with the readings from one moment to another.
    pub(crate) fn between(&self, from: f64, to: f64) -> Problem<'_> {
        let at = |t: f64| self.readings.partition_point(|(at, _)| *at < t);
        Problem { curves: self.curves.clone(), readings: &self.readings[at(from)..at(to).max(at(from))] }
    }

    /// The readings whose time, so much before them, lies within all curves.
    fn within(&self, lag: f64, averaging: f64) -> &[(f64, f64)] {
        let half = averaging / 2.0;
        let from = self.curves.iter().map(|curve| curve.start_s).fold(f64::MIN, f64::max) + half + lag;
        let to = self.curves.iter().map(|curve| curve.end_s()).fold(f64::MAX, f64::min) - half + lag;
        let at = |t: f64| self.readings.partition_point(|(at, _)| *at < t);
        &self.readings[at(from)..at(to).max(at(from))]
    }

    /// Whether the curves cannot be told apart, whatever the readings.
    pub(crate) fn are_alike(&self) -> bool {
        let columns = self.curves.len() + 1;
        let mut normal = Normal::new(columns);
        let mut row = vec![1.0; columns];
        let from = self.curves.iter().map(|curve| curve.start_s).fold(f64::MIN, f64::max);
        let to = self.curves.iter().map(|curve| curve.end_s()).fold(f64::MAX, f64::min);
        for second in 0..(to - from).max(0.0) as usize {
            let t = from + second as f64;
            for (x, curve) in row[1..].iter_mut().zip(&self.curves) {
                *x = curve.mean(t, t + 1.0);
            }
            normal.add(&row, 0.0);
        }
        normal.solve().is_none()
    }

    /// How many readings there are for a lag.
    pub(crate) fn n_within(&self, lag: f64) -> usize {
        self.within(lag, self.cadence_s()).len()
    }

    /// The share of the readings' variance that is left at a lag; `None` where too few readings are left.
    pub(crate) fn unexplained(&self, lag: f64, averaging: f64) -> Option<f64> {
        let readings = self.within(lag, averaging);
        let columns = self.curves.len() + 1;
        if readings.len() < 4 * (columns + 1) {
            return None;
        }
        let half = averaging / 2.0;
        if let [curve] = self.curves[..] {
            return one_unexplained(
                readings.iter().map(|(t, y)| (curve.mean(t - lag - half, t - lag + half), *y)),
            );
        }
        let mut normal = Normal::new(columns);
        let mut row = vec![1.0; columns];
        for (t, watts) in readings {
            for (x, curve) in row[1..].iter_mut().zip(&self.curves) {
                *x = curve.mean(t - lag - half, t - lag + half);
            }
            normal.add(&row, *watts);
        }
        let beta = normal.solve()?;
        let n = readings.len() as f64;
        let variance = normal.squares - normal.right[0].powi(2) / n;
        let left = normal.squares - beta.iter().zip(&normal.right).map(|(b, r)| b * r).sum::<f64>();
        (variance > 0.0).then(|| (left / variance).clamp(0.0, 1.0))
    }

    /// The lag from `low` to `high` that fits best; `None` where none can be tried.
    pub(crate) fn search(&self, low: f64, high: f64) -> Option<Found> {
        let (lag, step) = self.coarse(low, high, 0.0)?;
        self.refine(lag, 1.5 * step)
    }

    /// The lag no further than `width` from one that was found for more readings than these, for a meter that responds as
    /// was found. It is that one where no other fits these readings clearly better.
    pub(crate) fn drifted(&self, found: &Found, width: f64) -> Option<Found> {
        let (lag, step) = self.coarse(found.lag_s - width, found.lag_s + width, found.lag_s)?;
        let other = self.with_response(lag, 1.5 * step, found.response, 0.02)?;
        let same = self.with_response(found.lag_s, 0.05, found.response, 0.05)?;
        let is_better = same.unexplained > ALIKE * other.unexplained + CLEARLY;
        Some(if is_better { other } else { same })
    }

    /// A lag near the best one, and how near. Of several that fit alike it is the one nearest to `expected`.
    fn coarse(&self, low: f64, high: f64, expected: f64) -> Option<(f64, f64)> {
        let cadence = self.cadence_s();
        let step = (cadence / 2.0).clamp(0.25, 1.0).min((high - low) / 8.0);
        let n = ((high - low) / step).round() as usize;
        let lags: Vec<f64> = (0..=n).map(|i| low + (high - low) * i as f64 / n as f64).collect();
        // Where few readings are left, anything fits them.
        let most = lags.iter().map(|lag| self.n_within(*lag)).max()?;
        let is_tried = |lag: f64| self.n_within(lag) as f64 >= OVERLAP * most as f64;
        let tried: Vec<Option<f64>> =
            lags.iter().map(|lag| self.unexplained(*lag, cadence).filter(|_| is_tried(*lag))).collect();
        let least = tried.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        let at = |i: usize| tried.get(i).copied().flatten().unwrap_or(f64::INFINITY);
        let is_dip = |i: &usize| {
            let before = if *i == 0 { f64::INFINITY } else { at(i - 1) };
            at(*i) <= before && at(*i) <= at(i + 1) && at(*i) <= ALIKE * least + BETWEEN_STEPS
        };
        // A dip may lie between two of the lags that were tried.
        let response = Response::Mean(cadence);
        let dips = (0..=n).filter(is_dip);
        let refined: Vec<Found> =
            dips.filter_map(|i| self.with_response(lags[i], step, response, 0.02)).collect();
        let least = refined.iter().map(|found| found.unexplained).fold(f64::INFINITY, f64::min);
        let alike = refined.iter().filter(|found| found.unexplained <= ALIKE * least + ROUNDING);
        let apart = |found: &Found| (found.lag_s - expected).abs();
        let nearest = alike.min_by(|a, b| apart(a).total_cmp(&apart(b)))?;
        Some((nearest.lag_s, step))
    }

    /// The best lag and response near a lag.
    fn refine(&self, lag: f64, step: f64) -> Option<Found> {
        let most = 4.0 * self.cadence_s().max(1.0);
        let tried = |responses: &mut dyn Iterator<Item = Response>| -> Vec<Found> {
            let responses = responses.filter(|response| response.seconds() <= most);
            responses.filter_map(|response| self.with_response(lag, step, response, 0.1)).collect()
        };
        let means = tried(&mut AVERAGING_S.into_iter().map(Response::Mean));
        let smooths = tried(&mut SMOOTHING_S.into_iter().map(Response::Smooth));
        let all = means.iter().chain(&smooths);
        let least = all.map(|found| found.unexplained).fold(f64::INFINITY, f64::min);
        let dips = [first_dip(&means, least), first_dip(&smooths, least)].into_iter().flatten();
        let best = dips.min_by(|a, b| a.unexplained.total_cmp(&b.unexplained))?;
        let around = |seconds: f64| {
            let response = best.response.of(seconds);
            self.with_response(best.lag_s, 0.3 * step, response, 0.01)
        };
        let unexplained = |seconds: f64| around(seconds).map_or(f64::INFINITY, |found| found.unexplained);
        let seconds = best.response.seconds();
        let seconds = golden(0.5 * seconds, 2.0 * seconds, 0.05 * seconds, unexplained);
        around(seconds).filter(|found| found.unexplained <= best.unexplained).or(Some(best))
    }

    /// The best lag near one, of a meter that responds so.
    fn with_response(&self, lag: f64, step: f64, response: Response, tolerance: f64) -> Option<Found> {
        let (shaped, averaging, shift) = self.shaped(response);
        let problem = Problem { curves: shaped.iter().collect(), readings: self.readings };
        let problem = if shaped.is_empty() { self } else { &problem };
        let unexplained = |lag: f64| problem.unexplained(lag - shift, averaging);
        let lag_s =
            golden(lag - step, lag + step, tolerance, |lag| unexplained(lag).unwrap_or(f64::INFINITY));
        Some(Found { lag_s, response, unexplained: unexplained(lag_s)? })
    }

    /// What the curves are replaced by for a response (nothing where they stay), what they are then averaged over, and by
    /// how much that shifts the lag.
    fn shaped(&self, response: Response) -> (Vec<Curve>, f64, f64) {
        match response {
            Response::Mean(seconds) => (Vec::new(), seconds, 0.0),
            Response::Smooth(seconds) => {
                (self.curves.iter().map(|curve| curve.smoothed(seconds)).collect(), MOMENT_S, seconds)
            }
        }
    }

    /// The fit at a lag, with intervals.
    ///
    /// # Errors
    /// If the readings do not allow one.
    pub(crate) fn fit(&self, found: &Found) -> Result<Fitted, NoFit> {
        let (shaped, averaging_s, shift) = self.shaped(found.response);
        let problem = Problem { curves: shaped.iter().collect(), readings: self.readings };
        let problem = if shaped.is_empty() { self } else { &problem };
        problem.fit_mean(found, averaging_s, shift)
    }

    fn fit_mean(&self, found: &Found, averaging_s: f64, shift: f64) -> Result<Fitted, NoFit> {
        let lag_s = found.lag_s - shift;
        let half = averaging_s / 2.0;
        let h = (averaging_s / 4.0).max(0.1);
        // The columns of lag and response need powers a little before and after.
        let wider = (0.25 * found.response.seconds()).max(0.1);
        let margin = averaging_s + 2.0 * h.max(wider);
        let readings = self.within(lag_s, margin);
        let k = self.curves.len();
        let columns = k + 4;
        let cadence = self.cadence_s();
        let too_short = |seconds: f64| NoFit::TooShort { needed_s: seconds };
        if readings.len() < 4 * MIN_BLOCKS * columns {
            return Err(too_short(cadence * (4 * MIN_BLOCKS * columns) as f64));
        }
        let (first, last) = (readings[0].0, readings[readings.len() - 1].0);
        let middle = f64::midpoint(first, last);
        let scale = (last - first).max(1.0) / 2.0;
        let mean = |curve: &Curve, t: f64| curve.mean(t - half, t + half);
        let plain = |t: f64| -> Vec<f64> {
            let powers = self.curves.iter().map(|curve| mean(curve, t - lag_s));
            [1.0, (t - middle) / scale].into_iter().chain(powers).collect()
        };
        let plain_rows: Vec<(Vec<f64>, f64)> =
            readings.iter().map(|(t, watts)| (plain(*t), *watts)).collect();
        let beta = Normal::of(k + 2, &plain_rows).solve().ok_or(NoFit::Alike)?;
        // What a second more of lag would change.
        let by_lag = |t: f64| -> f64 {
            let slope =
                |curve: &&Curve| (mean(curve, t - lag_s - h) - mean(curve, t - lag_s + h)) / (2.0 * h);
            self.curves.iter().zip(&beta[2..]).map(|(curve, k)| k * slope(curve)).sum()
        };
        // What an averaging that is longer by so much would change. The response of a meter is not known; with this column,
        // what is wrong with it at first order does not lean on the gains.
        let by_width = |t: f64| -> f64 {
            let change = |curve: &&Curve| {
                curve.mean(t - lag_s - half - wider, t - lag_s + half + wider) - mean(curve, t - lag_s)
            };
            self.curves.iter().zip(&beta[2..]).map(|(curve, k)| k * change(curve)).sum()
        };
        let mut rows = plain_rows;
        for ((row, _), (t, _)) in rows.iter_mut().zip(readings) {
            row.extend([by_lag(*t), by_width(*t)]);
        }
        let (lag_column, width_column) = (k + 2, k + 3);
        let mut whole = Normal::of(columns, &rows);
        // Without a reading near a change, nothing tells the two.
        for column in [lag_column, width_column] {
            whole.matrix[column][column] += 1e-3;
        }
        let beta = whole.solve().ok_or(NoFit::Alike)?;
        let dot = |row: &[f64]| row.iter().zip(&beta).map(|(x, b)| x * b).sum::<f64>();
        let residuals: Vec<f64> = rows.iter().map(|(row, watts)| watts - dot(row)).collect();
        let correlation = correlation(&residuals);
        let blocks = ((rows.len() as f64 / (BLOCK_TIMES * correlation)) as usize).min(MAX_BLOCKS);
        if blocks < MIN_BLOCKS {
            return Err(too_short(cadence * correlation * BLOCK_TIMES * MIN_BLOCKS as f64));
        }
        let mut squares = vec![0.0; columns];
        for block in 0..blocks {
            let range = rows.len() * block / blocks..rows.len() * (block + 1) / blocks;
            let without = whole.without(&Normal::of(columns, &rows[range]));
            let without = without.solve().ok_or(NoFit::Alike)?;
            for (square, (one, all)) in squares.iter_mut().zip(without.iter().zip(&beta)) {
                *square += (one - all).powi(2);
            }
        }
        let g = blocks as f64;
        let t = student(blocks - 1);
        let interval = |column: usize, value: f64| Interval {
            value,
            half_width: WIDEN * t * ((g - 1.0) / g * squares[column]).sqrt(),
        };
        let lag = interval(lag_column, found.lag_s + beta[lag_column]);
        let least = LAG_STEP_S + LAG_CADENCE * cadence;
        let variance = residuals.iter().map(|r| r * r).sum::<f64>() / (rows.len() - columns) as f64;
        Ok(Fitted {
            per_sensor: (0..k).map(|i| interval(i + 2, beta[i + 2])).collect(),
            base_w: interval(0, beta[0]),
            lag_s: Interval { half_width: lag.half_width.hypot(least), ..lag },
            response: found.response,
            explained: 1.0 - found.unexplained,
            residual_w: variance.sqrt(),
            correlation_s: correlation * cadence,
            readings: rows.len(),
        })
    }
}

impl Response {
    /// Its one number.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Mean(seconds) | Self::Smooth(seconds) => seconds,
        }
    }

    /// The same with another number.
    fn of(self, seconds: f64) -> Self {
        match self {
            Self::Mean(_) => Self::Mean(seconds),
            Self::Smooth(_) => Self::Smooth(seconds),
        }
    }
}

/// The shortest of responses that fits better than its neighbours and nearly as well as any. A load that repeats itself
/// looks alike over a response and over one that is longer by its period.
fn first_dip(tried: &[Found], least: f64) -> Option<Found> {
    let at = |i: usize| tried.get(i).map_or(f64::INFINITY, |found| found.unexplained);
    let is_dip = |i: &usize| {
        let before = if *i == 0 { f64::INFINITY } else { at(i - 1) };
        at(*i) <= before && at(*i) <= at(i + 1) && at(*i) <= 2.0 * least + CLEARLY
    };
    (0..tried.len()).find(is_dip).map(|i| tried[i])
}

/// Where a function is least between two places, by golden sections.
fn golden(mut low: f64, mut high: f64, tolerance: f64, at: impl Fn(f64) -> f64) -> f64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let (mut a, mut b) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut at_a, mut at_b) = (at(a), at(b));
    while high - low > tolerance {
        if at_a <= at_b {
            (high, b, at_b) = (b, a, at_a);
            a = high - GOLDEN * (high - low);
            at_a = at(a);
        } else {
            (low, a, at_a) = (a, b, at_b);
            b = low + GOLDEN * (high - low);
            at_b = at(b);
        }
    }
    f64::midpoint(low, high)
}

/// The share of the variance that one column leaves.
fn one_unexplained(pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (mut n, mut x, mut y, mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for (a, b) in pairs {
        n += 1.0;
        x += a;
        y += b;
        xx += a * a;
        xy += a * b;
        yy += b * b;
    }
    let (xx, xy, yy) = (xx - x * x / n, xy - x * y / n, yy - y * y / n);
    (xx > 1e-9 && yy > 0.0).then(|| (1.0 - xy * xy / (xx * yy)).clamp(0.0, 1.0))
}

/// The sums that a least-squares fit needs.
struct Normal {
    matrix: Vec<Vec<f64>>,
    right: Vec<f64>,
    /// Sum of the squares of what is fitted.
    squares: f64,
}

impl Normal {
    fn new(columns: usize) -> Self {
        Self { matrix: vec![vec![0.0; columns]; columns], right: vec![0.0; columns], squares: 0.0 }
    }

    fn of(columns: usize, rows: &[(Vec<f64>, f64)]) -> Self {
        let mut normal = Self::new(columns);
        rows.iter().for_each(|(row, y)| normal.add(row, *y));
        normal
    }

    fn add(&mut self, row: &[f64], y: f64) {
        self.squares += y * y;
        for (i, x) in row.iter().enumerate() {
            self.right[i] += x * y;
            for (sum, other) in self.matrix[i].iter_mut().zip(row) {
                *sum += x * other;
            }
        }
    }

    /// The sums without a part of the rows.
    fn without(&self, part: &Self) -> Self {
        let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
        Self {
            matrix: self.matrix.iter().zip(&part.matrix).map(|(a, b)| minus(a, b)).collect(),
            right: minus(&self.right, &part.right),
            squares: self.squares - part.squares,
        }
    }

    /// The coefficients; `None` if the columns cannot be told apart.
    fn solve(&self) -> Option<Vec<f64>> {
        // Columns of like size, so that a pivot tells whether they are alike.
        let scale: Vec<f64> =
            (0..self.right.len()).map(|i| self.matrix[i][i].sqrt().max(f64::MIN_POSITIVE)).collect();
        let scaled = self.matrix.iter().zip(&scale);
        let scaled = scaled.map(|(row, a)| row.iter().zip(&scale).map(|(x, b)| x / (a * b)).collect());
        let inverse = inverse(scaled.collect())?;
        let right: Vec<f64> = self.right.iter().zip(&scale).map(|(r, s)| r / s).collect();
        let solved = inverse.iter().zip(&scale);
        Some(solved.map(|(row, s)| row.iter().zip(&right).map(|(a, b)| a * b).sum::<f64>() / s).collect())
    }
}

/// For how many readings residuals resemble each other: 1 + 2·Σρ, summed up to five times itself.
fn correlation(residuals: &[f64]) -> f64 {
    let n = residuals.len();
    let power: f64 = residuals.iter().map(|r| r * r).sum::<f64>().max(f64::MIN_POSITIVE);
    let mut time = 1.0;
    for lag in 1..n / 4 {
        let product: f64 = residuals.iter().zip(&residuals[lag..]).map(|(a, b)| a * b).sum();
        time += 2.0 * product / power;
        if lag as f64 > 5.0 * time {
            break;
        }
    }
    time.max(1.0)
}
