//! What the flags of a sensor's figure mean, in words.

use serde::Serialize;
use wattle_runlog::Record;
use wattle_runlog::record::Flag;

/// A flag that a run's records carry, and what it means.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlagNote {
    /// The flag as records name it.
    pub flag: Flag,
    /// What it means.
    pub meaning: &'static str,
    /// Whether a figure with it is to be doubted.
    pub is_warning: bool,
    /// The sensors that carry it.
    pub sensors: Vec<String>,
}

/// Every flag of these records, each once, the worrying ones first.
pub fn explain<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<FlagNote> {
    let mut notes: Vec<FlagNote> = Vec::new();
    for sensor in records.into_iter().flat_map(|record| &record.sensors) {
        for flag in &sensor.flags {
            let known = notes.iter().position(|note| note.flag == *flag);
            let index = known.unwrap_or_else(|| {
                let (is_warning, sensors) = (is_warning(*flag), Vec::new());
                notes.push(FlagNote { flag: *flag, meaning: meaning(*flag), is_warning, sensors });
                notes.len() - 1
            });
            if !notes[index].sensors.contains(&sensor.id) {
                notes[index].sensors.push(sensor.id.clone());
            }
        }
    }
    notes.sort_by_key(|note| (!note.is_warning, note.flag));
    notes
}

/// The flag as records write it.
pub fn name(flag: Flag) -> String {
    let name = serde_json::to_value(flag).ok();
    name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What a flag means, as a sentence.
pub fn meaning(flag: Flag) -> &'static str {
    match flag {
        Flag::Agree => "The energy counter and the integral of power agree within their errors.",
        Flag::Disagree => {
            "The energy counter and the integral of power do not agree; the half-width reaches from one to the other."
        }
        Flag::CounterReset => {
            "The energy counter started again, as when a driver is reloaded; power was used instead."
        }
        Flag::CounterStuck => "The energy counter stood still while power was drawn; power was used instead.",
        Flag::Gaps => "Readings are missing for longer than they should be; the half-width grew with it.",
        Flag::ShortWindow => {
            "The stretch is short against the sensor's update period, so its edges count for much."
        }
        Flag::Contended => {
            "Another process used the device: a measured figure counts it in, an estimated one takes it off."
        }
        Flag::WholeDevice => {
            "The device is divided (MIG) and was counted whole, with what others drew on it."
        }
        Flag::OrderAssumed => {
            "The board was found by its number alone, which CUDA and NVML may count differently."
        }
        Flag::DeviceLost => "The device stopped answering; what it drew from then on is not in the figure.",
        Flag::EdgeMissing => "No reading could be taken at one end of a stretch; the nearest was used.",
        Flag::Estimated => "Not measured: a model of the load stands in for a sensor.",
        Flag::MeanAboveMax => {
            "The mean power is above the highest reading: readings missed the peaks, or the stretch is short against \
             the counter's steps. The energy counter is the better figure."
        }
        Flag::GuessedTdp => {
            "The processor is unknown: its thermal design power is a guess by its number of CPUs. Set \
             energy.cpu_tdp_w to the real one."
        }
        Flag::NodeMissing => {
            "The meter of a machine did not answer: it is taken to use as much a rank as the machine of rank 0."
        }
        Flag::CounterMissing => {
            "The energy counter did not tell of an end of the stretch: it failed there, or metering had only just begun. \
             Power was used instead where it was read."
        }
    }
}

fn is_warning(flag: Flag) -> bool {
    !matches!(flag, Flag::Agree | Flag::ShortWindow)
}
