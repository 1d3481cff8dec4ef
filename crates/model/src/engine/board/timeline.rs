//! When a step's parts were done on the device, in the host's time.
//!
//! The device's clock is tied to the host's at anchors: moments when all work is done, the device marks, and the
//! host looks at its clock. Spans between two anchors are stretched so that both ends fit, so a clock that goes a
//! little faster than the other does no harm.

use wattle_ops::board::{Board, BoardError};

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPart {
    /// Taking over the batch.
    Data,
    /// All micro-batches, forward and backward.
    ForwardBackward,
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

/// Marks of a step: before its first part, and after each.
pub(super) const EDGES: usize = 4;
const PARTS: [StepPart; EDGES - 1] = [StepPart::Data, StepPart::ForwardBackward, StepPart::Optimizer];
/// A mark is an f32 of milliseconds after the anchor.
const RELATIVE_ERROR: f64 = f32::EPSILON as f64;

/// Marks that were read and are not in the host's time yet.
pub(super) struct Timeline {
    /// Numbers of the marks that anchors take in turn.
    anchor_edges: [usize; 2],
    anchor: Option<Anchor>,
    steps: Vec<MarkedStep>,
}

struct Anchor {
    edge: usize,
    host_ns: u64,
    error_ns: u64,
}

struct MarkedStep {
    step: u64,
    /// Milliseconds after the anchor.
    edges_ms: [f32; EDGES],
}

impl Timeline {
    /// One whose anchors take the marks `first_edge` and the one after.
    pub(super) fn new(first_edge: usize) -> Self {
        Self { anchor_edges: [first_edge, first_edge + 1], anchor: None, steps: Vec::new() }
    }

    /// Reads the marks of a step, of which `first_edge` is the first, and waits for them.
    pub(super) fn read(&mut self, board: &dyn Board, step: u64, first_edge: usize) -> Result<(), BoardError> {
        let Some(anchor) = &self.anchor else { return Ok(()) };
        let mut edges_ms = [0.0; EDGES];
        // The last first: once that is there, all are.
        for (i, edge_ms) in edges_ms.iter_mut().enumerate().rev() {
            *edge_ms = board.elapsed_ms(anchor.edge, first_edge + i)?;
        }
        self.steps.push(MarkedStep { step, edges_ms });
        Ok(())
    }

    /// Waits for all work, takes a new anchor, and gives the spans since the one before.
    pub(super) fn anchor(
        &mut self,
        board: &dyn Board,
        host_ns: &dyn Fn() -> u64,
    ) -> Result<Vec<DeviceSpan>, BoardError> {
        board.synchronize()?;
        let edge = match &self.anchor {
            Some(anchor) if anchor.edge == self.anchor_edges[0] => self.anchor_edges[1],
            _ => self.anchor_edges[0],
        };
        let before = host_ns();
        board.mark(edge)?;
        board.synchronize()?;
        let after = host_ns();
        let error_ns = after.saturating_sub(before) / 2;
        let next = Anchor { edge, host_ns: before + error_ns, error_ns };
        let steps = std::mem::take(&mut self.steps);
        let spans = match &self.anchor {
            Some(anchor) if !steps.is_empty() => {
                let between_ms = board.elapsed_ms(anchor.edge, edge)?;
                steps.iter().flat_map(|step| step.spans(anchor, &next, between_ms)).collect()
            }
            _ => Vec::new(),
        };
        self.anchor = Some(next);
        Ok(spans)
    }
}

impl MarkedStep {
    fn spans(&self, from: &Anchor, to: &Anchor, between_ms: f32) -> [DeviceSpan; EDGES - 1] {
        let host_ns = (to.host_ns - from.host_ns) as f64;
        let ns_per_ms = if between_ms > 0.0 { host_ns / f64::from(between_ms) } else { 1e6 };
        let at = |edge_ms: f32| from.host_ns + (f64::from(edge_ms) * ns_per_ms).max(0.0) as u64;
        let rounding_ns = f64::from(between_ms) * 1e6 * RELATIVE_ERROR;
        let error_ns = from.error_ns.max(to.error_ns) + rounding_ns.ceil() as u64;
        std::array::from_fn(|i| DeviceSpan {
            step: self.step,
            part: PARTS[i],
            start_ns: at(self.edges_ms[i]),
            end_ns: at(self.edges_ms[i + 1]),
            error_ns,
        })
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
        let step = MarkedStep { step: 7, edges_ms: [0.0, 1.0, 3.0, 4.5] };
        let spans = step.spans(&from, &to, 4.5);
        assert_eq!(spans.map(|span| span.start_ns), [1_000, 2_001_000, 6_001_000]);
        assert_eq!(spans[2].end_ns, 9_001_000);
        assert!(spans.iter().all(|span| span.step == 7 && (9..20).contains(&span.error_ns)));
    }
}
