//! Processes that resumed a finished run and did nothing. Earlier versions gave each its own segment and recorded the
//! tail of the previous one as interrupted. The run's status and totals must not change because of them.

use wattle_runlog::EventBody;
use wattle_runlog::record::RecordKind;

use crate::join::run::Run;

/// Removes such segments from the end of a run, with the records made for them, and adds a note.
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
    run.notes.push(format!("{who} resumed the stopped run without making a step: not counted here"));
}

/// The last segment in which anything happened.
fn last_at_work(run: &Run) -> Option<u32> {
    run.events.iter().map(|event| event.segment).max()
}

fn is_stopped(run: &Run, segment: u32) -> bool {
    let mut of_segment = run.events.iter().rev().filter(|event| event.segment == segment);
    of_segment.next().is_some_and(|event| matches!(event.body, EventBody::Stop { .. }))
}
