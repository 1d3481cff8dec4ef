//! Moments of a stream, by number.

use std::sync::Arc;

use super::context::Context;
use super::stream::{Event, Stream};
use crate::board::BoardError;

/// More numbers than anybody needs.
const MAX_MARKS: usize = 4096;

/// One event for each number that was marked.
pub(super) struct Marks {
    context: Arc<Context>,
    events: Vec<Option<Event>>,
}

impl Marks {
    pub(super) fn new(context: &Arc<Context>) -> Self {
        Self { context: Arc::clone(context), events: Vec::new() }
    }

    /// Marks the stream's end, or while it records, this place of every replay.
    pub(super) fn mark(&mut self, edge: usize, stream: &Stream) -> Result<(), BoardError> {
        let event = self.event(edge)?;
        if stream.is_recording() { event.record_in_graph(stream) } else { event.record(stream) }
    }

    /// Marks the present end of a stream that never records.
    pub(super) fn mark_on(&mut self, edge: usize, stream: &Stream) -> Result<(), BoardError> {
        self.event(edge)?.record(stream)
    }

    /// Milliseconds between two marks; waits for both.
    pub(super) fn elapsed_ms(&self, from: usize, to: usize) -> Result<f32, BoardError> {
        let [from, to] = [self.marked(from)?, self.marked(to)?];
        from.wait()?;
        to.wait()?;
        from.ms_until(to)
    }

    fn event(&mut self, edge: usize) -> Result<&Event, BoardError> {
        assert!(edge < MAX_MARKS, "mark {edge}: numbers end at {MAX_MARKS}");
        if self.events.len() <= edge {
            self.events.resize_with(edge + 1, || None);
        }
        let place = &mut self.events[edge];
        let event = match place.take() {
            Some(event) => event,
            None => Event::timed(&self.context)?,
        };
        Ok(place.insert(event))
    }

    fn marked(&self, edge: usize) -> Result<&Event, BoardError> {
        self.events.get(edge).and_then(Option::as_ref).ok_or(BoardError::NoMark(edge))
    }
}
