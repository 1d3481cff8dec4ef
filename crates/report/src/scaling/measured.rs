//! The step of one GPU, as a run measured it.

use std::collections::BTreeMap;

use serde::Serialize;
use wattle_runlog::event::StepEvent;
use wattle_runlog::record::Method;
use wattle_runlog::{Event, EventBody, Joules, MonotonicNs, Seconds, Watts};

use crate::join::run::Run;

/// Steps that a segment must have, of which the later half counts.
const ENOUGH_STEPS: usize = 6;

/// A step of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The run, as it was given.
    pub run: String,
    /// Parameters of its model.
    pub parameters: f64,
    /// Tokens of a step.
    pub tokens: f64,
    /// Time of a step.
    pub step_s: Seconds,
    /// How many steps that is the median of.
    pub steps: usize,
    /// Mean power between steps; null without a power trace.
    pub power_w: Option<Watts>,
    /// Share of that power that is an estimate.
    pub estimated_share: Option<f64>,
}

/// A step and when it ended.
type TimedStep<'a> = (MonotonicNs, &'a StepEvent);

impl Measured {
    /// The steps of the run's last segment that has enough of them.
    ///
    /// # Errors
    /// A sentence if the run is not of one device, or has too few steps.
    pub fn of(run: &Run) -> Result<Self, String> {
        let path = run.path.display();
        let Some(model) = &run.manifest.model else {
            return Err(format!("{path}: manifest.json names no model; expected a run of wattle train"));
        };
        let world =
            run.manifest.segments.iter().filter_map(|segment| Some(segment.ranks.as_ref()?.world)).max();
        let devices = run.manifest.devices.len().max(world.unwrap_or(1));
        if devices > 1 {
            return Err(format!(
                "{path}: trained on {devices} devices; expected a run on one, which is scaled up"
            ));
        }
        let (segment, steps) = steady_steps(run).ok_or_else(|| {
            format!("{path}: expected at least {ENOUGH_STEPS} steps in one go; train for longer")
        })?;
        let ((_, first), (_, last)) = (steps[0], steps[steps.len() - 1]);
        let tokens = (last.tokens - first.tokens) as f64 / (last.step - first.step) as f64;
        let rate = median(steps.iter().map(|(_, step)| step.tokens_per_s).collect());
        if !(rate > 0.0 && rate.is_finite() && tokens > 0.0) {
            return Err(format!("{path}: events.jsonl states no rate of tokens; train for longer"));
        }
        let (power_w, estimated_share) = power(run, segment).unzip();
        Ok(Self {
            run: path.to_string(),
            parameters: model.parameters as f64,
            tokens,
            step_s: Seconds(tokens / rate),
            steps: steps.len(),
            power_w,
            estimated_share,
        })
    }
}

/// The later half of the steps of the last segment with enough: the first ones load libraries and warm caches.
fn steady_steps(run: &Run) -> Option<(u32, Vec<TimedStep<'_>>)> {
    let mut segments: BTreeMap<u32, Vec<TimedStep<'_>>> = BTreeMap::new();
    for event in &run.events {
        if let EventBody::Step(step) = &event.body {
            segments.entry(event.segment).or_default().push((event.t_ns, step));
        }
    }
    let (segment, mut steps) = segments.into_iter().rfind(|(_, steps)| steps.len() >= ENOUGH_STEPS)?;
    let warm = steps.split_off(steps.len() / 2);
    Some((segment, warm))
}

/// Mean power from one step to the next in the later half of the segment, where nothing came between, and the share
/// of it that sensors estimate.
fn power(run: &Run, segment: u32) -> Option<(Watts, f64)> {
    let events: Vec<&Event> = run.events.iter().filter(|event| event.segment == segment).collect();
    let is_step = |event: &Event| matches!(event.body, EventBody::Step(_));
    let later = &events[events.len() / 2..];
    let windows = later.windows(2).filter(|pair| is_step(pair[0]) && is_step(pair[1]));
    let (mut time, mut energy, mut estimated) = (Seconds::ZERO, Joules::ZERO, Joules::ZERO);
    for pair in windows.filter(|pair| pair[1].t_ns > pair[0].t_ns) {
        time += pair[1].t_ns.since(pair[0].t_ns);
        for sensor in run.power.sensors.iter().filter(|sensor| sensor.segment == segment) {
            let within = sensor.energy_at(pair[1].t_ns) - sensor.energy_at(pair[0].t_ns);
            energy += within;
            if sensor.info.method == Method::Estimated {
                estimated += within;
            }
        }
    }
    (energy > Joules::ZERO).then(|| (energy / time, estimated / energy))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn a_run_tells_its_step() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(&dir.path().join("run"));
        let measured = Measured::of(&run).unwrap();
        assert_eq!((measured.parameters, measured.tokens, measured.steps), (139_584.0, 512.0, 20));
        assert!((measured.step_s.get() - 0.1).abs() < 1e-12, "5,120 tokens a second");
        // The second epoch: half at 100 W, half at 200 W.
        let power = measured.power_w.unwrap().get();
        assert!((140.0..=160.0).contains(&power), "{power}");
        assert_eq!(measured.estimated_share, Some(0.0));
    }

    #[test]
    fn too_few_steps_and_several_devices_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun::small().write(&dir.path().join("run"));
        run.manifest.devices.push(run.manifest.devices[0].clone());
        let error = Measured::of(&run).unwrap_err();
        assert!(error.contains("2 devices"), "{error}");
        run.manifest.devices.truncate(1);
        run.events.truncate(5);
        let error = Measured::of(&run).unwrap_err();
        assert!(error.contains("at least 6 steps"), "{error}");
    }
}
