//! A window's energy by what the run was doing, in proportion to time.
//!
//! A phase that lasts milliseconds is shorter than any counter's step, so its own energy cannot be read; its
//! share of the time can. This assumes the same power in every phase, and the record says so (`time_share`).

use wattle_runlog::record::{PhaseJoules, PhasesMethod};
use wattle_runlog::{Joules, Phase, Seconds, Span};

use crate::window::WindowEnergy;

/// Divides the window's energy among the phases of `spans`; what no span covers is other.
///
/// Only spans of `segment` count, and of each the part that lies in the window, so that a span across two
/// windows is shared between them. Where spans overlap, by the error of device times, they are scaled to fit.
pub fn by_time(window: &WindowEnergy, segment: u32, spans: &[Span]) -> (PhaseJoules, PhasesMethod) {
    let mut times = [Seconds::ZERO; Phase::ALL.len()];
    for span in spans.iter().filter(|span| span.segment == segment) {
        let inside = span.end_ns.min(window.end).since(span.start_ns.max(window.start));
        times[Phase::ALL.iter().position(|phase| *phase == span.phase).unwrap_or(0)] += inside;
    }
    let covered: Seconds = times.into_iter().sum();
    let duration = window.duration();
    let whole = if covered > duration { covered } else { duration };
    let mut joules = PhaseJoules::default();
    let mut shared = Joules::ZERO;
    for (phase, time) in Phase::ALL.into_iter().zip(times) {
        if phase != Phase::Other && whole > Seconds::ZERO {
            let energy = window.energy * (time / whole);
            *joules.get_mut(phase) = energy;
            shared += energy;
        }
    }
    // The remainder, and not a share of its own, so that the sum is the whole. Rounding alone makes it negative.
    let rest = window.energy - shared;
    joules.other = if rest > Joules::ZERO { rest } else { Joules::ZERO };
    (joules, PhasesMethod::TimeShare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wattle_runlog::{MonotonicNs, SpanClock};

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
        let (joules, method) = by_time(&window(1_000, 11_000, 1_000.0), 0, &spans);
        assert_eq!(method, PhasesMethod::TimeShare);
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

    #[test]
    fn without_spans_or_time_everything_is_other() {
        assert_eq!(by_time(&window(0, 10, 5.0), 0, &[]).0.other, Joules(5.0));
        assert_eq!(by_time(&window(10, 10, 5.0), 0, &[span(0, Phase::Data, 0, 20)]).0.other, Joules(5.0));
    }

    proptest! {
        #[test]
        fn phases_add_up_to_the_whole(
            energy in 0.0..1e9f64,
            spans in proptest::collection::vec((0usize..7, 0u64..2_000, 0u64..2_000), 0..50),
        ) {
            let spans: Vec<_> =
                spans.iter().map(|(phase, start, len)| span(0, Phase::ALL[*phase], *start, start + len)).collect();
            let (joules, _) = by_time(&window(500, 1_500, energy), 0, &spans);
            prop_assert!((joules.total().get() - energy).abs() < 1e-3 * (1.0 + energy * 1e-9));
            for phase in Phase::ALL {
                prop_assert!(joules.clone().get_mut(phase).get() >= 0.0);
            }
        }
    }
}
