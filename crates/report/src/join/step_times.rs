//! When each step ended, even in older runs that only recorded when losses were read.
//!
//! On a GPU, losses are read many steps at a time. Earlier versions stamped all those steps with the time of reading,
//! microseconds apart. Such steps are spread here: each takes the time its rate implies, limited to the time since
//! the previous event.

use std::collections::BTreeMap;

use wattle_runlog::event::StepEvent;
use wattle_runlog::{Event, EventBody, MonotonicNs, Segment};

/// Steps closer together than this share of a step's duration were read together.
const READ_TOGETHER: f64 = 0.1;

/// A step's duration in nanoseconds, derived from its rate; `None` if it states none.
pub(crate) fn step_ns(step: &StepEvent) -> Option<f64> {
    let tokens = step.tokens as f64 / step.step.max(1) as f64;
    let ns = tokens / step.tokens_per_s * 1e9;
    (ns.is_finite() && ns > 0.0).then_some(ns)
}

/// Gives steps that were read together their own times. Returns the number of such steps.
pub(crate) fn spread(events: &mut [Event], segments: &[Segment]) -> usize {
    // The last event seen of each segment: its time and the steps finished by then.
    let mut before: BTreeMap<u32, (MonotonicNs, u64)> =
        segments.iter().map(|segment| (segment.id, (segment.monotonic_anchor, segment.step_start))).collect();
    let mut n_spread = 0;
    let mut at = 0;
    while at < events.len() {
        let n = read_together(&events[at..]);
        let segment = events[at].segment;
        if n > 1 {
            spread_batch(&mut events[at..at + n], before.get(&segment).copied());
            n_spread += n;
        }
        let last = &events[at + n - 1];
        let finished = match &last.body {
            EventBody::Step(step) => step.step,
            _ => before.get(&segment).map_or(0, |(_, step)| *step),
        };
        before.insert(segment, (last.t_ns, finished));
        at += n;
    }
    n_spread
}

/// How many leading events are steps that were read together; at least one.
fn read_together(events: &[Event]) -> usize {
    let is_next = |pair: &[Event]| {
        let (EventBody::Step(_), EventBody::Step(step)) = (&pair[0].body, &pair[1].body) else {
            return false;
        };
        let gap = pair[1].t_ns.0.saturating_sub(pair[0].t_ns.0) as f64;
        pair[0].segment == pair[1].segment && gap < READ_TOGETHER * step_ns(step).unwrap_or(1.0)
    };
    1 + events.windows(2).take_while(|pair| is_next(pair)).count()
}

fn spread_batch(batch: &mut [Event], before: Option<(MonotonicNs, u64)>) {
    let Some((end, last)) = batch.last().and_then(|event| Some((event.t_ns, as_step(event)?.clone()))) else {
        return;
    };
    let (from, finished) = before.unwrap_or((MonotonicNs(0), 0));
    let since = end.0.saturating_sub(from.0) as f64;
    let evenly = since / last.step.saturating_sub(finished).max(1) as f64;
    let each = step_ns(&last).unwrap_or(evenly).min(evenly);
    for event in batch {
        let Some(step) = as_step(event) else { continue };
        let ns = last.step.saturating_sub(step.step) as f64 * each;
        event.t_ns = MonotonicNs(end.0.saturating_sub(ns.round() as u64));
    }
}

fn as_step(event: &Event) -> Option<&StepEvent> {
    match &event.body {
        EventBody::Step(step) => Some(step),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, t_ns: u64, tokens_per_s: f64) -> Event {
        let body = StepEvent {
            step,
            epoch: 1,
            tokens: step * 1000,
            loss: 1.0,
            learning_rate: 0.1,
            grad_norm: 1.0,
            tokens_per_s,
            accuracy: 0.0,
        };
        Event::new(0, MonotonicNs(t_ns), EventBody::Step(body))
    }

    fn segment(anchor: u64) -> Segment {
        Segment {
            id: 0,
            host: String::new(),
            boot_id: String::new(),
            wall_anchor: String::new(),
            monotonic_anchor: MonotonicNs(anchor),
            step_start: 0,
            prices: None,
            ranks: None,
        }
    }

    fn times(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.t_ns.0).collect()
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn steps_read_together_get_the_time_that_their_rate_states() {
        // Three steps of 100 ms after half a second of setup, and two more of 50 ms.
        let mut events = vec![
            step(1, 800 * MS, 1e4),
            step(2, 800 * MS, 1e4),
            step(3, 800 * MS + 40, 1e4),
            Event::new(0, MonotonicNs(900 * MS), EventBody::Epoch { epoch: 1, step: 3, complete: true }),
            step(4, 1_000 * MS, 2e4),
            step(5, 1_000 * MS, 2e4),
        ];
        assert_eq!(spread(&mut events, &[segment(0)]), 5);
        assert_eq!(
            times(&events),
            [600, 700, 800, 900, 950, 1_000].map(|ms| ms * MS + u64::from(ms < 900) * 40)
        );
    }

    #[test]
    fn where_the_rate_says_more_than_there_is_they_are_spread_evenly() {
        for rate in [1.0, f64::NAN, 0.0] {
            let mut events = vec![step(1, 300, rate), step(2, 300, rate), step(3, 300, rate)];
            assert_eq!(spread(&mut events, &[segment(0)]), 3);
            assert_eq!(times(&events), [100, 200, 300], "{rate}");
        }
    }

    #[test]
    fn steps_with_times_of_their_own_keep_them() {
        let mut events = vec![step(1, 90 * MS, 1e4), step(2, 200 * MS, 1e4), step(30, 3_000 * MS, 1e4)];
        let before = events.clone();
        assert_eq!(spread(&mut events, &[segment(0)]), 0);
        assert_eq!(events, before);
    }
}
