//! One question over HTTP, and what time it is by the provider's clock.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;
use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};
use wattle_runlog::{MonotonicNs, Seconds, WallAnchor};

use crate::config::GridConfig;
use crate::error::GridError;
use crate::provider::{KeyKind, Provider, Query};

/// The longest that one question takes, from the look-up of the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that a connection takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No provider's answer is longer.
const MAX_BYTES: u64 = 4 << 20;
/// A date in a header has whole seconds, and an answer takes a moment: clocks that agree to this are the same.
pub(crate) const SAME_CLOCK_NS: u64 = 2_000_000_000;
/// The longest that a provider is left alone because it asked for it.
const MAX_RETRY: Seconds = Seconds(86_400.0);

/// Asks one provider.
pub(crate) struct Client {
    agent: Agent,
    base: String,
    key: Option<(KeyKind, Key)>,
}

/// A secret: it goes into a header, and nowhere else.
struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    /// The provider's wall time at a moment of this process's clock.
    pub(crate) clock: WallAnchor,
    /// How far this machine's wall clock is ahead of the provider's, where they differ.
    pub(crate) ahead: Option<f64>,
}

/// Why there is no answer.
pub(crate) enum Failure {
    /// It may go better later, at the earliest after the time that the provider named.
    Passing { reason: String, retry: Option<Seconds> },
    /// The key was refused.
    Key { status: String },
    /// What was asked for is not there.
    Missing { reason: String },
}

impl Client {
    /// A client with the key that the environment holds.
    ///
    /// # Errors
    /// If there is no key where one is needed, or it would be sent over an open line.
    pub(crate) fn new(config: &GridConfig, provider: &dyn Provider) -> Result<Self, GridError> {
        let base = config.url.as_deref().unwrap_or(provider.url()).trim_end_matches('/').to_owned();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect could carry the key to another host.
            .max_redirects(0)
            .user_agent(concat!("wattle/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(TIMEOUT))
            .build()
            .into();
        let key = provider.key().map(|kind| key(config, provider.name(), kind, &base)).transpose()?;
        Ok(Self { agent, base, key: key.flatten() })
    }

    /// The provider's address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Asks once.
    pub(crate) fn ask(&self, query: &Query) -> Result<Answer, Failure> {
        let url = format!("{}{}", self.base, query.0);
        let mut request = self.agent.get(&url);
        if let Some((kind, Key(key))) = &self.key {
            request = request.header(kind.header, key);
        }
        let is_here = url.parse().is_ok_and(|uri: Uri| is_this_machine(&uri));
        let request = if is_here { request.config().proxy(None).build() } else { request };
        let sent = MonotonicNs::now();
        let response = request.call().map_err(|error| passing(format!("{}: {error}", self.base)))?;
        let (clock, ahead) = clock(&response, sent);
        let status = response.status();
        let retry = retry_after(&response, clock);
        let body = response.into_body().into_with_config().limit(MAX_BYTES).read_to_vec();
        match status {
            StatusCode::OK => {
                let body = body.map_err(|error| passing(format!("{}: {error}", self.base)))?;
                Ok(Answer { body, clock, ahead })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Failure::Key { status: status.to_string() })
            }
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY => {
                let said = body.map(|body| said(&body)).unwrap_or_default();
                Err(Failure::Missing { reason: format!("{status}{said}") })
            }
            _ => Err(Failure::Passing { reason: format!("{} answered {status}", self.base), retry }),
        }
    }
}

/// Where the key is read from.
fn key(
    config: &GridConfig,
    provider: &'static str,
    kind: KeyKind,
    base: &str,
) -> Result<Option<(KeyKind, Key)>, GridError> {
    let KeyKind { variable, page, .. } = kind;
    let key = std::env::var(variable).ok().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty());
    match key {
        // A mirror may need none.
        None if config.url.is_some() => Ok(None),
        None => Err(GridError::NoKey { provider, variable, page }),
        Some(_) if is_open_line(base) => Err(GridError::OpenLine { url: base.to_owned(), variable }),
        Some(key) => Ok(Some((kind, Key(key)))),
    }
}

fn is_open_line(base: &str) -> bool {
    base.parse().is_ok_and(|uri: Uri| uri.scheme_str() != Some("https") && !is_this_machine(&uri))
}

/// Whether an address is this machine, for which no proxy is asked.
fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn passing(reason: String) -> Failure {
    Failure::Passing { reason, retry: None }
}

/// The provider's wall time now: its `Date`, or this machine's clock if the answer has no date or the two agree. Also how far this
/// machine's clock is ahead of it.
fn clock(response: &Response<Body>, sent: MonotonicNs) -> (WallAnchor, Option<f64>) {
    let here = WallAnchor::now();
    let Some(there) = text(response, header::DATE).and_then(|date| http_date_ns(&date)) else {
        return (here, None);
    };
    // It was written somewhere between question and answer, and lost half a second on average.
    let there =
        WallAnchor { wall_ns: there.saturating_add(500_000_000), monotonic: sent.midpoint(here.monotonic) };
    let ahead_ns = here.wall_ns.saturating_sub(there.wall_ns_at(here.monotonic));
    match ahead_ns.unsigned_abs() <= SAME_CLOCK_NS {
        true => (here, None),
        false => (there, Some(ahead_ns as f64 / 1e9)),
    }
}

/// How long to wait, by `Retry-After`: seconds, or a date.
fn retry_after(response: &Response<Body>, clock: WallAnchor) -> Option<Seconds> {
    let after = text(response, header::RETRY_AFTER)?;
    let seconds = match after.trim().parse::<u64>() {
        Ok(seconds) => seconds as f64,
        Err(_) => (http_date_ns(&after)? - clock.wall_ns) as f64 / 1e9,
    };
    Some(Seconds(seconds.clamp(0.0, MAX_RETRY.get())))
}

fn http_date_ns(date: &str) -> Option<i64> {
    let time = DateTimeParser::new().parse_timestamp(date.trim()).ok()?;
    time.as_nanosecond().try_into().ok()
}

/// What an answer says of an error, in one line.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(120).collect();
    let words: String = words.chars().filter(|c| !c.is_control()).collect();
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

fn text(response: &Response<Body>, name: header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_headers_are_read() {
        assert_eq!(http_date_ns("Thu, 01 Jan 1970 00:00:10 GMT"), Some(10_000_000_000));
        assert_eq!(http_date_ns("soon"), None);
    }

    #[test]
    fn a_key_is_never_shown_and_goes_over_no_open_line() {
        assert_eq!(format!("{:?}", Key("secret".to_owned())), "a key");
        assert!(is_open_line("http://example.com") && !is_open_line("https://example.com"));
        assert!(!is_open_line("http://127.0.0.1:80") && !is_open_line("http://[::1]:80"));
    }
}
