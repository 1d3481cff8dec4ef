//! Training devices that no sensor measured. Their energy is missing from every figure of the run, so the figures are
//! lower bounds.

use std::collections::BTreeSet;

use wattle_runlog::machine::on_its_machine;
use wattle_runlog::record::{RecordKind, SensorKind};
use wattle_runlog::{ComputeDevice, DeviceKind};

use crate::join::run::Run;

/// The names of a run's unmetered devices, such as `cuda:0`: those named in its records, and for older records every
/// GPU without a sensor.
pub(crate) fn devices(run: &Run) -> Vec<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let records = run.records.iter().filter(|record| record.kind != RecordKind::Command);
    for record in records {
        names.extend(record.unmetered_devices.iter().cloned());
        names.extend(missing(run, record.sensors.iter().map(|sensor| (sensor.kind, sensor.id.as_str()))));
    }
    if run.records.is_empty() {
        names.extend(missing(run, run.manifest.sensors.iter().map(|info| (info.kind, info.id.as_str()))));
    }
    names.into_iter().collect()
}

/// The GPUs of a run that none of these sensors covers.
fn missing<'a>(run: &Run, sensors: impl Iterator<Item = (SensorKind, &'a str)>) -> Vec<String> {
    let sensors: Vec<_> = sensors.collect();
    let boards: Vec<&str> = sensors
        .iter()
        .filter(|(kind, _)| *kind == SensorKind::Gpu)
        .map(|(_, id)| on_its_machine(id))
        .collect();
    let gpus: Vec<_> = run.manifest.devices.iter().filter(|d| d.kind == DeviceKind::Cuda).collect();
    let is_seen = |device: &ComputeDevice| {
        let uuid = device.uuid.as_deref().filter(|uuid| uuid.starts_with("GPU-"));
        let are_uuids = boards.iter().all(|id| id.starts_with("gpu:GPU-"));
        match uuid {
            Some(uuid) if are_uuids => boards.iter().any(|id| id.strip_prefix("gpu:") == Some(uuid)),
            // MIG instances and boards without a UUID cannot be matched by id, so only the counts are compared.
            _ => boards.len() >= gpus.len(),
        }
    };
    gpus.iter().filter(|device| !is_seen(device)).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;

    #[test]
    fn a_board_without_a_sensor_is_named_by_new_records_and_found_in_old_ones() {
        let dir = tempfile::tempdir().unwrap();
        let of = |synthetic: &SyntheticRun, name: &str| devices(&synthetic.write(&dir.path().join(name)));
        assert!(of(&SyntheticRun::small(), "metered").is_empty());
        let names_it = SyntheticRun { unmetered: Some("cuda:3"), ..SyntheticRun::small() };
        assert_eq!(of(&names_it, "new"), ["cuda:3"]);
        assert_eq!(of(&SyntheticRun::unmetered(), "old"), ["cuda:0"]);
    }

    #[test]
    fn boards_are_told_apart_by_uuid_and_slices_by_number() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = SyntheticRun::small().write(dir.path());
        let gpu = |id: &'static str| vec![(SensorKind::Gpu, id)];
        run.manifest.devices[0].uuid = Some("GPU-a".to_owned());
        assert!(missing(&run, gpu("gpu:GPU-a").into_iter()).is_empty());
        assert_eq!(missing(&run, gpu("gpu:GPU-b").into_iter()), ["cuda:0"]);
        run.manifest.devices[0].uuid = Some("MIG-a".to_owned());
        assert!(missing(&run, gpu("gpu:GPU-b").into_iter()).is_empty());
        assert_eq!(missing(&run, [(SensorKind::Cpu, "cpu:estimate")].into_iter()), ["cuda:0"]);
    }
}
