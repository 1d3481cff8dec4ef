//! The three figures of a stretch's energy, each with what it may be off by.
//!
//! Every half-width is of the random error, at 95 %. Sums over independent errors go in quadrature; where an
//! error is known by its bound alone, the bound stands for the half-width.
//!
//! **The counter** moves every τ and shows the energy up to its last step. At an edge where P is drawn it lags by
//! P·u, with u even between 0 and τ. The difference of the end's lag and the start's has the mean
//! (Pₑ − Pₛ)·τ/2 and the variance τ²·(Pₑ² + Pₛ²)/12, so that its half-width is
//! |Pₑ − Pₛ|·τ/2 + 1.96·τ·√((Pₑ² + Pₛ²)/12): for steady power the familiar P·τ·1.96/√6. P is the highest power
//! read near the edge, since a mean would miss that an edge fell into a burst. A sensor that tells no power has
//! the counter's own slope there; within a step it may draw more, and half as much again is allowed for.
//!
//! **The integral of instant power** sees a short window once an update U (25 ms of 100 ms on data-centre
//! boards). Three errors are independent:
//! - *Between updates.* Readings p₁, p₂, … each stand for a time U. For power without memory from one update to
//!   the next, the error's variance is s²·U² an update and the mean of (pₖ₊₁ − pₖ)² is 2·s²; so the variance is
//!   taken as U²/2·Σ(pₖ₊₁ − pₖ)². For power that the updates resolve it is six times less, U²/12, and the
//!   interval too wide.
//! - *Beats.* A load whose period is near U, or near U over a whole number, shows as a slow oscillation that it
//!   does not have. A part of one such swing can be off by s·T/(2·n) for n turns in the time T, which is a quarter
//!   of a swing's area: no sensor of this kind can tell the two apart.
//! - *Edges.* What is read is up to U old: U times the range of power near the edge.
//!
//! A load that keeps step with the updates *exactly* looks steady. No width follows from such readings; it shows
//! only where a counter or an average stands beside them, as `disagree`. This is why the integral of instant
//! power comes last.
//!
//! **The integral of one-second averages** sees all of the time and cannot beat. Shifted by its delay it is the
//! energy, smeared by half a second: between powers l and h within reach of an edge, at most (h − l)/8 · 1 s; as
//! much again where the half second after the end has not been read yet. The bound (h − l)·¼ s is taken, or ½ s
//! where the averages themselves are all that tells l and h, and on top 50 ms at the power drawn, for the shift.
//!
//! All: an edge between two readings, at times a and b from them, adds the range of power there times
//! a·b/(a+b); a gap of length g adds g/2 times the range of power, of which half the mean is taken for granted;
//! and a reading in whole milliwatts or millijoules is known no better than that. What was not observed at all adds
//! the device's power limit, or the highest power ever read, times its length.
//!
//! # References
//! Yang, Adamek, Armour, *Part-time Power Measurements* (2024), for windows and updates; NVML API Reference,
//! `nvmlDeviceGetPowerUsage`, for the average's span

use wattle_runlog::{Joules, Seconds, Watts};

use crate::readings::order::{max, min};
use crate::sensors::sensor::{Channels, PowerSource};
use crate::windows::stretch::{EdgePower, SLOWEST_UPDATE, Stretch};

/// From a standard deviation to a 95 % half-width.
pub(crate) const HALF_WIDTH: f64 = 1.96;

/// What the delay of an averaged reading is uncertain by.
const DELAY_ERROR: Seconds = Seconds(0.05);

/// Power is read in whole milliwatts, energy in whole millijoules.
const POWER_RESOLUTION: Watts = Watts(1e-3);
const ENERGY_RESOLUTION: Joules = Joules(1e-3);

/// How much more than a counter's slope may be drawn within one of its steps, where power is not told.
const WITHIN_STEP: f64 = 1.5;

/// An energy and what it may be off by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The energy.
    pub energy: Joules,
    /// 95 % half-width of its random error.
    pub half_width: Joules,
}

/// What a stretch's energy is, by each way that there is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// By the hardware counter.
    pub counter: Option<Figure>,
    /// By one-second averages.
    pub average: Option<Figure>,
    /// By instant power.
    pub integral: Option<Figure>,
}

impl Figures {
    /// The figures of a stretch by a sensor with these channels.
    pub fn of(stretch: &Stretch, channels: Channels) -> Self {
        let counter = stretch
            .counter
            .map(|energy| Figure { energy, half_width: counter_half_width(energy, stretch, channels) });
        let integral = stretch.integral.map(|energy| {
            let half_width = match channels.power {
                Some(PowerSource::Average) => average_half_width(energy, stretch, 0.5),
                _ => instant_half_width(stretch),
            };
            Figure { energy, half_width }
        });
        let average = stretch
            .average
            .map(|energy| Figure { energy, half_width: average_half_width(energy, stretch, 0.25) });
        Self { counter, average, integral }
    }

    /// The better of those that come from power: what sees all of the time.
    pub fn by_power(&self) -> Option<Figure> {
        self.average.or(self.integral)
    }
}

/// What figures that all come from power say together, weighed by their errors; `None` where there is none. Of three, one
/// that agrees with neither of the others is refused. They share their sensor, so together they are known no better
/// than the best of them, and no better than they agree.
pub(crate) fn together(
    figures: [Option<Figure>; 3],
    agree: impl Fn(&Figure, &Figure) -> bool,
) -> Option<Figure> {
    let known: Vec<Figure> = figures.into_iter().flatten().collect();
    let supported =
        |figure: &&Figure| known.len() < 3 || known.iter().filter(|other| agree(figure, other)).count() > 1;
    let kept: Vec<&Figure> = known.iter().filter(supported).collect();
    let kept = if kept.is_empty() { known.iter().collect() } else { kept };
    let best = kept.iter().map(|figure| figure.half_width).reduce(min)?;
    let weight = |figure: &Figure| 1.0 / figure.half_width.get().max(1e-6).powi(2);
    let weights: f64 = kept.iter().map(|figure| weight(figure)).sum();
    let energy = kept.iter().map(|figure| figure.energy.get() * weight(figure)).sum::<f64>() / weights;
    let apart = kept.iter().map(|figure| Joules((figure.energy.get() - energy).abs())).reduce(max)?;
    Some(Figure { energy: Joules(energy), half_width: max(best, apart) })
}

/// Those of independent errors that are known, together; `None` where none is.
pub(crate) fn known_quadrature(errors: impl IntoIterator<Item = Option<Joules>>) -> Option<Joules> {
    let known: Vec<_> = errors.into_iter().flatten().collect();
    (!known.is_empty()).then(|| quadrature(known))
}

/// Independent errors together.
pub(crate) fn quadrature(errors: impl IntoIterator<Item = Joules>) -> Joules {
    Joules(errors.into_iter().map(|error| error.get().powi(2)).sum::<f64>().sqrt())
}

fn counter_half_width(energy: Joules, stretch: &Stretch, channels: Channels) -> Joules {
    let allowed = if channels.power.is_none() { WITHIN_STEP } else { 1.0 };
    let step = stretch.counter_step.unwrap_or(SLOWEST_UPDATE);
    let mean = if stretch.duration > Seconds::ZERO { energy / stretch.duration } else { Watts::ZERO };
    let drawn = |edge: &EdgePower| edge.close.high.get().max(mean.get()) * allowed;
    let (at_start, at_end) = (drawn(&stretch.at_start), drawn(&stretch.at_end));
    let lean = (at_end - at_start).abs() * 0.5;
    let spread = HALF_WIDTH * ((at_start.powi(2) + at_end.powi(2)) / 12.0).sqrt();
    let [start, end] = between_readings(stretch);
    quadrature([Watts(lean + spread) * step, start, end, ENERGY_RESOLUTION])
}

fn instant_half_width(stretch: &Stretch) -> Joules {
    let swing = &stretch.swing;
    let update = stretch.update;
    let between_updates = swing.steps * update * (HALF_WIDTH / 2f64.sqrt());
    let beat = swing.deviation * stretch.duration * (0.7 / f64::from(swing.turns.max(1)));
    let lag = |edge: &EdgePower| edge.close.width() * update;
    let [start, end] = between_readings(stretch);
    let edges = [lag(&stretch.at_start), lag(&stretch.at_end), start, end];
    let resolution = POWER_RESOLUTION * stretch.duration;
    quadrature([between_updates, beat, in_gaps(stretch), resolution].into_iter().chain(edges))
}

/// `smear_s` is what the range of power at an edge is smeared by.
fn average_half_width(energy: Joules, stretch: &Stretch, smear_s: f64) -> Joules {
    let mean = if stretch.duration > Seconds::ZERO { energy / stretch.duration } else { Watts::ZERO };
    let edge = |edge: &EdgePower| {
        let shift = Watts(edge.wide.high.get().max(mean.get())) * DELAY_ERROR;
        edge.wide.width() * Seconds(smear_s) + shift
    };
    let [start, end] = between_readings(stretch);
    let resolution = POWER_RESOLUTION * stretch.duration;
    let edges = [edge(&stretch.at_start), edge(&stretch.at_end), start, end];
    quadrature([in_gaps(stretch), resolution].into_iter().chain(edges))
}

/// What interpolating at each edge may be off by: the least that can be drawn up to it, and then the most.
fn between_readings(stretch: &Stretch) -> [Joules; 2] {
    [&stretch.at_start, &stretch.at_end].map(|edge| edge.close.width() * edge.apart)
}

/// What may have been drawn within gaps.
fn in_gaps(stretch: &Stretch) -> Joules {
    let range = stretch.swing.range;
    let taken = (range.high + range.low) * 0.25;
    let doubt = if taken > range.width() { taken } else { range.width() };
    doubt * stretch.gaps * 0.5
}
