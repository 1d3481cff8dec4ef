//! How much the unmeasured parts of two energies can distort their difference.
//!
//! A sensor counts its whole device; an estimate counts only this process. If one run measured a kind of device and
//! the other estimated it, no error bound covers the pair, so all joules of that kind are treated as uncertain.
//! Other processes also distort an estimate: bit-identical runs, some beside a busy compiler, were estimated 10 %
//! apart. Undisturbed estimates by the same model share their error, which cancels.

use std::collections::BTreeMap;

use wattle_runlog::record::{Flag, SensorKind};

use crate::join::report::Report;

/// Joules of the difference between two groups that may be an artefact.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Unmeasured {
    /// From kinds of device that one group measured and the other estimated.
    pub(super) mixed: f64,
    /// From estimates made beside other processes: their error bound.
    pub(super) disturbed: f64,
}

/// Energy of one kind of device.
#[derive(Clone, Copy, Debug, Default)]
struct Joules {
    measured: f64,
    estimated: f64,
    disturbed: f64,
}

/// The uncertainty between two groups, each given as its runs with their weights.
pub(super) fn between<'a>(
    a: impl Iterator<Item = (f64, &'a Report)>,
    b: impl Iterator<Item = (f64, &'a Report)>,
) -> Unmeasured {
    let (a, mut b) = (by_kind(a), by_kind(b));
    let mut found = Unmeasured::default();
    for (kind, a) in a {
        let Some(b) = b.remove(&kind) else { continue };
        let is_mixed = (a.measured > 0.0 && b.estimated > 0.0) || (a.estimated > 0.0 && b.measured > 0.0);
        if is_mixed {
            found.mixed += a.measured + a.estimated + b.measured + b.estimated;
        } else {
            found.disturbed += a.disturbed + b.disturbed;
        }
    }
    found
}

fn by_kind<'a>(runs: impl Iterator<Item = (f64, &'a Report)>) -> BTreeMap<String, Joules> {
    let mut kinds: BTreeMap<String, Joules> = BTreeMap::new();
    for (weight, report) in runs {
        for sensor in &report.sensors {
            let energy = sensor.energy_j.get() * weight;
            let joules = kinds.entry(name(sensor.kind)).or_default();
            match sensor.method.is_measured() {
                true => joules.measured += energy,
                false => joules.estimated += energy,
            }
            if !sensor.method.is_measured() && sensor.flags.contains(&Flag::Contended) {
                joules.disturbed += energy * sensor.systematic_fraction;
            }
        }
    }
    kinds
}

fn name(kind: SensorKind) -> String {
    format!("{kind:?}")
}
