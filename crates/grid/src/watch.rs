//! The thread that asks, and what it has learnt.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use wattle_runlog::grid::{GRID_SCHEMA, GridEntry, Intensities, Row};
use wattle_runlog::{MonotonicNs, Seconds, WallAnchor};

use crate::cache::{Cache, Kept, Round};
use crate::client::{Client, Failure, SAME_CLOCK_NS};
use crate::config::{GridConfig, StartKind};
use crate::error::GridError;
use crate::provider::{Interval, Provider, Unreadable};
use crate::schedule::{Asked, next};

/// A wall clock that is further off than this is told.
const WRONG_CLOCK_S: f64 = 60.0;

/// Asks one provider for as long as it lives, and holds what is known.
pub struct Grid {
    shared: Arc<Mutex<State>>,
    /// The thread ends when this goes.
    _alive: Sender<()>,
}

/// An intensity that was learnt, with its wall time by the provider's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Learnt {
    /// The interval on this process's clock.
    pub row: Row,
    /// Its start, RFC 3339 in UTC.
    pub from: String,
    /// Its end.
    pub to: String,
}

struct State {
    known: Arc<Intensities>,
    /// Learnt since it was last taken.
    news: Vec<Learnt>,
    clock: WallAnchor,
}

/// What asks.
struct Asker {
    provider: Box<dyn Provider>,
    client: Client,
    cache: Option<Cache>,
    shared: Arc<Mutex<State>>,
    wants_forecast: bool,
    failures: u32,
    /// The length of the newest interval.
    length: Option<Seconds>,
    is_clock_told: bool,
    is_forecast_told: bool,
    /// Whether the newest figure was already over when it came, and that was told.
    is_stale_told: bool,
}

/// Why a round of questions brought nothing.
enum Trouble {
    /// It may go better later.
    Passing { reason: String, retry: Option<Seconds> },
    /// The configuration is at fault.
    Fault(GridError),
}

impl Grid {
    /// Asks for the first time, which takes as long as the provider takes, at most half a minute; then goes on on a thread
    /// of its own. `None` if nobody is to be asked.
    ///
    /// # Errors
    /// If the provider needs a key that is not there, or refuses key or zone, or has no forecast where the configuration
    /// needs one. A provider that does not answer is no error.
    pub fn start(config: &GridConfig) -> Result<Option<Self>, GridError> {
        let Some(provider) = config.provider() else { return Ok(None) };
        let client = Client::new(config, provider.as_ref())?;
        let state = State {
            known: Arc::new(Intensities::new(provider.origin())),
            news: Vec::new(),
            clock: WallAnchor::now(),
        };
        let shared = Arc::new(Mutex::new(state));
        let name = format!("{}-{}", provider.name(), provider.zone());
        let cache = cache_dir(config).and_then(|dir| Cache::open(&dir, &name, client.base()));
        let mut asker = Asker {
            provider,
            client,
            cache,
            shared: shared.clone(),
            wants_forecast: config.may_wait(),
            failures: 0,
            length: None,
            is_clock_told: false,
            is_forecast_told: false,
            is_stale_told: false,
        };
        let next = asker.first(config.start == StartKind::Cleanest)?;
        let (alive, ended) = channel();
        let go_on = move || asker.run(&ended, next);
        if let Err(error) = std::thread::Builder::new().name("grid".to_owned()).spawn(go_on) {
            tracing::warn!("grid: no thread to ask on ({error}); what is known now is all that will be");
        }
        Ok(Some(Self { shared, _alive: alive }))
    }

    /// What is known.
    pub fn known(&self) -> Arc<Intensities> {
        lock(&self.shared).known.clone()
    }

    /// The provider's wall time, on this process's clock.
    pub fn clock(&self) -> WallAnchor {
        lock(&self.shared).clock
    }

    /// What was learnt since this was last asked, as entries of `segment`.
    pub fn news(&self, segment: u32) -> Vec<GridEntry> {
        let mut state = lock(&self.shared);
        let origin = state.known.origin().clone();
        let entry = |learnt: Learnt| GridEntry {
            schema: GRID_SCHEMA.to_owned(),
            segment,
            origin: origin.clone(),
            basis: learnt.row.basis,
            from: learnt.from,
            to: learnt.to,
            from_ns: learnt.row.from,
            to_ns: learnt.row.to,
            g_per_kwh: learnt.row.intensity,
        };
        std::mem::take(&mut state.news).into_iter().map(entry).collect()
    }
}

/// What would be asked, for a person, and what is known already from other runs: nobody is asked.
pub fn plan(config: &GridConfig) -> Option<(Vec<String>, Option<Arc<Intensities>>)> {
    let provider = config.provider()?;
    let base = config.url.as_deref().unwrap_or(provider.url()).trim_end_matches('/');
    let mut asked = vec![format!("{base}{}", provider.current().0)];
    if config.may_wait() {
        asked.push(format!("{base}{}", provider.forecast(WallAnchor::now().wall_ns).0));
    }
    let name = format!("{}-{}", provider.name(), provider.zone());
    let cache = cache_dir(config).filter(|dir| dir.is_dir()).and_then(|dir| Cache::open(&dir, &name, base));
    let kept = cache.and_then(|cache| cache.read()).filter(|kept| kept.is_fresh(MonotonicNs::now()));
    let known = kept.map(|kept| {
        let mut known = Intensities::new(provider.origin());
        let Round { current, forecast } = kept.round();
        for interval in current.iter().chain(forecast.iter().flatten()) {
            known.insert(row(interval, kept.clock()));
        }
        Arc::new(known)
    });
    Some((asked, known))
}

impl Asker {
    /// The first round; returns when to ask next.
    fn first(&mut self, needs_forecast: bool) -> Result<MonotonicNs, GridError> {
        match self.round(needs_forecast) {
            Err(Trouble::Fault(fault)) => Err(fault),
            outcome => Ok(self.note(outcome)),
        }
    }

    fn run(mut self, ended: &Receiver<()>, mut at: MonotonicNs) {
        loop {
            let wait = Duration::from_secs_f64(at.since(MonotonicNs::now()).get());
            match ended.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {
                    let outcome = self.round(false);
                    at = self.note(outcome);
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Says what has changed, and when to ask next.
    fn note(&mut self, outcome: Result<MonotonicNs, Trouble>) -> MonotonicNs {
        let now = MonotonicNs::now();
        let asked = match outcome {
            Ok(until) => {
                if self.failures > 0 {
                    tracing::info!("grid: {} answers again", self.provider.name());
                }
                self.failures = 0;
                if until > now {
                    self.is_stale_told = false;
                } else if !std::mem::replace(&mut self.is_stale_told, true) {
                    // Each takes the lock: one after the other, whether or not the line is logged.
                    let ended = lock(&self.shared).clock.rfc3339_at(until);
                    let meanwhile = self.meanwhile(now);
                    tracing::warn!(
                        "grid: the newest figure of {} ended at {ended}; {meanwhile}",
                        self.provider.name()
                    );
                }
                Asked::Answered { until }
            }
            Err(trouble) => {
                let (reason, retry) = match trouble {
                    Trouble::Passing { reason, retry } => (reason, retry),
                    Trouble::Fault(fault) => (fault.to_string(), None),
                };
                self.failures += 1;
                if self.failures == 1 {
                    tracing::warn!("grid: {reason}; {}", self.meanwhile(now));
                } else {
                    tracing::debug!("grid: {reason}");
                }
                Asked::Failed { failures: self.failures, retry }
            }
        };
        next(now, asked, self.length)
    }

    /// What prices energy while nothing newer comes.
    fn meanwhile(&self, now: MonotonicNs) -> String {
        let state = lock(&self.shared);
        let mut until = now;
        while let Some(piece) = state.known.pieces(until, MonotonicNs(u64::MAX)).first() {
            if piece.known.is_none() {
                break;
            }
            until = piece.to;
        }
        match until > now {
            true => format!(
                "what is known holds until {}, then a table or a fixed intensity prices energy",
                state.clock.rfc3339_at(until)
            ),
            false => "a table or a fixed intensity prices energy until then".to_owned(),
        }
    }

    /// Puts the questions, unless another process has done so for this interval. Returns until when the newest figure
    /// stands.
    fn round(&mut self, needs_forecast: bool) -> Result<MonotonicNs, Trouble> {
        let lock = self.cache.as_ref().and_then(Cache::lock);
        let now = MonotonicNs::now();
        let kept = self.cache.as_ref().and_then(Cache::read);
        if let Some(kept) = &kept {
            if let Some(not_before) = kept.not_before(now) {
                let reason = format!("{} asked to be left alone for a while", self.client.base());
                return Err(Trouble::Passing { reason, retry: Some(not_before.since(now)) });
            }
            let round = kept.round();
            if kept.is_fresh(now) && (!self.wants_forecast || round.forecast.is_some()) {
                return Ok(self.learn(&round, kept.clock()));
            }
        }
        let asked = self.ask(needs_forecast);
        if let Some(cache) = &self.cache {
            match &asked {
                Ok((round, clock)) => cache.write(*clock, round, None),
                Err(Trouble::Passing { retry: Some(retry), .. }) => {
                    let round = kept.as_ref().map(Kept::round).unwrap_or_default();
                    let clock = kept.as_ref().map_or_else(WallAnchor::now, Kept::clock);
                    cache.write(clock, &round, Some(MonotonicNs::now().after(*retry)));
                }
                Err(_) => {}
            }
        }
        drop(lock);
        asked.map(|(round, clock)| self.learn(&round, clock))
    }

    fn ask(&mut self, needs_forecast: bool) -> Result<(Round, WallAnchor), Trouble> {
        let query = self.provider.current();
        let answer = self.client.ask(&query).map_err(|failure| self.trouble(failure, &query.0))?;
        let current =
            self.provider.read_current(&answer.body).map_err(|error| self.unreadable(error, &query.0))?;
        if let Some(ahead) = answer.ahead.filter(|ahead| ahead.abs() > WRONG_CLOCK_S && !self.is_clock_told) {
            self.is_clock_told = true;
            let how = if ahead > 0.0 { "ahead of" } else { "behind" };
            tracing::warn!(
                "grid: this machine's clock is {:.0} s {how} that of {}; intensities follow the provider's",
                ahead.abs(),
                self.client.base()
            );
        }
        let forecast = match self.wants_forecast {
            true => self.ask_for_forecast(answer.clock, needs_forecast)?,
            false => None,
        };
        Ok((Round { current, forecast }, answer.clock))
    }

    /// The hours ahead. What keeps them from being known is told once, and no error unless they are needed and will not
    /// come.
    fn ask_for_forecast(
        &mut self,
        clock: WallAnchor,
        is_needed: bool,
    ) -> Result<Option<Vec<Interval>>, Trouble> {
        let query = self.provider.forecast(clock.wall_ns_at(MonotonicNs::now()));
        let url = || format!("{}{}", self.client.base(), query.0);
        let read = |body: &[u8]| self.provider.read_forecast(body);
        let (reason, is_final) = match self.client.ask(&query).map(|answer| read(&answer.body)) {
            Ok(Ok(intervals)) if !intervals.is_empty() => return Ok(Some(intervals)),
            Ok(Ok(_)) => ("it is empty".to_owned(), false),
            Ok(Err(Unreadable::OtherZone(zone))) => (format!("it is of the zone {zone}"), true),
            Ok(Err(Unreadable::Nonsense(what))) => (format!("it has {what}"), false),
            Err(Failure::Passing { reason, .. }) => (reason, false),
            Err(Failure::Key { status }) => (status, true),
            Err(Failure::Missing { reason }) => (reason, true),
        };
        if is_final && is_needed {
            return Err(Trouble::Fault(GridError::NoForecast { url: url(), reason }));
        }
        if !std::mem::replace(&mut self.is_forecast_told, true) {
            tracing::warn!("grid: no forecast from {} ({reason})", self.client.base());
        }
        // What was refused for good is not asked for again.
        self.wants_forecast &= !is_final;
        Ok(None)
    }

    fn trouble(&self, failure: Failure, query: &str) -> Trouble {
        let url = format!("{}{query}", self.client.base());
        match failure {
            Failure::Passing { reason, retry } => Trouble::Passing { reason, retry },
            Failure::Key { status } => match self.provider.key() {
                Some(kind) => Trouble::Fault(GridError::RefusedKey { url, variable: kind.variable, status }),
                None => Trouble::Passing { reason: format!("{url} answered {status}"), retry: None },
            },
            Failure::Missing { reason } => Trouble::Fault(self.unknown_zone(url, reason)),
        }
    }

    fn unreadable(&self, error: Unreadable, query: &str) -> Trouble {
        let url = format!("{}{query}", self.client.base());
        match error {
            Unreadable::OtherZone(zone) => {
                Trouble::Fault(self.unknown_zone(url, format!("it answered for {zone}")))
            }
            Unreadable::Nonsense(what) => Trouble::Passing {
                reason: format!("{url} answered what cannot be read: {what}"),
                retry: None,
            },
        }
    }

    fn unknown_zone(&self, url: String, reason: String) -> GridError {
        let (zone, zones) = (self.provider.zone().to_owned(), self.provider.zones());
        GridError::UnknownZone { zone, url, reason, zones }
    }

    /// Adds what was learnt; returns until when the newest figure stands.
    fn learn(&mut self, round: &Round, clock: WallAnchor) -> MonotonicNs {
        let mut state = lock(&self.shared);
        // Two readings of one clock differ by a little: intervals then stay where they are.
        let differs = clock.wall_ns.abs_diff(state.clock.wall_ns_at(clock.monotonic)) > SAME_CLOCK_NS;
        let clock = if differs { clock } else { state.clock };
        let mut known = (*state.known).clone();
        // Figures come last: a forecast of the same time does not replace them.
        for interval in round.forecast.iter().flatten().chain(&round.current) {
            for row in known.insert(row(interval, clock)) {
                let [from, to] = [row.from, row.to].map(|t| clock.rfc3339_at(t));
                state.news.push(Learnt { row, from, to });
            }
        }
        (state.known, state.clock) = (Arc::new(known), clock);
        let newest = round.current.iter().max_by_key(|interval| interval.to_ns);
        self.length =
            newest.map(|newest| Seconds::from_ns((newest.to_ns - newest.from_ns) as u64)).or(self.length);
        newest.map_or(MonotonicNs(0), |newest| at(newest.to_ns, clock))
    }
}

/// An interval on this process's clock.
fn row(interval: &Interval, clock: WallAnchor) -> Row {
    let Interval { from_ns, to_ns, intensity, basis } = *interval;
    Row { from: at(from_ns, clock), to: at(to_ns, clock), intensity, basis }
}

/// A wall time on this process's clock; 0 where that had not begun.
fn at(wall_ns: i64, clock: WallAnchor) -> MonotonicNs {
    let t = i128::from(clock.monotonic.0) + i128::from(wall_ns) - i128::from(clock.wall_ns);
    MonotonicNs(u64::try_from(t.max(0)).unwrap_or(u64::MAX))
}

fn cache_dir(config: &GridConfig) -> Option<PathBuf> {
    config.cache_dir.clone().or_else(|| wattle_files::cache_dir().map(|dir| dir.join("grid")))
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
