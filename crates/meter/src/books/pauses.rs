//! When training waited for cleaner electricity.

use wattle_runlog::event::PauseReason;
use wattle_runlog::{Event, EventBody, MonotonicNs};

/// A time in which training waited.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pause {
    /// Its segment.
    pub segment: u32,
    /// What it waited for.
    pub reason: PauseReason,
    /// Its start.
    pub from: MonotonicNs,
    /// Its end.
    pub to: MonotonicNs,
}

/// When training of `segment` waited, as its events tell. A pause without an end lasts until `end`.
pub fn pauses(events: &[Event], segment: u32, end: MonotonicNs) -> Vec<Pause> {
    let mut pauses = Vec::new();
    let mut open: Option<Pause> = None;
    for event in events.iter().filter(|event| event.segment == segment) {
        match event.body {
            EventBody::Pause { reason, .. } => {
                open = Some(Pause { segment, reason, from: event.t_ns, to: end });
            }
            EventBody::Resume { .. } => {
                pauses.extend(open.take().map(|pause| Pause { to: event.t_ns, ..pause }));
            }
            _ => {}
        }
    }
    pauses.extend(open);
    pauses.retain(|pause| pause.from < pause.to);
    pauses
}
