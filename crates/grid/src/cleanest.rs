//! The best time to start.

use wattle_runlog::grid::Intensities;
use wattle_runlog::{MonotonicNs, Seconds, Watts};

/// What a run will draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// For how long it will train.
    pub time: Seconds,
    /// What it draws while it trains.
    pub work: Watts,
    /// What the machine draws while it waits.
    pub idle: Watts,
}

/// A start, and what it comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Start {
    /// When.
    pub at: MonotonicNs,
    /// The mean intensity from then until the run is over, in grams a kilowatt-hour.
    pub mean_g: f64,
    /// The mean intensity if it starts now.
    pub now_g: f64,
    /// The share of emissions that waiting saves, those of the machine that waits included.
    pub saved: f64,
}

/// Saving less than this share is not worth waiting for.
const WORTH: f64 = 0.01;

/// The start, at `now` or later and at the latest at `latest`, with which training and waiting together emit least.
/// `None` if what is known does not reach to the end of a run that starts now.
pub fn cleanest(known: &Intensities, now: MonotonicNs, latest: MonotonicNs, load: Load) -> Option<Start> {
    let now_g = mean(known, now, now.after(load.time))?;
    let energy_now = load.work.get() * load.time.get();
    let at_once = energy_now * now_g;
    let is_later = |t: &MonotonicNs| now < *t && *t <= latest;
    // The best start or end lies where the intensity changes.
    let changes = known.rows().iter().flat_map(|row| [row.from, row.from.before(load.time)]);
    let candidates = changes.chain([latest]).filter(is_later);
    let start = |at: MonotonicNs| {
        let mean_g = mean(known, at, at.after(load.time))?;
        let waiting = load.idle.get() * at.since(now).get() * mean(known, now, at)?;
        let saved = 1.0 - (energy_now * mean_g + waiting) / at_once;
        Some(Start { at, mean_g, now_g, saved })
    };
    let at_once = Start { at: now, mean_g: now_g, now_g, saved: 0.0 };
    let best = candidates.filter_map(start).filter(|start| start.saved >= WORTH);
    // Of equals, the earlier.
    Some(best.fold(at_once, |best, start| {
        let is_better = start.saved > best.saved || (start.saved == best.saved && start.at < best.at);
        if is_better { start } else { best }
    }))
}

/// The mean intensity by time; `None` where some of it is not known.
pub fn mean(known: &Intensities, from: MonotonicNs, to: MonotonicNs) -> Option<f64> {
    if from >= to {
        return known.at(from).map(|(intensity, _)| intensity.get());
    }
    let mut sum = 0.0;
    for piece in known.pieces(from, to) {
        sum += piece.known?.0.get() * piece.to.since(piece.from).get();
    }
    Some(sum / to.since(from).get())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use wattle_runlog::GramsPerKwh;
    use wattle_runlog::grid::{GridBasis, GridOrigin, Row};

    pub(crate) const HOUR: u64 = 3_600_000_000_000;

    /// Hours of these intensities from 0 on.
    pub(crate) fn hours(grams: &[f64]) -> Intensities {
        let origin = GridOrigin { provider: "uk".into(), zone: "GB".into(), counts: "direct".into() };
        let mut known = Intensities::new(origin);
        for (hour, g) in (0u64..).zip(grams) {
            let [from, to] = [hour, hour + 1].map(|hour| MonotonicNs(hour * HOUR));
            known.insert(Row { from, to, intensity: GramsPerKwh(*g), basis: GridBasis::Forecast });
        }
        known
    }

    fn load(hours: f64, idle: f64) -> Load {
        Load { time: Seconds(hours * 3600.0), work: Watts(700.0), idle: Watts(idle) }
    }

    fn hour_of(start: Start) -> f64 {
        start.at.0 as f64 / HOUR as f64
    }

    #[test]
    fn the_cleanest_window_is_found_and_may_end_where_dirt_begins() {
        let known = hours(&[300.0, 300.0, 200.0, 100.0, 100.0, 400.0, 50.0, 50.0]);
        let day = MonotonicNs(5 * HOUR);
        let best = cleanest(&known, MonotonicNs(0), day, load(2.0, 0.0)).unwrap();
        assert_eq!((hour_of(best), best.mean_g, best.now_g), (3.0, 100.0, 300.0));
        // An hour and a half fits between 3 and 5 in several ways; the earliest of them.
        let best = cleanest(&known, MonotonicNs(HOUR / 2), day, load(1.5, 0.0)).unwrap();
        assert_eq!(hour_of(best), 3.0);
        // Two and a half end where 400 g begin.
        let best = cleanest(&known, MonotonicNs(0), day, load(2.5, 0.0)).unwrap();
        assert_eq!((hour_of(best), best.mean_g), (2.5, 120.0));
    }

    #[test]
    fn a_deadline_forbids_later_starts() {
        let known = hours(&[300.0, 200.0, 100.0, 50.0]);
        let best = cleanest(&known, MonotonicNs(0), MonotonicNs(HOUR), load(1.0, 0.0)).unwrap();
        assert_eq!(hour_of(best), 1.0);
        let best = cleanest(&known, MonotonicNs(0), MonotonicNs(0), load(1.0, 0.0)).unwrap();
        assert_eq!((hour_of(best), best.saved), (0.0, 0.0));
    }

    #[test]
    fn waiting_that_costs_more_than_it_saves_is_not_done() {
        let known = hours(&[300.0, 300.0, 300.0, 300.0, 200.0]);
        let start =
            |idle| hour_of(cleanest(&known, MonotonicNs(0), MonotonicNs(4 * HOUR), load(1.0, idle)).unwrap());
        // An hour at 700 W saves 70 g; four hours of waiting at 300 g/kWh emit as much at 58 W.
        assert_eq!((start(0.0), start(40.0), start(60.0)), (4.0, 4.0, 0.0));
    }

    #[test]
    fn where_the_forecast_ends_before_the_run_nothing_is_chosen() {
        let known = hours(&[300.0, 100.0]);
        assert_eq!(cleanest(&known, MonotonicNs(0), MonotonicNs(HOUR), load(3.5, 0.0)), None);
        // The last hour may be held for another.
        assert!(cleanest(&known, MonotonicNs(0), MonotonicNs(HOUR), load(3.0, 0.0)).is_some());
    }
}
