//! What a device's first step takes beyond the others: libraries are loaded then, and kernels that come as PTX are compiled
//! for the device.

use std::collections::BTreeMap;

use wattle_runlog::{Event, EventBody, Seconds};

use crate::join::run::Run;
use crate::join::step_times::step_ns;
use crate::words::quantity::duration;

/// A first step that takes less than so many others is told of nowhere.
const MIN_FACTOR: f64 = 3.0;
/// Neither is one that takes less than this longer, in nanoseconds.
const MIN_LONGER_NS: f64 = 1e8;
/// Steps that the first one is held against.
const N_OTHERS: usize = 50;

/// Adds a note for each segment whose first step took much longer than those after it.
pub(crate) fn tell(run: &mut Run) {
    let of_segments = durations(&run.events);
    let is_only = run.manifest.segments.len() < 2;
    run.notes.extend(of_segments.into_iter().filter_map(|(segment, times)| {
        let (first, usual) = first_and_usual(&times)?;
        let of = if is_only { String::new() } else { format!(" of segment {segment}") };
        Some(format!(
            "the first step{of} took {}, where others take {}: what the device loads and compiles at first use is in it",
            duration(Seconds(first / 1e9)),
            duration(Seconds(usual / 1e9)),
        ))
    }));
}

/// Nanoseconds of each segment's first steps that follow one another.
fn durations(events: &[Event]) -> BTreeMap<u32, Vec<f64>> {
    let mut of_segments: BTreeMap<u32, (u64, Vec<f64>)> = BTreeMap::new();
    for event in events {
        let EventBody::Step(step) = &event.body else { continue };
        let Some(ns) = step_ns(step) else { continue };
        let (last, times) = of_segments.entry(event.segment).or_default();
        if (times.is_empty() || step.step == *last + 1) && times.len() <= N_OTHERS {
            *last = step.step;
            times.push(ns);
        }
    }
    of_segments.into_iter().map(|(segment, (_, times))| (segment, times)).collect()
}

/// The first step's time and the median of the others, if the first one is much longer.
fn first_and_usual(times: &[f64]) -> Option<(f64, f64)> {
    let (&first, others) = times.split_first()?;
    let mut others = others.to_vec();
    others.sort_by(f64::total_cmp);
    let usual = *others.get(others.len() / 2)?;
    (first > MIN_FACTOR * usual && first - usual > MIN_LONGER_NS).then_some((first, usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn a_run_whose_first_step_compiled_kernels_has_a_note() {
        let dir = tempfile::tempdir().unwrap();
        let n_notes = |run: &Run| run.notes.iter().filter(|note| note.contains("first use")).count();
        assert_eq!(n_notes(&SyntheticRun::small().write(dir.path())), 0);
        let path = dir.path().join("events.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        // The first step forty times as long.
        let slowed = text.replacen("\"tokens_per_s\":5120.0", "\"tokens_per_s\":128.0", 1);
        assert_ne!(text, slowed);
        std::fs::write(&path, slowed).unwrap();
        let opened = Run::open(dir.path()).unwrap();
        assert_eq!(n_notes(&opened), 1, "{:?}", opened.notes);
        let note = opened.notes.iter().find(|note| note.contains("first use")).unwrap();
        assert!(note.starts_with("the first step took "), "{note}");
    }

    #[test]
    fn a_first_step_is_told_of_where_it_is_much_longer() {
        assert_eq!(first_and_usual(&[3e9, 5e7, 6e7, 5.5e7]), Some((3e9, 5.5e7)));
        assert_eq!(first_and_usual(&[9e7, 2e7, 2e7]), None, "seven hundredths of a second");
        assert_eq!(first_and_usual(&[2e9, 1e9, 1e9]), None, "twice the others");
        assert_eq!(first_and_usual(&[2e9]), None, "there is no other");
        assert_eq!(first_and_usual(&[]), None);
    }
}
