//! How long a board waited for the slowest rank in each step.
//!
//! A device cannot tell: the wait and the sum are one collective. But ranks end a step together, with its last collective,
//! so the time from there to the end of a rank's own gradients in the next step says how late it came. Ranks tell one
//! another; what a rank had to spare before the last one came, it waited.

use std::time::Duration;

use wattle_dist::DistError;
use wattle_runlog::{MonotonicNs, Phase, Span};

use crate::ranks::Ranks;

/// What is remembered from one step to the next.
#[derive(Debug, Default)]
pub(super) struct Slowest {
    /// The step that ended last, and when.
    last: Option<(u64, MonotonicNs)>,
}

impl Slowest {
    /// Parts the first exchange of each step in `spans`, in their order, at the moment at which the slowest rank had come. All
    /// ranks make this call together, with the same steps.
    ///
    /// # Errors
    /// If a rank does not answer in time.
    pub(super) fn told_apart(
        &mut self,
        spans: Vec<Span>,
        ranks: &Ranks,
        within: Duration,
    ) -> Result<Vec<Span>, DistError> {
        if !ranks.are_several() || spans.is_empty() {
            return Ok(spans);
        }
        let own: Vec<u64> = spans.chunk_by(|a, b| a.step == b.step).map(|step| self.came(step)).collect();
        let all = ranks.all_gather(&own, within)?;
        let slowest = |i: usize| all.iter().skip(i).step_by(own.len()).max().copied().unwrap_or(0);
        let waits: Vec<u64> = own.iter().enumerate().map(|(i, own)| slowest(i) - own).collect();
        let steps = spans.chunk_by(|a, b| a.step == b.step).zip(waits);
        Ok(steps.flat_map(|(step, wait)| parted(step, wait)).collect())
    }

    /// Nanoseconds from the end of the step before to the end of the rank's own gradients.
    fn came(&mut self, step: &[Span]) -> u64 {
        let (first, last) = (&step[0], &step[step.len() - 1]);
        let before = self.last.replace((last.step, last.end_ns));
        let is_next = |(number, _): &(u64, MonotonicNs)| number + 1 == first.step;
        let from = before.filter(is_next).map_or(first.start_ns, |(_, end)| end);
        let own = step.iter().rfind(|span| span.phase == Phase::ForwardBackward);
        own.map_or(0, |own| own.end_ns.0.saturating_sub(from.0))
    }
}

/// The spans of a step, of whose first exchange the first `wait` nanoseconds were waited.
fn parted(step: &[Span], wait: u64) -> Vec<Span> {
    let Some(at) = step.iter().position(|span| span.phase == Phase::Exchange) else { return step.to_vec() };
    let exchange = &step[at];
    let until = MonotonicNs((exchange.start_ns.0 + wait).min(exchange.end_ns.0));
    let mut parted = step.to_vec();
    if until > exchange.start_ns {
        parted[at].start_ns = until;
        parted.insert(at, Span { phase: Phase::Wait, end_ns: until, ..exchange.clone() });
    }
    parted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wattle_dist::{Fabric, Threads};
    use wattle_runlog::SpanClock;

    use super::*;

    /// A step that begins at `start`, whose own gradients take `own`, and which all end at `end`.
    fn step(number: u64, start: u64, own: u64, end: u64) -> Vec<Span> {
        let span = |phase, from: u64, to: u64| Span {
            segment: 0,
            step: number,
            phase,
            start_ns: MonotonicNs(from),
            end_ns: MonotonicNs(to),
            clock: SpanClock::Device,
            error_ns: 0,
            overlaps: false,
        };
        let done = start + own;
        vec![
            span(Phase::Data, start, start),
            span(Phase::ForwardBackward, start, done),
            span(Phase::Exchange, done, end - 20),
            span(Phase::Optimizer, end - 20, end - 10),
            span(Phase::Exchange, end - 10, end),
        ]
    }

    #[test]
    fn whoever_has_time_to_spare_waits_for_the_slowest() {
        // By its own clock each: rank 1 is slow in the first step, and late with its batch in the third.
        let of_rank = |rank: usize| match rank {
            0 => [step(7, 0, 100, 200), step(8, 200, 100, 330), step(9, 330, 100, 500)].concat(),
            _ => [step(7, 9000, 150, 9200), step(8, 9200, 100, 9330), step(9, 9370, 100, 9500)].concat(),
        };
        let waits: Vec<Vec<(u64, u64)>> = std::thread::scope(|scope| {
            let rank = |fabric: Threads| {
                scope.spawn(move || {
                    let rank = fabric.place().rank;
                    let ranks = Ranks::new(Arc::new(fabric), Duration::from_secs(5));
                    let spans =
                        Slowest::default().told_apart(of_rank(rank), &ranks, Duration::from_secs(5)).unwrap();
                    for pair in spans.windows(2).filter(|pair| pair[0].step == pair[1].step) {
                        assert_eq!(pair[0].end_ns, pair[1].start_ns, "nothing is lost between spans");
                    }
                    let waits = spans.iter().filter(|span| span.phase == Phase::Wait);
                    waits.map(|span| (span.step, span.end_ns.0 - span.start_ns.0)).collect()
                })
            };
            let running: Vec<_> = Threads::ranks(2).into_iter().map(rank).collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        assert_eq!(waits, [vec![(7, 50), (9, 40)], vec![]]);
    }
}
