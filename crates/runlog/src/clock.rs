//! Time: monotonic nanoseconds, and one anchor that ties them to the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::Unit;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::units::Seconds;

/// A moment on the host's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds since boot.
///
/// Comparable between processes of one boot, and with nothing else: [`WallAnchor`] and the boot id in the
/// manifest say which boot it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonotonicNs(pub u64);

impl MonotonicNs {
    /// The present moment.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        Self(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// Time since an earlier moment, zero if that is not earlier.
    pub fn since(self, earlier: Self) -> Seconds {
        Seconds::from_ns(self.0.saturating_sub(earlier.0))
    }

    /// The moment so much later.
    pub fn after(self, time: Seconds) -> Self {
        Self(self.0.saturating_add(time.ns()))
    }

    /// The moment so much earlier, or the clock's beginning where there is none.
    pub fn before(self, time: Seconds) -> Self {
        Self(self.0.saturating_sub(time.ns()))
    }

    /// The middle between two moments: the best stamp for a reading that began at one and ended at the other.
    pub fn midpoint(self, other: Self) -> Self {
        Self(self.0 / 2 + other.0 / 2 + (self.0 % 2 + other.0 % 2) / 2)
    }
}

/// The same moment on both clocks, taken once a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallAnchor {
    /// Wall clock, nanoseconds since 1970 UTC.
    pub wall_ns: i64,
    /// Monotonic clock.
    pub monotonic: MonotonicNs,
}

impl WallAnchor {
    /// Reads both clocks.
    pub fn now() -> Self {
        let before = MonotonicNs::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        Self { wall_ns: wall, monotonic: before.midpoint(MonotonicNs::now()) }
    }

    /// The wall time of a monotonic moment of the same boot.
    pub fn wall_ns_at(&self, t: MonotonicNs) -> i64 {
        self.wall_ns + t.0 as i64 - self.monotonic.0 as i64
    }

    /// The monotonic moment of a wall time of the same boot.
    pub fn monotonic_at(&self, wall_ns: i64) -> MonotonicNs {
        MonotonicNs((self.monotonic.0 as i64 + wall_ns - self.wall_ns) as u64)
    }

    /// The wall time of a monotonic moment as RFC 3339 in UTC, to the millisecond.
    pub fn rfc3339_at(&self, t: MonotonicNs) -> String {
        rfc3339(self.wall_ns_at(t), Unit::Millisecond)
    }

    /// The anchor's own wall time as RFC 3339 in UTC, to the nanosecond.
    pub fn rfc3339(&self) -> String {
        rfc3339(self.wall_ns, Unit::Nanosecond)
    }

    /// The anchor from what a manifest holds of it; `None` if the wall time is not RFC 3339.
    pub fn parse(wall: &str, monotonic: MonotonicNs) -> Option<Self> {
        let wall_ns = wall.parse::<Timestamp>().ok()?.as_nanosecond().try_into().ok()?;
        Some(Self { wall_ns, monotonic })
    }
}

/// The present wall time as `YYYYMMDD-HHMMSS` in UTC: what run directories are named with.
pub fn file_stamp() -> String {
    timestamp(WallAnchor::now().wall_ns).strftime("%Y%m%d-%H%M%S").to_string()
}

/// A wall time as `YYYY-MM-DDTHH:MM:SS` without a zone, as CodeCarbon writes it.
pub fn zoneless(wall_ns: i64) -> String {
    timestamp(wall_ns).strftime("%Y-%m-%dT%H:%M:%S").to_string()
}

/// A wall time that another program wrote, in nanoseconds since 1970 UTC, and whether its text named a zone: RFC 3339, or
/// without a zone, with `T` or a space between date and time, which is then `utc_offset_s` ahead of UTC. `None` if it is
/// neither.
pub fn parse_wall(text: &str, utc_offset_s: i32) -> Option<(i64, bool)> {
    let text = text.trim();
    let ns = |timestamp: Timestamp| timestamp.as_nanosecond().try_into().ok();
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Some((ns(timestamp)?, true));
    }
    let civil: jiff::civil::DateTime = text.parse().ok()?;
    let utc = jiff::tz::Offset::UTC.to_timestamp(civil).ok()?;
    Some((ns(utc)?.checked_sub(i64::from(utc_offset_s) * 1_000_000_000)?, false))
}

/// The kernel's id of this boot, or "unknown" where it has none.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
}

fn timestamp(wall_ns: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(wall_ns)).expect("64-bit nanoseconds end in 2262")
}

fn rfc3339(wall_ns: i64, unit: Unit) -> String {
    let time = timestamp(wall_ns);
    time.round(unit).unwrap_or(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_survives_the_manifest() {
        let anchor = WallAnchor { wall_ns: 1_790_000_000_123_456_789, monotonic: MonotonicNs(5_000_000_000) };
        assert_eq!(WallAnchor::parse(&anchor.rfc3339(), anchor.monotonic), Some(anchor));
        assert_eq!(anchor.rfc3339_at(MonotonicNs(6_000_000_000)), "2026-09-21T14:13:21.123Z");
        assert_eq!(zoneless(anchor.wall_ns), "2026-09-21T14:13:20");
    }

    #[test]
    fn a_wall_time_of_others_is_read_with_and_without_its_zone() {
        let utc = 1_790_000_000_000_000_000;
        for (text, offset, zoned) in [
            ("2026-09-21T14:13:20Z", 0, true),
            ("2026-09-21T16:13:20+02:00", 0, true),
            ("2026-09-21T16:13:20+02:00", 3600, true),
            ("2026-09-21 14:13:20", 0, false),
            ("2026-09-21T16:13:20.000", 7200, false),
        ] {
            assert_eq!(parse_wall(text, offset), Some((utc, zoned)), "{text}");
        }
        for text in ["", "14:13:20", "2026-13-21T14:13:20", "yesterday", "1790000000"] {
            assert_eq!(parse_wall(text, 0), None, "{text}");
        }
    }

    #[test]
    fn moments_apart_stop_at_the_ends_of_the_clock() {
        let t = MonotonicNs(2_000_000_000);
        assert_eq!(
            (t.after(Seconds(0.5)), t.before(Seconds(0.5))),
            (MonotonicNs(2_500_000_000), MonotonicNs(1_500_000_000))
        );
        assert_eq!(
            (t.before(Seconds(3.0)), MonotonicNs(u64::MAX).after(Seconds(1.0))),
            (MonotonicNs(0), MonotonicNs(u64::MAX))
        );
    }

    #[test]
    fn midpoints_do_not_overflow() {
        let max = MonotonicNs(u64::MAX);
        assert_eq!(max.midpoint(max), max);
        assert_eq!(MonotonicNs(3).midpoint(MonotonicNs(5)), MonotonicNs(4));
    }
}
