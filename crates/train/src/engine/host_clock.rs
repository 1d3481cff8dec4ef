//! When the parts of a step ended, for engines whose work the host waits for.

use wattle_runlog::{MonotonicNs, Phase, Span, SpanClock};

use super::Step;

/// The parts of one step, one after the other.
pub(super) struct HostClock {
    segment: u32,
    step: u64,
    since: MonotonicNs,
    spans: Vec<Span>,
}

impl HostClock {
    /// Starts when the batch began to be read.
    pub(super) fn start(segment: u32, step: &Step<'_>) -> Self {
        Self { segment, step: step.number, since: step.began, spans: Vec::with_capacity(3) }
    }

    /// A part ended now; the next begins.
    pub(super) fn end(&mut self, phase: Phase) {
        let (start_ns, end_ns) = (self.since, MonotonicNs::now());
        let (segment, step, clock) = (self.segment, self.step, SpanClock::Host);
        self.spans.push(Span { segment, step, phase, start_ns, end_ns, clock, error_ns: 0, overlaps: false });
        self.since = end_ns;
    }

    /// All parts.
    pub(super) fn spans(self) -> Vec<Span> {
        self.spans
    }
}
