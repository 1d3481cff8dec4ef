//! A window's energy by what the run was doing.
//!
//! Three ways, each for the phases that it fits:
//!
//! - **measured**: a phase all of whose spans last many updates of the sensors has readings of its own. Each span
//!   may be off by the power around it times the update, at either end.
//! - **regression**: phases of milliseconds follow each other in every step. Cut into short pieces, the window
//!   holds them in mixes that vary, and least squares finds the power of each. Moments
//!   are known to an update only, so the fit is made three times, with spans moved by half of one, either way;
//!   what that changes is added to the half-width. It is taken where it says more than time does.
//! - **time share**: the same power in all phases. The half-width is what the readings allow: no phase draws less
//!   than nothing, or more than the highest power read. Where the mean is above that reading, readings missed the
//!   peaks, and the mean with its error takes its place.
//!
//! Phases that share what the measured ones leave of the window also share its error: the window's own, and those
//! of what was taken off.
//!
//! Where a checkpoint is written while steps are made, spans overlap and say so: each has half of the time that they
//! share. A phase with such spans has no readings of its own.
//!
//! What no span covers is other. The phases add up to the window's energy; the method of a record is the weakest
//! of its phases'.

use std::collections::BTreeMap;

use wattle_runlog::record::{PhaseJoules, PhasesMethod};
use wattle_runlog::{Joules, MonotonicNs, Phase, Seconds, Span, Watts};

use crate::readings::order::{max, min};
use crate::windows::figure::{HALF_WIDTH, quadrature};
use crate::windows::regression::fit;
use crate::windows::window::WindowEnergy;

/// A span of so many updates is long enough to be measured by itself.
const LONG_SPAN: f64 = 10.0;

/// A piece of the window that goes into the regression lasts so many updates.
const PIECE: f64 = 2.0;

/// Fewer pieces tell nothing.
const MIN_PIECES: usize = 30;

/// A smaller share of the window is what rounding leaves.
const NO_TIME: f64 = 1e-9;

/// A window's energy by phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribution {
    /// Energy; together it is the window's.
    pub joules: PhaseJoules,
    /// 95 % half-widths.
    pub half_widths: PhaseJoules,
    /// How each phase that took time was arrived at.
    pub methods: BTreeMap<Phase, PhasesMethod>,
}

impl Attribution {
    /// The weakest of the methods; `None` where no span was given.
    pub fn method(&self) -> Option<PhasesMethod> {
        self.methods.values().fold(None, |weakest, method| PhasesMethod::weakest(weakest, Some(*method)))
    }
}

/// A phase and what is known of it.
#[derive(Clone, Copy)]
struct Part {
    energy: Joules,
    half_width: Joules,
    method: PhasesMethod,
}

/// Divides the window's energy among the phases of `spans`.
///
/// Only spans of `segment` count, and of each the part that lies in the window. Where spans overlap by the error
/// of device times, they are scaled to fit.
pub fn attribute(window: &WindowEnergy, segment: u32, spans: &[Span]) -> Attribution {
    let of = |overlaps: bool| -> Vec<Piece> {
        let counts =
            |span: &&Span| span.segment == segment && span.phase != Phase::Other && span.overlaps == overlaps;
        spans.iter().filter(counts).filter_map(|span| Piece::inside(span, window)).collect()
    };
    let spans = shared(of(false), of(true));
    let times = times(&spans, window.start, window.end, 0);
    let mut parts = measured(window, &spans, &times);
    let left: Vec<Phase> = Phase::ALL
        .into_iter()
        .filter(|phase| times[index(*phase)] > window.duration() * NO_TIME && !parts.contains_key(phase))
        .collect();
    let known: Joules = parts.values().map(|part| part.energy).sum();
    let error = quadrature(parts.values().map(|part| part.half_width).chain(window.uncertainty));
    let rest = Rest { energy: positive(window.energy - known), error };
    let shared = time_share(window, rest, &times, &left);
    let fitted = regression(window, &spans, rest, &times, &left);
    // All of them or none: what is taken from one phase goes to another.
    let worth =
        |parts: &BTreeMap<Phase, Part>| -> f64 { parts.values().map(|part| part.half_width.get()).sum() };
    let mut divided = fitted.filter(|fitted| worth(fitted) < worth(&shared)).unwrap_or(shared);
    divided.values_mut().for_each(|part| part.half_width = rest.widen(part));
    parts.extend(divided);
    settle(window.energy, parts)
}

/// What the measured phases leave of the window.
#[derive(Clone, Copy)]
struct Rest {
    energy: Joules,
    /// 95 % half-width.
    error: Joules,
}

impl Rest {
    /// The half-width of a part of the rest that is known but for the rest's own error.
    fn widen(&self, part: &Part) -> Joules {
        let share = if self.energy > Joules::ZERO { part.energy / self.energy } else { 0.0 };
        quadrature([part.half_width, self.error * share])
    }

    /// The highest power that it can have been drawn at within `time`.
    fn highest(&self, time: Seconds, read: Watts) -> Watts {
        // Without a reading of power, all of it may have gone into any phase.
        if read <= Watts::ZERO || time <= Seconds::ZERO {
            return Watts(f64::INFINITY);
        }
        let mean = (self.energy + self.error) / time;
        if self.energy / time > read { mean } else { read }
    }
}

/// A span within the window.
#[derive(Clone, Copy)]
struct Piece {
    phase: Phase,
    start: MonotonicNs,
    end: MonotonicNs,
    /// How much of its time is its own.
    share: f64,
}

impl Piece {
    fn inside(span: &Span, window: &WindowEnergy) -> Option<Self> {
        let (start, end) = (span.start_ns.max(window.start), span.end_ns.min(window.end));
        (start < end).then_some(Self { phase: span.phase, start, end, share: 1.0 })
    }

    /// Moved by `ns`.
    fn moved(&self, ns: i64) -> Self {
        let moved = |t: MonotonicNs| MonotonicNs(t.0.saturating_add_signed(ns));
        Self { start: moved(self.start), end: moved(self.end), ..*self }
    }
}

/// Spans of which `beside` were at the same time as others: each is cut where another begins or ends, and what two have
/// together is half of each. Those `beside` do not overlap each other.
fn shared(mut others: Vec<Piece>, mut beside: Vec<Piece>) -> Vec<Piece> {
    if beside.is_empty() {
        return others;
    }
    others.sort_by_key(|piece| piece.start);
    beside.sort_by_key(|piece| piece.start);
    let mut pieces = Vec::with_capacity(others.len() + 2 * beside.len());
    let mut keep = |piece: &Piece, start, end, share| {
        if start < end {
            pieces.push(Piece { start, end, share, ..*piece });
        }
    };
    // What is left of the spans beside: each loses what the others have in common with it.
    let mut open = beside.into_iter().peekable();
    for other in others {
        let mut from = other.start;
        while let Some(piece) = open.peek_mut().filter(|piece| piece.start < other.end) {
            keep(piece, piece.start, piece.end.min(from), 1.0);
            keep(&other, from, piece.start, 1.0);
            let (start, end) = (piece.start.max(from), piece.end.min(other.end));
            keep(piece, start, end, 0.5);
            keep(&other, start, end, 0.5);
            from = from.max(end);
            piece.start = piece.start.max(end);
            if piece.start < piece.end {
                break;
            }
            open.next();
        }
        keep(&other, from, other.end, 1.0);
    }
    open.for_each(|piece| keep(&piece, piece.start, piece.end, 1.0));
    pieces
}

fn index(phase: Phase) -> usize {
    Phase::ALL.iter().position(|other| *other == phase).unwrap_or(Phase::ALL.len() - 1)
}

/// Time in each phase from `start` to `end`, spans moved by `ns`; what no span covers is other.
fn times(spans: &[Piece], start: MonotonicNs, end: MonotonicNs, ns: i64) -> [Seconds; Phase::ALL.len()] {
    let mut times = [Seconds::ZERO; Phase::ALL.len()];
    for span in spans.iter().map(|span| span.moved(ns)) {
        times[index(span.phase)] += span.end.min(end).since(span.start.max(start)) * span.share;
    }
    let covered: Seconds = times.into_iter().sum();
    let duration = end.since(start);
    if covered > duration {
        let fit = duration / covered;
        times.iter_mut().for_each(|time| *time = *time * fit);
    } else {
        times[index(Phase::Other)] = duration - covered;
    }
    times
}

/// Phases all of whose spans are long.
fn measured(window: &WindowEnergy, spans: &[Piece], times: &[Seconds]) -> BTreeMap<Phase, Part> {
    let profile = &window.profile;
    let long = profile.resolution * LONG_SPAN;
    let mut parts = BTreeMap::new();
    if profile.moments.is_empty() {
        return parts;
    }
    for phase in Phase::ALL.into_iter().filter(|phase| *phase != Phase::Other) {
        let own: Vec<_> = spans.iter().filter(|span| span.phase == phase).collect();
        let is_own = |span: &&Piece| span.share >= 1.0 && span.end.since(span.start) >= long;
        if own.is_empty() || !own.iter().all(is_own) {
            continue;
        }
        let energy = own.iter().map(|span| profile.between(span.start, span.end)).sum();
        let edges = (2.0 * own.len() as f64).sqrt();
        let half_width = profile.highest * profile.resolution * edges;
        parts.insert(phase, Part { energy, half_width, method: PhasesMethod::Measured });
    }
    // A window that is one phase from end to end needs no other to be told from it.
    let alone = Phase::ALL.into_iter().find(|phase| times[index(*phase)] >= window.duration());
    if let Some(phase) = alone.filter(|_| window.duration() > Seconds::ZERO) {
        let (energy, half_width) = (window.energy, window.uncertainty.unwrap_or_default());
        parts = BTreeMap::from([(phase, Part { energy, half_width, method: PhasesMethod::Measured })]);
    }
    parts
}

/// The same power in each of `left`.
fn time_share(window: &WindowEnergy, rest: Rest, times: &[Seconds], left: &[Phase]) -> BTreeMap<Phase, Part> {
    let whole: Seconds = left.iter().map(|phase| times[index(*phase)]).sum();
    let highest = rest.highest(whole, window.profile.highest);
    let rest = rest.energy;
    let part = |phase: &Phase| {
        let time = times[index(*phase)];
        let energy = if whole > Seconds::ZERO { rest * (time / whole) } else { Joules::ZERO };
        let at_most = |time: Seconds| if time > Seconds::ZERO { highest * time } else { Joules::ZERO };
        let most = min(rest, at_most(time));
        let least = positive(rest - at_most(whole - time));
        let half_width = max(positive(most - energy), positive(energy - least));
        (*phase, Part { energy, half_width, method: PhasesMethod::TimeShare })
    };
    left.iter().map(part).collect()
}

/// Powers of `left` by least squares over short pieces; `None` where the pieces do not tell them.
fn regression(
    window: &WindowEnergy,
    spans: &[Piece],
    rest: Rest,
    times: &[Seconds],
    left: &[Phase],
) -> Option<BTreeMap<Phase, Part>> {
    let half_update = (window.profile.resolution.get() * 0.5e9) as i64;
    let fits = [0, half_update, -half_update].map(|ns| fit(&rows(window, spans, left, ns)));
    let [Some(middle), Some(later), Some(earlier)] = fits else { return None };
    let energy = |beta: &[f64], i: usize| Watts(beta[i].max(0.0)) * times[index(left[i])];
    let whole: Joules = (0..left.len()).map(|i| energy(&middle.beta, i)).sum();
    // The fit need not add up to the rest exactly.
    let scale = if whole > Joules::ZERO { rest.energy / whole } else { return None };
    let part = |i: usize| {
        let moved =
            [&later, &earlier].map(|fit| (energy(&fit.beta, i) - energy(&middle.beta, i)).get().abs());
        let random = Watts(middle.deviation[i] * HALF_WIDTH) * times[index(left[i])];
        let half_width = random + Joules(moved[0].max(moved[1]));
        (
            left[i],
            Part { energy: energy(&middle.beta, i) * scale, half_width, method: PhasesMethod::Regression },
        )
    };
    Some((0..left.len()).map(part).collect())
}

/// Pieces of the window that hold nothing but `left`: the time of each phase, and the energy.
fn rows(window: &WindowEnergy, spans: &[Piece], left: &[Phase], ns: i64) -> Vec<(Vec<f64>, f64)> {
    let profile = &window.profile;
    let least = profile.resolution * PIECE;
    let mut rows = Vec::new();
    let mut spans: Vec<_> = spans.iter().map(|span| span.moved(ns)).collect();
    spans.sort_by_key(|span| span.start);
    let mut from = 0;
    let mut begin: Option<(MonotonicNs, Joules)> = None;
    for (t, energy) in profile.moments.iter().copied() {
        let Some((start, before)) = begin.filter(|(start, _)| t.since(*start) >= least) else {
            begin = begin.or(Some((t, energy)));
            continue;
        };
        begin = Some((t, energy));
        // Spans are in order: those that ended before this piece are over for good.
        from += spans[from..].iter().take_while(|span| span.end <= start).count();
        let within: Vec<_> = spans[from..].iter().take_while(|span| span.start < t).copied().collect();
        let times = times(&within, start, t, 0);
        let inside: Seconds = left.iter().map(|phase| times[index(*phase)]).sum();
        if inside.get() >= t.since(start).get() * (1.0 - 1e-9) {
            let row = left.iter().map(|phase| times[index(*phase)].get()).collect();
            rows.push((row, (energy - before).get()));
        }
    }
    if rows.len() < MIN_PIECES { Vec::new() } else { rows }
}

/// The parts, with the last of rounding in the largest of them, so that together they are the whole.
fn settle(energy: Joules, parts: BTreeMap<Phase, Part>) -> Attribution {
    let (mut joules, mut half_widths) = (PhaseJoules::default(), PhaseJoules::default());
    let mut methods = BTreeMap::new();
    for (phase, part) in &parts {
        *joules.get_mut(*phase) = part.energy;
        *half_widths.get_mut(*phase) = part.half_width;
        methods.insert(*phase, part.method);
    }
    let over = energy - joules.total();
    let by_energy = |a: &&Phase, b: &&Phase| parts[*a].energy.get().total_cmp(&parts[*b].energy.get());
    let largest = parts.keys().max_by(by_energy).copied().unwrap_or(Phase::Other);
    let part = joules.get_mut(largest);
    *part = positive(*part + over);
    Attribution { joules, half_widths, methods }
}

fn positive(energy: Joules) -> Joules {
    max(energy, Joules::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::history::History;
    use crate::sensors::sensor::tests::{BOARD, board_info, reading};
    use crate::windows::profile::Profile;
    use proptest::prelude::*;
    use std::time::Duration;
    use wattle_runlog::SpanClock;

    fn ms(t: u64) -> MonotonicNs {
        MonotonicNs(t * 1_000_000)
    }

    fn span(segment: u32, phase: Phase, start: u64, end: u64) -> Span {
        Span {
            segment,
            step: 1,
            phase,
            start_ns: ms(start),
            end_ns: ms(end),
            clock: SpanClock::Host,
            error_ns: 0,
            overlaps: false,
        }
    }

    fn window(start: u64, end: u64, energy: f64) -> WindowEnergy {
        WindowEnergy { energy: Joules(energy), ..WindowEnergy::empty(ms(start), ms(end)) }
    }

    #[test]
    fn energy_goes_with_time_and_the_rest_is_other() {
        let spans = [
            span(0, Phase::Data, 0, 1_100),
            span(0, Phase::ForwardBackward, 1_100, 6_000),
            span(0, Phase::Evaluate, 9_000, 30_000),
            span(1, Phase::Optimizer, 1_000, 11_000),
        ];
        let attribution = attribute(&window(1_000, 11_000, 1_000.0), 0, &spans);
        let joules = attribution.joules;
        assert_eq!(attribution.method(), Some(PhasesMethod::TimeShare));
        let expected = PhaseJoules {
            data: Joules(10.0),
            forward_backward: Joules(490.0),
            evaluate: Joules(200.0),
            other: Joules(300.0),
            ..PhaseJoules::default()
        };
        for phase in Phase::ALL {
            let (mut got, mut expected) = (joules, expected);
            assert!(
                (*got.get_mut(phase) - *expected.get_mut(phase)).get().abs() < 1e-9,
                "{phase:?} {joules:?}"
            );
        }
    }

    fn beside(phase: Phase, start: u64, end: u64) -> Span {
        Span { overlaps: true, ..span(0, phase, start, end) }
    }

    #[test]
    fn a_checkpoint_beside_steps_has_half_of_the_time_that_they_share() {
        let spans = [
            span(0, Phase::ForwardBackward, 0, 10_000),
            span(0, Phase::Checkpoint, 10_000, 10_500),
            beside(Phase::Checkpoint, 10_500, 15_000),
            span(0, Phase::ForwardBackward, 11_000, 13_000),
            span(0, Phase::Evaluate, 13_000, 14_000),
        ];
        let joules = attribute(&window(0, 16_000, 16_000.0), 0, &spans).joules;
        let close = |got: Joules, expected: f64| (got.get() - expected).abs() < 1e-6;
        assert!(close(joules.forward_backward, 11_000.0) && close(joules.evaluate, 500.0), "{joules:?}");
        assert!(close(joules.checkpoint, 500.0 + 500.0 + 1500.0 + 1000.0), "{joules:?}");
        assert!(close(joules.other, 1000.0) && close(joules.total(), 16_000.0), "{joules:?}");
    }

    #[test]
    fn steps_beside_a_checkpoint_still_have_most_of_what_they_drew() {
        let (window, mut spans, drawn) = steps(50, |step| 90 + step * 31 % 180);
        // Writing for three seconds takes no power of its own.
        spans.push(beside(Phase::Checkpoint, 30_000, 33_000));
        let got = attribute(&window, 0, &spans);
        assert_ne!(got.methods[&Phase::Checkpoint], PhasesMethod::Measured);
        assert!((got.joules.total() - window.energy).get().abs() < 1e-3);
        let share = got.joules.checkpoint.get() / (window.energy * (1.5 / 60.0)).get();
        assert!((0.5..1.5).contains(&share), "{share}: {got:?}");
        let left = got.joules.forward_backward.get() / drawn.forward_backward.get();
        assert!((0.95..1.0).contains(&left), "{left}: {got:?}");
    }

    #[test]
    fn without_spans_or_time_everything_is_other() {
        assert_eq!(attribute(&window(0, 10, 5.0), 0, &[]).joules.other, Joules(5.0));
        let nothing = attribute(&window(10, 10, 5.0), 0, &[span(0, Phase::Data, 0, 20)]);
        assert_eq!((nothing.joules.other, nothing.method()), (Joules(5.0), None));
    }

    /// A minute of steps, read every 50 ms and counted every `step_ms`; data, forward and backward, optimizer at
    /// 100, 500 and 250 W, and 3 s of evaluation at 300 W in the middle. What each phase drew.
    fn steps(step_ms: u64, length: impl Fn(u64) -> u64) -> (WindowEnergy, Vec<Span>, PhaseJoules) {
        steps_at([100.0, 500.0, 250.0], step_ms, length)
    }

    fn steps_at(
        [data, forward_backward, optimizer]: [f64; 3],
        step_ms: u64,
        length: impl Fn(u64) -> u64,
    ) -> (WindowEnergy, Vec<Span>, PhaseJoules) {
        let watts = |phase| match phase {
            Phase::Data => data,
            Phase::ForwardBackward => forward_backward,
            Phase::Optimizer => optimizer,
            _ => 300.0,
        };
        let (mut spans, mut t, mut drawn) = (Vec::new(), 1_000, PhaseJoules::default());
        for step in 0.. {
            let mut add = |phase, ms: u64| {
                spans.push(span(0, phase, t, t + ms));
                *drawn.get_mut(phase) += Watts(watts(phase)) * Seconds(ms as f64 / 1e3);
                t += ms;
            };
            if step == 100 {
                add(Phase::Evaluate, 3_000);
            }
            add(Phase::Data, 10 + step * 7 % 23);
            add(Phase::ForwardBackward, length(step));
            add(Phase::Optimizer, 20 + step * 5 % 17);
            if t > 61_000 {
                break;
            }
        }
        let mj_at = |ms: u64| -> f64 {
            let until =
                |span: &Span| ms.min(span.end_ns.0 / 1_000_000).saturating_sub(span.start_ns.0 / 1_000_000);
            spans.iter().map(|span| watts(span.phase) * until(span) as f64).sum()
        };
        let mut history = History::new(board_info(), BOARD, Duration::from_millis(50));
        for at in (1_000..=t).step_by(50) {
            let mj = mj_at(at / step_ms * step_ms) as u64;
            let now = spans.iter().find(|span| span.end_ns > ms(at)).map_or(500.0, |span| watts(span.phase));
            history.push(&reading(ms(at), Some(Watts(now)), Some(mj)));
        }
        (WindowEnergy::of([&history], ms(1_000), ms(t / 50 * 50), None, false), spans, drawn)
    }

    #[test]
    fn phases_of_steps_are_told_apart_by_regression_and_long_ones_are_measured() {
        for step_ms in [20, 50, 100] {
            let (window, spans, drawn) = steps(step_ms, |step| 90 + step * 31 % 180);
            let got = attribute(&window, 0, &spans);
            assert_eq!(got.methods[&Phase::Evaluate], PhasesMethod::Measured);
            assert_eq!(got.methods[&Phase::ForwardBackward], PhasesMethod::Regression, "{got:?}");
            assert_eq!(got.method(), Some(PhasesMethod::Regression));
            assert!((got.joules.total() - window.energy).get().abs() < 1e-3);
            for phase in [Phase::Data, Phase::ForwardBackward, Phase::Optimizer, Phase::Evaluate] {
                let [mut joules, mut half_widths, mut drawn] = [got.joules, got.half_widths, drawn];
                let off = (*joules.get_mut(phase) - *drawn.get_mut(phase)).get().abs();
                assert!(off <= half_widths.get_mut(phase).get(), "{step_ms} ms, {phase:?}: {off} J: {got:?}");
            }
        }
    }

    /// Each phase's interval holds what it drew, over powers and lengths of all kinds and whatever the method.
    #[test]
    fn intervals_of_phases_hold_the_truth() {
        let (mut held, mut all) = (0, 0);
        for seed in 0..100u64 {
            let pick = |salt: u64, low: u64, high: u64| {
                low + (seed * 7_919 + salt * 104_729).wrapping_mul(0x9E37_79B9_7F4A_7C15) % (high - low)
            };
            let powers = [pick(1, 60, 300), pick(2, 250, 700), pick(3, 100, 600)].map(|watts| watts as f64);
            let (least, spread) = (pick(4, 30, 400), pick(5, 1, 150));
            let length = |step: u64| least + step * 37 % spread;
            let (window, spans, drawn) = steps_at(powers, pick(6, 10, 101), length);
            let got = attribute(&window, 0, &spans);
            for phase in [Phase::Data, Phase::ForwardBackward, Phase::Optimizer, Phase::Evaluate] {
                let [mut joules, mut half_widths, mut drawn] = [got.joules, got.half_widths, drawn];
                let off = (*joules.get_mut(phase) - *drawn.get_mut(phase)).get().abs();
                held += u32::from(off <= half_widths.get_mut(phase).get());
                all += 1;
            }
        }
        assert!(held * 100 >= all * 95, "{held} of {all}");
    }

    #[test]
    fn a_part_is_never_known_better_than_its_share_of_the_whole() {
        // Half a second at 780 W by the counter, of which the highest reading was 730 W.
        let profile = Profile {
            moments: (0..=10).map(|i| (ms(i * 50), Joules(i as f64 * 39.0))).collect(),
            resolution: Seconds(0.1),
            highest: Watts(730.0),
        };
        let uncertainty = Some(Joules(62.0));
        let window = WindowEnergy { profile, uncertainty, ..window(0, 500, 390.0) };
        let spans = [
            span(0, Phase::Data, 0, 1),
            span(0, Phase::ForwardBackward, 1, 440),
            span(0, Phase::Optimizer, 440, 450),
        ];
        let got = attribute(&window, 0, &spans);
        let (joules, half_widths) = (got.joules, got.half_widths);
        assert!(half_widths.forward_backward >= Joules(50.0), "{half_widths:?}");
        assert!(half_widths.forward_backward <= joules.forward_backward, "{half_widths:?}");
        for phase in got.methods.keys() {
            let [mut joules, mut half_widths] = [joules, half_widths];
            assert!(*half_widths.get_mut(*phase) > Joules::ZERO, "{phase:?}: {half_widths:?}");
            assert!(*half_widths.get_mut(*phase) <= *joules.get_mut(*phase) + Joules(62.0), "{phase:?}");
        }
        // One phase alone is left: its error is that of the whole.
        let other = attribute(&window, 0, &[]);
        assert_eq!(other.half_widths.other, Joules(62.0));
    }

    #[test]
    fn steps_that_never_differ_are_shared_by_time_and_the_error_covers_it() {
        // Every piece of 200 ms holds the same mix.
        let (window, spans, drawn) = steps(50, |_| 1);
        let same: Vec<_> = (0..3_000)
            .flat_map(|i| {
                [
                    span(0, Phase::Data, 1_000 + i * 20, 1_010 + i * 20),
                    span(0, Phase::Optimizer, 1_010 + i * 20, 1_020 + i * 20),
                ]
            })
            .collect();
        let got = attribute(&window, 0, &same);
        assert_eq!(got.method(), Some(PhasesMethod::TimeShare), "{got:?}");
        assert!((got.joules.total() - window.energy).get().abs() < 1e-3);
        assert!(got.half_widths.data.get() > 0.1 * got.joules.data.get(), "{got:?}");
        let shared = attribute(&WindowEnergy { profile: Profile::default(), ..window }, 0, &spans);
        let off = (shared.joules.forward_backward - drawn.forward_backward).get().abs();
        assert!(off <= shared.half_widths.forward_backward.get(), "{shared:?}");
    }

    proptest! {
        #[test]
        fn phases_add_up_to_the_whole(
            energy in 0.0..1e9f64,
            spans in proptest::collection::vec((0usize..7, 0u64..2_000, 0u64..2_000), 0..50),
            writing in proptest::collection::vec((0u64..300, 0u64..300), 0..8),
        ) {
            let mut spans: Vec<_> =
                spans.iter().map(|(phase, start, len)| span(0, Phase::ALL[*phase], *start, start + len)).collect();
            let mut t = 0;
            for (pause, len) in writing {
                spans.push(beside(Phase::Checkpoint, t + pause, t + pause + len));
                t += pause + len;
            }
            let joules = attribute(&window(500, 1_500, energy), 0, &spans).joules;
            prop_assert!((joules.total().get() - energy).abs() < 1e-3 * (1.0 + energy * 1e-9));
            for phase in Phase::ALL {
                prop_assert!(joules.clone().get_mut(phase).get() >= 0.0);
            }
        }

        #[test]
        fn shares_are_those_of_every_moment(
            others in proptest::collection::vec((0u64..6, 1u64..6), 0..12),
            writing in proptest::collection::vec((0u64..6, 1u64..12), 0..6),
        ) {
            let row = |lengths: &[(u64, u64)], phase| -> Vec<Piece> {
                let mut t = 0;
                lengths.iter().map(|(pause, len)| {
                    let start = t + pause;
                    t = start + len;
                    Piece { phase, start: MonotonicNs(start), end: MonotonicNs(t), share: 1.0 }
                }).collect()
            };
            let (others, writing) = (row(&others, Phase::Data), row(&writing, Phase::Checkpoint));
            let pieces = shared(others.clone(), writing.clone());
            let at = |pieces: &[Piece], phase, t: u64| -> f64 {
                let covers = |piece: &&Piece| piece.phase == phase && piece.start.0 <= t && t < piece.end.0;
                pieces.iter().filter(covers).map(|piece| piece.share).sum()
            };
            for t in 0..150 {
                let there = [at(&others, Phase::Data, t), at(&writing, Phase::Checkpoint, t)];
                let both = there[0] + there[1] > 1.0;
                let expected = there.map(|share| if both { share / 2.0 } else { share });
                prop_assert_eq!([at(&pieces, Phase::Data, t), at(&pieces, Phase::Checkpoint, t)], expected);
            }
        }
    }
}
