//! What the part of two energies that no sensor measured may make of their difference.
//!
//! A measured sensor counts its whole device, an estimate this process alone. Where one run measured what the other
//! estimated, no error bound holds for the two together: all the joules of that kind of device may be difference.
//! An estimate is also thrown off by other processes: runs that computed the same to the bit, some of them beside a
//! busy compiler, came out a tenth apart. Estimates by one model, undisturbed, share their error.

use std::collections::BTreeMap;

use wattle_runlog::record::{Flag, SensorKind};

use crate::report::Report;

/// Joules that may be no difference between two groups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Unmeasured {
    /// Of devices that one measured and the other estimated.
    pub(super) mixed: f64,
    /// Of estimates beside other processes, by their bound.
    pub(super) disturbed: f64,
}

/// Joules of one kind of device.
#[derive(Clone, Copy, Debug, Default)]
struct Joules {
    measured: f64,
    estimated: f64,
    disturbed: f64,
}

/// What two groups' energies leave open, each given as its runs with the weight of each.
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
