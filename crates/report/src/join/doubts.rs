//! Warnings about a run's figures: wide intervals, and mean powers above every reading.

use wattle_runlog::record::{RecordKind, SensorRecord};
use wattle_runlog::{Joules, Record};

use crate::join::epochs::EpochRow;
use crate::join::run::Run;
use crate::words::quantity::{duration, joules, watts, whole_percent};
use crate::words::sensor_name::SensorNames;

/// A random error above this share of its figure is called wide. Our choice: typical savings are no larger.
const WIDE: f64 = 0.15;

/// Rounding alone can put a mean this far above the highest reading.
const ROUNDING: f64 = 1.005;

/// All warnings, one sentence each, with numbers.
pub(crate) fn of(run: &Run, whole: Option<&Record>, epochs: &[EpochRow], names: &SensorNames) -> Vec<String> {
    let whole_doubt = whole.and_then(wide_whole);
    // A wide total says it for its sensors.
    let of_sensors = whole.filter(|_| whole_doubt.is_none());
    let mut doubts: Vec<String> = whole_doubt.into_iter().collect();
    doubts.extend(wide_epochs(epochs));
    doubts.extend(of_sensors.map_or_else(Vec::new, |whole| wide_sensors(whole, names)));
    doubts.extend(means_above(run, whole, names));
    doubts
}

/// The half-width as a share of the energy, if it is wide.
fn wide(energy: Joules, half_width: Option<Joules>) -> Option<f64> {
    let share = half_width? / energy;
    (share > WIDE && energy > Joules::ZERO).then_some(share)
}

fn wide_whole(whole: &Record) -> Option<String> {
    let share = wide(whole.energy_j, whole.energy_uncertainty_j)?;
    Some(format!(
        "the energy, {}, is uncertain by ± {}: {} is short compared with the time between the sensors' updates",
        joules(whole.energy_j),
        whole_percent(share),
        duration(whole.duration_s),
    ))
}

fn wide_epochs(epochs: &[EpochRow]) -> Option<String> {
    let wide_rows: Vec<(&EpochRow, f64)> =
        epochs.iter().filter_map(|row| Some((row, wide(row.energy_j, row.energy_uncertainty_j)?))).collect();
    let (worst, share) = wide_rows.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let worst_words = format!("{} ± {}", joules(worst.energy_j), whole_percent(*share));
    Some(match wide_rows.len() {
        1 => format!("epoch {}: its energy is uncertain, {worst_words}", worst.name()),
        n => format!(
            "the energy of {n} epochs is uncertain by more than {}, the worst is epoch {}: {worst_words}",
            whole_percent(WIDE),
            worst.name()
        ),
    })
}

/// Sensors with a wide interval.
fn wide_sensors(whole: &Record, names: &SensorNames) -> Vec<String> {
    let words = |sensor: &SensorRecord| {
        let share = wide(sensor.energy_j, sensor.uncertainty_j)?;
        let (name, energy) = (names.name(&sensor.id), joules(sensor.energy_j));
        Some(format!("{name}: its energy is uncertain, {energy} ± {}", whole_percent(share)))
    };
    whole.sensors.iter().filter_map(words).collect()
}

/// Mean powers above the highest reading: the worst case of each sensor.
fn means_above(run: &Run, whole: Option<&Record>, names: &SensorNames) -> Vec<String> {
    let parts = run.records.iter().filter(|record| record.kind.is_additive());
    let mut worst: Vec<(&Record, &SensorRecord, f64)> = Vec::new();
    for record in parts.chain(whole) {
        for sensor in &record.sensors {
            let Some(excess) = excess(sensor) else { continue };
            match worst.iter_mut().find(|(_, known, _)| known.id == sensor.id) {
                Some(known) if known.2 < excess => *known = (record, sensor, excess),
                Some(_) => {}
                None => worst.push((record, sensor, excess)),
            }
        }
    }
    worst.into_iter().map(|(record, sensor, _)| mean_above(record, sensor, names)).collect()
}

/// The factor by which a sensor's mean power exceeds its highest reading.
fn excess(sensor: &SensorRecord) -> Option<f64> {
    let factor = sensor.mean_w?.get() / sensor.max_w?.get();
    (sensor.method.is_measured() && factor > ROUNDING).then_some(factor)
}

fn mean_above(record: &Record, sensor: &SensorRecord, names: &SensorNames) -> String {
    let place = match (record.kind, record.epoch) {
        (RecordKind::Epoch | RecordKind::Interrupted, Some(epoch)) => format!("in epoch {epoch} "),
        _ => String::new(),
    };
    format!(
        "{}: {place}the mean power of {} is above the highest reading of {}; the energy counter's update \
         steps are coarse for a stretch of {}",
        names.name(&sensor.id),
        sensor.mean_w.map(watts).unwrap_or_default(),
        sensor.max_w.map(watts).unwrap_or_default(),
        duration(record.duration_s),
    )
}
