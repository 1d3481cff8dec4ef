//! When to ask next.

use wattle_runlog::{MonotonicNs, Seconds};

/// A figure is asked for a little after the one before it ends: providers take a moment, too.
const SLACK: f64 = 0.01;
const MAX_SLACK: Seconds = Seconds(30.0);
/// Where the newest figure is of an interval that is over, it is asked for again after this share of one.
const STALE_SHARE: f64 = 0.1;
const STALE_LIMITS: (f64, f64) = (0.2, 300.0);
/// The first wait after a failure, where no interval is known, and the longest.
const FIRST_WAIT: Seconds = Seconds(30.0);
const LONGEST_WAIT: Seconds = Seconds(900.0);

/// What the last question came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Asked {
    /// A figure that stands until then.
    Answered { until: MonotonicNs },
    /// Nothing, for the `failures`th time running; the provider may have named a wait.
    Failed { failures: u32, retry: Option<Seconds> },
}

/// When to ask next. `length` is that of the newest interval, if there was one.
pub(crate) fn next(now: MonotonicNs, asked: Asked, length: Option<Seconds>) -> MonotonicNs {
    let share = |part: f64| length.map(|length| length * part);
    let bounded = |time: Seconds, (low, high): (f64, f64)| Seconds(time.get().clamp(low, high));
    match asked {
        Asked::Answered { until } if until > now => {
            let slack = share(SLACK).map_or(MAX_SLACK, |slack| bounded(slack, (0.01, MAX_SLACK.get())));
            until.after(slack)
        }
        Asked::Answered { .. } => now.after(bounded(share(STALE_SHARE).unwrap_or(FIRST_WAIT), STALE_LIMITS)),
        Asked::Failed { retry: Some(retry), .. } => now.after(bounded(retry, (1.0, f64::MAX))),
        Asked::Failed { failures, retry: None } => {
            let first = bounded(share(STALE_SHARE).unwrap_or(FIRST_WAIT), (0.2, FIRST_WAIT.get()));
            let doubled = first * f64::from(1u32 << failures.saturating_sub(1).min(16));
            now.after(bounded(doubled, (0.2, LONGEST_WAIT.get())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: MonotonicNs = MonotonicNs(1_000_000_000_000);
    const HALF_HOUR: Option<Seconds> = Some(Seconds(1800.0));

    fn wait(asked: Asked, length: Option<Seconds>) -> f64 {
        (next(NOW, asked, length).since(NOW).get() * 1e3).round() / 1e3
    }

    #[test]
    fn nobody_is_asked_while_a_figure_stands() {
        let until = NOW.after(Seconds(1000.0));
        assert_eq!(wait(Asked::Answered { until }, HALF_HOUR), 1018.0);
        assert_eq!(wait(Asked::Answered { until: NOW }, HALF_HOUR), 180.0, "a provider that is behind");
    }

    #[test]
    fn failures_wait_longer_and_longer_and_what_the_provider_asks_for_counts() {
        let failed = |failures, retry| wait(Asked::Failed { failures, retry }, HALF_HOUR);
        assert_eq!([1, 2, 3].map(|n| failed(n, None)), [30.0, 60.0, 120.0]);
        assert_eq!(failed(40, None), 900.0);
        assert_eq!(failed(1, Some(Seconds(7200.0))), 7200.0);
        assert_eq!(failed(9, Some(Seconds(0.0))), 1.0);
    }
}
