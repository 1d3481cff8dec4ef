//! Answers that processes of one machine share, so that one of them asks for all.
//!
//! Times are kept on the machine's monotonic clock, with the id of its boot: a wall clock that was set meanwhile cannot
//! make an answer look newer or older than it is. An answer from before a boot is not used.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use wattle_runlog::clock::boot_id;
use wattle_runlog::grid::GridBasis;
use wattle_runlog::{GramsPerKwh, MonotonicNs, WallAnchor};

use crate::provider::Interval;

/// Name and version of the file's format.
const SCHEMA: &str = "wattle.grid_cache/1";

/// The longest that another process is waited for, which asks at this moment.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);

/// The file of one provider and zone.
pub(crate) struct Cache {
    path: PathBuf,
    url: String,
}

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    schema: String,
    boot_id: String,
    /// The provider's address.
    url: String,
    /// The provider's wall time, in nanoseconds since 1970, at a moment of the machine's monotonic clock.
    wall_ns: i64,
    monotonic_ns: MonotonicNs,
    /// The answers, in wall time.
    current: Vec<KeptInterval>,
    forecast: Option<Vec<KeptInterval>>,
    /// Until when the provider asked to be left alone.
    not_before_ns: Option<MonotonicNs>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct KeptInterval {
    from_ns: i64,
    to_ns: i64,
    g_per_kwh: GramsPerKwh,
    basis: GridBasis,
}

/// What a round of questions brought, or what another process's did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Round {
    /// Answers to the question for the intensity now.
    pub(crate) current: Vec<Interval>,
    /// Answers to that for the hours ahead, if it was put and answered.
    pub(crate) forecast: Option<Vec<Interval>>,
}

impl Cache {
    /// The file for `name` in `dir`, of answers from `url`. The folder is made if need be; `None` if it cannot be.
    pub(crate) fn open(dir: &Path, name: &str, url: &str) -> Option<Self> {
        let made = fs::create_dir_all(dir);
        if let Err(error) = &made {
            tracing::warn!("grid.cache_dir: cannot make {}: {error}; answers are not shared", dir.display());
        }
        made.ok().map(|()| Self { path: dir.join(format!("{name}.json")), url: url.to_owned() })
    }

    /// Keeps other processes from asking until the lock is dropped. Without one, they may.
    pub(crate) fn lock(&self) -> Option<File> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path.with_extension("lock"))
            .ok()?;
        let begun = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Some(file),
                Err(TryLockError::WouldBlock) if begun.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(_) => return None,
            }
        }
    }

    /// What is there, if it is of this boot and this address.
    pub(crate) fn read(&self) -> Option<Kept> {
        let bytes = wattle_files::read(&self.path, wattle_files::SMALL).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        (kept.schema == SCHEMA && kept.boot_id == boot_id() && kept.url == self.url).then_some(kept)
    }

    /// Writes it, whole or not at all. If that fails, the run goes on without a cache.
    pub(crate) fn write(&self, clock: WallAnchor, round: &Round, not_before: Option<MonotonicNs>) {
        let kept = Kept {
            schema: SCHEMA.to_owned(),
            boot_id: boot_id(),
            url: self.url.clone(),
            wall_ns: clock.wall_ns,
            monotonic_ns: clock.monotonic,
            current: round.current.iter().map(KeptInterval::of).collect(),
            forecast: round.forecast.as_ref().map(|rows| rows.iter().map(KeptInterval::of).collect()),
            not_before_ns: not_before,
        };
        let write = || -> std::io::Result<()> {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(&serde_json::to_vec(&kept)?)?;
            file.persist(&self.path)?;
            Ok(())
        };
        if let Err(error) = write() {
            tracing::debug!("{}: {error}", self.path.display());
        }
    }
}

impl Kept {
    /// The provider's clock.
    pub(crate) fn clock(&self) -> WallAnchor {
        WallAnchor { wall_ns: self.wall_ns, monotonic: self.monotonic_ns }
    }

    /// The answers.
    pub(crate) fn round(&self) -> Round {
        let intervals = |kept: &Vec<KeptInterval>| kept.iter().map(KeptInterval::interval).collect();
        Round { current: intervals(&self.current), forecast: self.forecast.as_ref().map(intervals) }
    }

    /// Until when the provider asked to be left alone, if that is still to come.
    pub(crate) fn not_before(&self, now: MonotonicNs) -> Option<MonotonicNs> {
        self.not_before_ns.filter(|not_before| *not_before > now)
    }

    /// Whether the figure for now is among the answers.
    pub(crate) fn is_fresh(&self, now: MonotonicNs) -> bool {
        let now_ns = self.clock().wall_ns_at(now);
        self.monotonic_ns <= now
            && self.current.iter().any(|interval| interval.from_ns <= now_ns && now_ns < interval.to_ns)
    }
}

impl KeptInterval {
    fn of(interval: &Interval) -> Self {
        let Interval { from_ns, to_ns, intensity, basis } = *interval;
        Self { from_ns, to_ns, g_per_kwh: intensity, basis }
    }

    fn interval(&self) -> Interval {
        let Self { from_ns, to_ns, g_per_kwh, basis } = *self;
        Interval { from_ns, to_ns, intensity: g_per_kwh, basis }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://example.com";

    /// An hour of 250 g/kWh around now.
    fn hour(clock: WallAnchor) -> Round {
        let half = 1_800_000_000_000;
        let (from_ns, to_ns) = (clock.wall_ns - half, clock.wall_ns + half);
        let current =
            vec![Interval { from_ns, to_ns, intensity: GramsPerKwh(250.0), basis: GridBasis::Live }];
        Round { current, forecast: None }
    }

    #[test]
    fn what_is_kept_is_read_back_and_grows_old_by_the_monotonic_clock() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "uk-GB", URL).unwrap();
        assert_eq!(cache.read(), None);
        // A wall clock of 1970: only the distance to the interval counts.
        let clock = WallAnchor { wall_ns: 0, ..WallAnchor::now() };
        cache.write(clock, &hour(clock), None);
        let kept = cache.read().unwrap();
        assert_eq!((kept.round(), kept.clock()), (hour(clock), clock));
        let after = |seconds| clock.monotonic.after(wattle_runlog::Seconds(seconds));
        assert!(kept.is_fresh(after(0.0)) && kept.is_fresh(after(1799.0)) && !kept.is_fresh(after(1801.0)));
        assert_eq!(kept.not_before(after(0.0)), None);
        cache.write(clock, &hour(clock), Some(after(10.0)));
        let kept = cache.read().unwrap();
        assert_eq!((kept.not_before(after(9.0)), kept.not_before(after(11.0))), (Some(after(10.0)), None));
    }

    #[test]
    fn answers_of_another_boot_or_address_and_damaged_files_are_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "uk-GB", URL).unwrap();
        let clock = WallAnchor::now();
        cache.write(clock, &hour(clock), None);
        assert_eq!(Cache::open(dir.path(), "uk-GB", "https://other.example").unwrap().read(), None);
        let path = dir.path().join("uk-GB.json");
        let text = fs::read_to_string(&path).unwrap();
        for other in [text.replace(&boot_id(), "another-boot"), text[..text.len() / 2].to_owned()] {
            fs::write(&path, other).unwrap();
            assert_eq!(cache.read(), None);
        }
        fs::write(&path, text).unwrap();
        assert!(cache.read().is_some());
    }
}
