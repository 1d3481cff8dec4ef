//! Processes that found a run finished and did nothing: earlier versions gave each a segment of its own, and booked
//! what the one before had drawn while it ended as interrupted. A finished run stays what it was.

use wattle_runlog::EventBody;
use wattle_runlog::record::RecordKind;

use crate::run::Run;

/// Takes such segments off the end of a run, with all that was booked for or by them, and says so.
pub(crate) fn leave_out(run: &mut Run) {
    let Some(last) = last_at_work(run).filter(|_| !run.is_locked) else { return };
    let n_idle = run.manifest.segments.iter().filter(|segment| segment.id > last).count();
    if n_idle == 0 || !is_stopped(run, last) {
        return;
    }
    run.manifest.segments.retain(|segment| segment.id <= last);
    run.records.retain(|record| record.segment <= last);
    run.power.sensors.retain(|sensor| sensor.segment <= last);
    run.power.temperatures.retain(|sensor| sensor.segment <= last);
    let whole = run.records.iter().rposition(|r| r.kind == RecordKind::Final && r.segment == last);
    if let Some(whole) = whole {
        run.records.truncate(whole + 1);
    }
    let who = if n_idle == 1 { "a later process".to_owned() } else { format!("{n_idle} later processes") };
    run.notes.push(format!("{who} opened the run after it had stopped and made no step: left out here"));
}

/// The last segment in which anything happened.
fn last_at_work(run: &Run) -> Option<u32> {
    run.events.iter().map(|event| event.segment).max()
}

fn is_stopped(run: &Run, segment: u32) -> bool {
    let mut of_segment = run.events.iter().rev().filter(|event| event.segment == segment);
    of_segment.next().is_some_and(|event| matches!(event.body, EventBody::Stop { .. }))
}
