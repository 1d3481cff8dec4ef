//! When a step's parts were done on the device, in the host's time.
//!
//! The device's clock is tied to the host's at anchors: the device takes a mark at once, and the host looks at its
//! clock before and after. At synchronization all work is done; in between, the mark is taken beside the work under
//! way, which does not stop for it. A step's marks are counted from the newest anchor before its launch, and stretched
//! so that this anchor and the next both fit: a clock that runs a little faster than the other does no harm.

use wattle_ops::board::{Board, BoardError};

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPart {
    /// Taking over the batch.
    Data,
    /// All micro-batches, forward and backward.
    ForwardBackward,
    /// What ranks exchange, as far as nothing else is done meanwhile, and the wait for the slowest of them.
    Exchange,
    /// Norm, clipping and update.
    Optimizer,
}

/// When a part of a step was done, in nanoseconds of the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSpan {
    /// The step, counted from 1.
    pub step: u64,
    /// What was done.
    pub part: StepPart,
    /// Start.
    pub start_ns: u64,
    /// End.
    pub end_ns: u64,
    /// Bound on the error of either end that mapping between clocks adds.
    pub error_ns: u64,
}

/// The most marks of a step: before its first part, and after each.
pub(super) const MAX_EDGES: usize = 6;
/// The parts of a step of a board alone, in their order.
const ALONE: [StepPart; 3] = [StepPart::Data, StepPart::ForwardBackward, StepPart::Optimizer];
/// The parts of a step of several ranks: gradients and sums are exchanged before the update, weights after it.
const OF_RANKS: [StepPart; MAX_EDGES - 1] =
    [StepPart::Data, StepPart::ForwardBackward, StepPart::Exchange, StepPart::Optimizer, StepPart::Exchange];
/// A mark is an f32 of milliseconds after the anchor.
const RELATIVE_ERROR: f64 = f32::EPSILON as f64;

/// Anchors whose marks are kept, in turn. A step is read two launches after its own, and there is at most one new
/// anchor after each launch and one at synchronization, so an anchor that a step counts from is never marked anew.
const N_ANCHORS: usize = 8;

/// Marks that were read and are not in the host's time yet.
pub(super) struct Timeline {
    /// Number of the first mark that anchors take in turn.
    first_edge: usize,
    parts: &'static [StepPart],
    anchor: Option<Anchor>,
    steps: Vec<MarkedStep>,
    /// End of the last span that was given.
    last_end_ns: u64,
}

/// A moment that both clocks know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Anchor {
    edge: usize,
    host_ns: u64,
    error_ns: u64,
}

/// How an anchor's mark is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchoring {
    /// After all work is done.
    Synchronized,
    /// Beside the work under way.
    Beside,
}

struct MarkedStep {
    step: u64,
    /// The newest before its launch.
    anchor: Anchor,
    /// Milliseconds after the anchor.
    edges_ms: Vec<f32>,
}

impl Timeline {
    /// One whose anchors take marks from `first_edge` on, of steps whose parts ranks exchange or not.
    pub(super) fn new(first_edge: usize, are_exchanged: bool) -> Self {
        let parts: &[StepPart] = if are_exchanged { &OF_RANKS } else { &ALONE };
        Self { first_edge, parts, anchor: None, steps: Vec::new(), last_end_ns: 0 }
    }

    /// A step's last mark, counted from its first.
    pub(super) fn last_edge(&self) -> usize {
        self.parts.len()
    }

    /// The newest anchor, from which a step that is launched now counts.
    pub(super) fn newest(&self) -> Option<Anchor> {
        self.anchor
    }

    /// Reads the marks of a step, of which `first_edge` is the first, and waits for them.
    pub(super) fn read(
        &mut self,
        board: &dyn Board,
        step: u64,
        anchor: Anchor,
        first_edge: usize,
    ) -> Result<(), BoardError> {
        let mut edges_ms = vec![0.0; self.parts.len() + 1];
        // The last first: once that is there, all are.
        for (i, edge_ms) in edges_ms.iter_mut().enumerate().rev() {
            *edge_ms = board.elapsed_ms(anchor.edge, first_edge + i)?;
        }
        self.steps.push(MarkedStep { step, anchor, edges_ms });
        Ok(())
    }

    /// Takes a new anchor, and gives the spans of the steps that were read since the one before.
    pub(super) fn anchor(
        &mut self,
        board: &dyn Board,
        host_ns: &dyn Fn() -> u64,
        anchoring: Anchoring,
    ) -> Result<Vec<DeviceSpan>, BoardError> {
        let edge = match &self.anchor {
            Some(anchor) => self.first_edge + (anchor.edge - self.first_edge + 1) % N_ANCHORS,
            None => self.first_edge,
        };
        if anchoring == Anchoring::Synchronized {
            board.synchronize()?;
        }
        let before = host_ns();
        match anchoring {
            Anchoring::Synchronized => board.mark(edge).and_then(|()| board.synchronize())?,
            Anchoring::Beside => board.mark_beside(edge)?,
        }
        let after = host_ns();
        let error_ns = after.saturating_sub(before) / 2;
        let next = Anchor { edge, host_ns: before + error_ns, error_ns };
        let mut spans = Vec::with_capacity(self.steps.len() * self.parts.len());
        for step in std::mem::take(&mut self.steps) {
            spans.extend(step.spans(self.parts, &next, board.elapsed_ms(step.anchor.edge, edge)?));
        }
        self.part_overlaps(&mut spans);
        self.anchor = Some(next);
        Ok(spans)
    }

    /// Steps that count from different anchors are stretched differently, by less than the stated error. Spans follow
    /// one another all the same.
    fn part_overlaps(&mut self, spans: &mut [DeviceSpan]) {
        for span in spans {
            span.start_ns = span.start_ns.max(self.last_end_ns);
            span.end_ns = span.end_ns.max(span.start_ns);
            self.last_end_ns = span.end_ns;
        }
    }
}

impl MarkedStep {
    fn spans(&self, parts: &[StepPart], to: &Anchor, between_ms: f32) -> Vec<DeviceSpan> {
        let from = &self.anchor;
        let host_ns = (to.host_ns - from.host_ns) as f64;
        let ns_per_ms = if between_ms > 0.0 { host_ns / f64::from(between_ms) } else { 1e6 };
        let at = |edge_ms: f32| from.host_ns + (f64::from(edge_ms) * ns_per_ms).max(0.0) as u64;
        let rounding_ns = f64::from(between_ms) * 1e6 * RELATIVE_ERROR;
        let error_ns = from.error_ns.max(to.error_ns) + rounding_ns.ceil() as u64;
        let span = |(edges, &part): (&[f32], &StepPart)| DeviceSpan {
            step: self.step,
            part,
            start_ns: at(edges[0]),
            end_ns: at(edges[1]),
            error_ns,
        };
        self.edges_ms.windows(2).zip(parts).map(span).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_anchors_fit() {
        // The device's clock goes at half the speed.
        let from = Anchor { edge: 0, host_ns: 1_000, error_ns: 5 };
        let to = Anchor { edge: 1, host_ns: 9_000_000 + 1_000, error_ns: 9 };
        let step = MarkedStep { step: 7, anchor: from, edges_ms: vec![0.0, 1.0, 3.0, 4.5] };
        let spans = step.spans(&ALONE, &to, 4.5);
        let starts: Vec<_> = spans.iter().map(|span| span.start_ns).collect();
        assert_eq!(starts, [1_000, 2_001_000, 6_001_000]);
        assert_eq!(spans[2].end_ns, 9_001_000);
        assert!(spans.iter().all(|span| span.step == 7 && (9..20).contains(&span.error_ns)));
    }
}
