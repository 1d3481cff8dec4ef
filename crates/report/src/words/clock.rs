//! A board's clock in words: how fast it ran, and for how long what held it back.

use wattle_runlog::record::SensorRecord;
use wattle_runlog::{Seconds, Watts};

use crate::words::quantity::{count, watts, whole_percent};

/// The name of the power limit among the reasons that hold clocks back.
pub(crate) const POWER_CAP: &str = "sw_power_cap";

/// Less of the time is nothing to know about.
const LEAST_SHARE: f64 = 0.01;

/// The share of `time` for which the power limit held the sensor's clock back; `None` where that is not counted.
pub(crate) fn capped_share(sensor: &SensorRecord, time: Seconds) -> Option<f64> {
    let held = sensor.clocks.as_ref()?.held_back_s.get(POWER_CAP)?;
    (time > Seconds::ZERO).then(|| (*held / time).min(1.0))
}

/// What held the clock of `sensor`, called `name`, back within `time`, in sentences without their full stop.
pub(crate) fn clock_words(
    sensor: &SensorRecord,
    name: &str,
    limit: Option<Watts>,
    time: Seconds,
) -> Vec<String> {
    let Some(clocks) = &sensor.clocks else { return Vec::new() };
    let at = match (clocks.sm_mean_mhz, clocks.sm_max_mhz) {
        (Some(mean), Some(max)) => {
            format!(" (mean clock {} of {} MHz)", count(mean.round() as u64), count(max.round() as u64))
        }
        _ => String::new(),
    };
    let mut words = Vec::new();
    if let Some(share) = capped_share(sensor, time).filter(|share| *share >= LEAST_SHARE) {
        let limit = limit.map_or_else(|| "its power limit".to_owned(), |w| format!("its {} limit", watts(w)));
        let share = whole_percent(share);
        words.push(format!(
            "{name} was held at {limit} for {share} of the run{at}: fewer bytes a token would also be faster"
        ));
    }
    let others = clocks.held_back_s.iter().filter(|(reason, _)| *reason != POWER_CAP);
    for (reason, held) in others {
        let share = if time > Seconds::ZERO { *held / time } else { 0.0 };
        if share >= LEAST_SHARE {
            let (reason, share) = (reason.replace('_', " "), whole_percent(share.min(1.0)));
            words.push(format!("{reason} held the clock of {name} back for {share} of the run{at}"));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticRun;
    use wattle_runlog::record::ClockRecord;

    #[test]
    fn a_board_at_its_limit_is_told_with_its_clock() {
        let dir = tempfile::tempdir().unwrap();
        let run = SyntheticRun::small().write(dir.path());
        let mut report = crate::join::report::Report::of(&run, None).unwrap();
        let held_back_s = [(POWER_CAP.to_owned(), Seconds(83.0)), ("sync_boost".to_owned(), Seconds::ZERO)];
        let sensor = &mut report.sensors[0];
        sensor.clocks = Some(ClockRecord {
            sm_mean_mhz: Some(1_735.2),
            sm_max_mhz: Some(1_980.0),
            held_back_s: held_back_s.into_iter().collect(),
        });
        let words = clock_words(sensor, "gpu 0", Some(Watts(700.0)), Seconds(100.0));
        let expected = "gpu 0 was held at its 700 W limit for 83 % of the run (mean clock 1,735 of 1,980 MHz): fewer \
                        bytes a token would also be faster";
        assert_eq!(words, [expected]);
        sensor.clocks = None;
        assert!(clock_words(sensor, "gpu 0", None, Seconds(100.0)).is_empty());
    }
}
