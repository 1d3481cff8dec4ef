//! Whether to train or to wait.

use wattle_runlog::event::PauseReason;
use wattle_runlog::grid::Intensities;
use wattle_runlog::{GramsPerKwh, MonotonicNs, Seconds, WallAnchor, Watts};

use crate::cleanest::{Load, cleanest};
use crate::config::{Deadline, GridConfig, StartKind};

/// What was waited for has come if the intensity is no higher than this many times the promised one.
const AS_PROMISED: f64 = 1.05;

/// Decides between two steps. It changes no step: a run that waits makes the same ones later.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Whether the start in the cleanest hours is still to come.
    is_to_start: bool,
    deadline: Option<MonotonicNs>,
    pause_above: Option<GramsPerKwh>,
    /// The mean intensity that is waited for.
    promised_g: Option<f64>,
    /// Whether it was told that the deadline forbids a pause.
    is_deadline_told: bool,
}

/// What is known of the run at some moment.
#[derive(Clone, Copy, Debug)]
pub struct Outlook {
    /// The moment.
    pub now: MonotonicNs,
    /// The wall time, for messages.
    pub clock: WallAnchor,
    /// What is left to train, and what that draws; `None` before enough steps are made to tell.
    pub left: Option<(Seconds, Watts)>,
    /// What the machine draws while it waits, once it is known.
    pub idle: Option<Watts>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Train, and say this, if anything.
    Go(Option<String>),
    /// Wait.
    Wait(Wait),
}

/// Why to wait.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// For what.
    pub reason: PauseReason,
    /// The intensity now.
    pub intensity: GramsPerKwh,
    /// Until when, as far as that can be told.
    pub until: Option<MonotonicNs>,
    /// The same for a person.
    pub why: String,
}

impl Policy {
    /// The policy of a configuration, for a run that was first started `since_start` ago, now being `clock`.
    pub fn new(config: &GridConfig, clock: WallAnchor, since_start: Seconds) -> Self {
        let in_time = |seconds: f64| clock.monotonic.after(Seconds(seconds.max(0.0)));
        let moment = |deadline| match deadline {
            Deadline::At(wall_ns) => in_time((wall_ns - clock.wall_ns) as f64 / 1e9),
            Deadline::After(time) => in_time((time - since_start).get()),
        };
        Self {
            is_to_start: config.is_on() && config.start == StartKind::Cleanest,
            deadline: config.deadline().map(moment),
            pause_above: config.pause_above_g.map(GramsPerKwh),
            promised_g: None,
            is_deadline_told: false,
        }
    }

    /// Whether it could ever say to wait.
    pub fn may_wait(&self) -> bool {
        self.is_to_start || self.pause_above.is_some()
    }

    /// Train or wait?
    pub fn decide(&mut self, known: &Intensities, outlook: &Outlook) -> Decision {
        let mut said = None;
        if self.is_to_start {
            match self.start(known, outlook) {
                // The first steps tell how long the run takes.
                Start::NotYet => return Decision::Go(None),
                Start::Wait(wait) => return Decision::Wait(wait),
                Start::Now(why) => {
                    self.is_to_start = false;
                    said = why;
                }
            }
        }
        match self.pause(known, outlook) {
            Ok(wait) => Decision::Wait(wait),
            Err(why) => Decision::Go(said.or(why)),
        }
    }

    fn start(&mut self, known: &Intensities, outlook: &Outlook) -> Start {
        let Outlook { now, clock, left: Some((time, work)), idle } = *outlook else { return Start::NotYet };
        let load = Load { time, work, idle: idle.unwrap_or(Watts::ZERO) };
        let deadline = self.deadline.unwrap_or(now);
        let latest = deadline.before(time);
        let at_once = |why: String| Start::Now(Some(format!("grid.start: training goes on now: {why}")));
        if latest <= now {
            let day = time_words(clock, deadline, now);
            return at_once(format!("about {} are left, and the deadline is {day}", time_left(time)));
        }
        let Some(best) = cleanest(known, now, latest, load) else {
            return at_once(format!("no forecast reaches over the {} that are left", time_left(time)));
        };
        if best.at <= now {
            if self.promised_g.is_some_and(|promised| best.now_g <= promised * AS_PROMISED) {
                let said = format!("grid.start: training goes on, at {:.0} g/kWh", best.now_g);
                return Start::Now(Some(said));
            }
            return at_once(match idle {
                Some(idle) => format!(
                    "no later start before the deadline saves anything worth the {:.0} W that waiting draws",
                    idle.get()
                ),
                None => format!("no later start before the deadline is cleaner than {:.0} g/kWh", best.now_g),
            });
        }
        self.promised_g = Some(best.mean_g);
        let intensity = known.at(now).map_or(GramsPerKwh(best.now_g), |(intensity, _)| intensity);
        let why = format!(
            "waiting until {} for {:.0} g/kWh instead of {:.0} over the {} that are left",
            time_words(clock, best.at, now),
            best.mean_g,
            best.now_g,
            time_left(time)
        );
        Start::Wait(Wait { reason: PauseReason::Cleanest, intensity, until: Some(best.at), why })
    }

    /// The pause that the intensity asks for, or what is to be said of there being none.
    fn pause(&mut self, known: &Intensities, outlook: &Outlook) -> Result<Wait, Option<String>> {
        let Outlook { now, clock, left, .. } = *outlook;
        let limit = self.pause_above.ok_or(None)?;
        // Where nothing is known the run goes on: a provider that is silent holds nothing up.
        let (intensity, _) =
            known.at(now).filter(|(intensity, _)| intensity.get() > limit.get()).ok_or(None)?;
        let left = left.map_or(Seconds::ZERO, |(time, _)| time);
        if let Some(deadline) = self.deadline.filter(|deadline| now.after(left) >= *deadline) {
            if std::mem::replace(&mut self.is_deadline_told, true) {
                return Err(None);
            }
            return Err(Some(format!(
                "grid.pause_above_g: {:.0} g/kWh, but the deadline is {}: training goes on",
                intensity.get(),
                time_words(clock, deadline, now)
            )));
        }
        let below = known.rows().iter().find(|row| row.from > now && row.intensity.get() <= limit.get());
        let said = match below {
            Some(row) => {
                format!("{:.0} are forecast for {}", row.intensity.get(), time_words(clock, row.from, now))
            }
            None => "no forecast says until when".to_owned(),
        };
        let why = format!(
            "paused at {:.0} g/kWh, above grid.pause_above_g = {}; {said}",
            intensity.get(),
            limit.get()
        );
        Ok(Wait { reason: PauseReason::Above, intensity, until: below.map(|row| row.from), why })
    }
}

enum Start {
    NotYet,
    Wait(Wait),
    Now(Option<String>),
}

/// "2.5 h", "12 min" or "40 s".
fn time_left(time: Seconds) -> String {
    match time.get() {
        seconds if seconds >= 3600.0 => format!("{:.1} h", seconds / 3600.0),
        seconds if seconds >= 60.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{seconds:.0} s"),
    }
}

/// A moment in UTC, with its day if that is not today.
fn time_words(clock: WallAnchor, t: MonotonicNs, now: MonotonicNs) -> String {
    let [then, today] = [t, now].map(|t| clock.rfc3339_at(t));
    let minute = then.get(11..16).unwrap_or_default();
    match (then.get(..10), today.get(..10)) {
        (Some(day), Some(today)) if day != today => format!("{day} {minute} UTC"),
        _ => format!("{minute} UTC"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cleanest::tests::{HOUR, hours};

    const CLOCK: WallAnchor = WallAnchor { wall_ns: 1_790_000_000_000_000_000, monotonic: MonotonicNs(0) };

    fn at(hour: f64, left: Option<f64>) -> Outlook {
        Outlook {
            now: MonotonicNs((hour * HOUR as f64) as u64),
            clock: CLOCK,
            left: left.map(|hours| (Seconds(hours * 3600.0), Watts(700.0))),
            idle: None,
        }
    }

    fn policy(toml: &str) -> Policy {
        let config: GridConfig = toml::from_str(&format!("provider = \"uk\"\n{toml}")).unwrap();
        assert_eq!(config.faults(), Vec::<String>::new());
        Policy::new(&config, CLOCK, Seconds::ZERO)
    }

    fn wait(decision: Decision) -> Wait {
        match decision {
            Decision::Wait(wait) => wait,
            go => panic!("{go:?}"),
        }
    }

    #[test]
    fn it_starts_in_the_cleanest_hours_once_the_first_steps_have_told_how_long_it_takes() {
        let known = hours(&[300.0, 300.0, 100.0, 100.0, 300.0, 300.0, 50.0]);
        let mut policy = policy("start = \"cleanest\"\ndeadline = \"5h\"");
        assert_eq!(policy.decide(&known, &at(0.0, None)), Decision::Go(None));
        let first = wait(policy.decide(&known, &at(0.1, Some(1.5))));
        assert_eq!((first.reason, first.intensity), (PauseReason::Cleanest, GramsPerKwh(300.0)));
        assert_eq!(first.until, Some(MonotonicNs(2 * HOUR)));
        assert_eq!(
            first.why,
            "waiting until 16:13 UTC for 100 g/kWh instead of 300 over the 1.5 h that are left"
        );
        wait(policy.decide(&known, &at(1.9, Some(1.5))));
        let Decision::Go(Some(said)) = policy.decide(&known, &at(2.0, Some(1.5))) else { panic!() };
        assert_eq!(said, "grid.start: training goes on, at 100 g/kWh");
        // It has started, and stays at it.
        assert_eq!(policy.decide(&known, &at(4.0, Some(1.0))), Decision::Go(None));
    }

    #[test]
    fn it_starts_at_once_where_waiting_does_not_pay_or_nothing_is_known_or_time_is_short() {
        let known = hours(&[300.0, 100.0, 100.0]);
        for (deadline, known, left, words) in [
            ("1h", &known, 1.5, "the deadline is 15:13 UTC"),
            ("9h", &known, 6.0, "no forecast reaches"),
            ("9h", &hours(&[]), 1.0, "no forecast reaches"),
            ("3h", &hours(&[100.0, 300.0, 300.0]), 1.0, "no later start"),
        ] {
            let mut policy = policy(&format!("start = \"cleanest\"\ndeadline = {deadline:?}"));
            let Decision::Go(Some(said)) = policy.decide(known, &at(0.0, Some(left))) else {
                panic!("{words}")
            };
            assert!(said.contains(words), "{said}");
        }
        // Waiting began, and then it was seen what waiting draws.
        let mut policy = policy("start = \"cleanest\"\ndeadline = \"3h\"");
        wait(policy.decide(&known, &at(0.0, Some(0.1))));
        let idle = Outlook { idle: Some(Watts(100.0)), ..at(0.01, Some(0.1)) };
        let Decision::Go(Some(said)) = policy.decide(&known, &idle) else { panic!() };
        assert!(said.contains("100 W that waiting draws"), "{said}");
    }

    #[test]
    fn it_pauses_above_the_limit_until_it_is_cleaner_or_nothing_is_known() {
        let known = hours(&[100.0, 300.0, 200.0]);
        let mut policy = policy("pause_above_g = 250.0");
        assert_eq!(policy.decide(&known, &at(0.5, None)), Decision::Go(None));
        let pause = wait(policy.decide(&known, &at(1.0, None)));
        assert_eq!((pause.reason, pause.intensity), (PauseReason::Above, GramsPerKwh(300.0)));
        assert_eq!(
            pause.why,
            "paused at 300 g/kWh, above grid.pause_above_g = 250; 200 are forecast for 16:13 UTC"
        );
        assert_eq!(policy.decide(&known, &at(2.0, None)), Decision::Go(None));
        let dirty = hours(&[300.0]);
        wait(policy.decide(&dirty, &at(1.9, None)));
        assert_eq!(policy.decide(&dirty, &at(2.0, None)), Decision::Go(None), "nothing is known any more");
    }

    #[test]
    fn a_deadline_ends_a_pause_and_that_is_said_once() {
        let known = hours(&[300.0, 300.0, 300.0, 300.0]);
        let mut policy = policy("pause_above_g = 250.0\ndeadline = \"3h\"");
        wait(policy.decide(&known, &at(1.9, Some(1.0))));
        let Decision::Go(Some(said)) = policy.decide(&known, &at(2.0, Some(1.0))) else { panic!() };
        assert!(said.contains("the deadline is 17:13 UTC"), "{said}");
        assert_eq!(policy.decide(&known, &at(2.1, Some(0.9))), Decision::Go(None));
    }
}
