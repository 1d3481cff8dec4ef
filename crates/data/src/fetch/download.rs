//! One file over HTTP, in as many attempts as it takes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use ureq::http::{Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::part::{Origin, Part};
use super::{Expected, FetchProgress, Fetcher};
use crate::catalog::{DatasetManifest, RemoteFile};
use crate::error::DataError;

/// Bytes that are read at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// Longest pause between attempts, also where the server asks for a longer one.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// One file that is to be downloaded.
pub(super) struct Download<'a> {
    pub fetcher: &'a Fetcher,
    pub manifest: &'a DatasetManifest,
    pub file: &'a RemoteFile,
    pub part: &'a Part,
    pub expected: &'a Expected,
}

/// Why an attempt failed.
enum Failure {
    /// For good.
    Final(DataError),
    /// It may go better next time, after a pause that the server may have named.
    Passing { reason: String, pause: Option<Duration> },
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::Final(error)
    }
}

fn passing(reason: impl Into<String>) -> Failure {
    Failure::Passing { reason: reason.into(), pause: None }
}

/// What a server's answer is worth.
struct Answer {
    body: Body,
    output: File,
    /// Bytes that are there already.
    done: u64,
    total: Option<u64>,
}

impl Download<'_> {
    /// Downloads until the part is all there; it is not verified yet.
    pub(super) fn run(&self, progress: &mut dyn FnMut(FetchProgress<'_>)) -> Result<(), DataError> {
        let agent = self.agent();
        let (mut failed, mut longest) = (0, self.part.len());
        loop {
            let (reason, pause) = match self.attempt(&agent, progress) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { reason, pause }) => (reason, pause),
            };
            if self.part.len() > longest {
                (failed, longest) = (0, self.part.len());
            }
            failed += 1;
            if failed >= self.fetcher.attempts {
                return Err(DataError::Fetch { url: self.file.url.clone(), reason, attempts: failed });
            }
            let backoff = self.fetcher.backoff.saturating_mul(1 << (failed - 1).min(16));
            sleep(pause.unwrap_or(backoff).min(MAX_PAUSE));
        }
    }

    fn agent(&self) -> Agent {
        Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("wattle/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(self.fetcher.connect_timeout))
            .timeout_recv_response(Some(self.fetcher.idle_timeout))
            .timeout_per_read(Some(self.fetcher.idle_timeout))
            .build()
            .into()
    }

    fn attempt(&self, agent: &Agent, progress: &mut dyn FnMut(FetchProgress<'_>)) -> Result<(), Failure> {
        let here = self.resumable()?;
        if here > 0 && self.expected.bytes == Some(here) {
            // All of it came, and the process ended before it was verified.
            return Ok(());
        }
        let origin = self.part.origin();
        let response = self.request(agent, here, &origin)?;
        let Answer { body, mut output, mut done, total } = self.answer(response, here, &origin)?;
        if let (Some(expected), Some(got)) = (self.expected.bytes, total)
            && expected != got
        {
            self.part.discard()?;
            return Err(DataError::FetchLength { url: self.file.url.clone(), expected, got }.into());
        }
        let mut reader = body.into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            progress(FetchProgress { file: self.file.name(), done, total });
            let told = |what: &str| match total {
                Some(total) => format!("{what} after {done} of {total} bytes"),
                None => format!("{what} after {done} bytes"),
            };
            match reader.read(&mut buffer) {
                Ok(0) if total.is_some_and(|total| done < total) => {
                    return Err(passing(told("the connection ended")));
                }
                Ok(0) => return Ok(()),
                Ok(got) => {
                    output.write_all(&buffer[..got]).map_err(DataError::write(self.part.path()))?;
                    done += got as u64;
                }
                Err(error) => return Err(passing(told(&format!("the connection broke off ({error})")))),
            }
        }
    }

    /// Bytes of the part from which the transfer can go on: all, if what follows is sure to be of the same file.
    fn resumable(&self) -> Result<u64, DataError> {
        let (here, origin) = (self.part.len(), self.part.origin());
        let is_checked = origin.validator.is_some() || self.expected.sha256.is_some();
        let fits = self.expected.bytes.is_none_or(|bytes| here <= bytes);
        if origin.url == self.file.url && is_checked && fits {
            return Ok(here);
        }
        self.part.discard()?;
        Ok(0)
    }

    /// Asks for the bytes from `here` on, through redirects.
    fn request(&self, agent: &Agent, here: u64, origin: &Origin) -> Result<Response<Body>, Failure> {
        let first: Uri = self.file.url.parse().map_err(|_| self.bad_url(&self.file.url))?;
        let mut uri = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = agent.get(&uri);
            if here > 0 {
                request = request.header(header::RANGE, format!("bytes={here}-"));
                if let Some(validator) = &origin.validator {
                    request = request.header(header::IF_RANGE, validator);
                }
            }
            if let Some(token) = self.fetcher.token.as_ref().and_then(|token| token.header_for(&uri)) {
                request = request.header(header::AUTHORIZATION, token);
            }
            let request = if is_this_machine(&uri) { request.config().proxy(None).build() } else { request };
            let response = request.call().map_err(|error| self.failed(error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            uri = self.redirected(&first, &uri, &response)?;
        }
        Err(passing(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Where a redirect leads, if it may lead there.
    fn redirected(&self, first: &Uri, from: &Uri, response: &Response<Body>) -> Result<Uri, DataError> {
        let location = text(response, header::LOCATION).unwrap_or_default();
        let absolute = if location.starts_with('/') && !location.starts_with("//") {
            let scheme = from.scheme_str().unwrap_or("https");
            format!("{scheme}://{}{location}", from.authority().map_or("", |authority| authority.as_str()))
        } else {
            location
        };
        let to: Uri = absolute.parse().map_err(|_| self.bad_url(&absolute))?;
        let host = to.host().ok_or_else(|| self.bad_url(&absolute))?;
        let is_below = |allowed: &String| {
            host == allowed || host.strip_suffix(allowed.as_str()).is_some_and(|rest| rest.ends_with('.'))
        };
        let is_allowed = first.host() == Some(host) || self.manifest.redirect_hosts.iter().any(is_below);
        let is_downgraded = from.scheme_str() == Some("https") && to.scheme_str() != Some("https");
        if is_allowed && !is_downgraded {
            return Ok(to);
        }
        let (url, host) = (self.file.url.clone(), host.to_owned());
        Err(DataError::FetchRedirect { url, scheme: to.scheme_str().unwrap_or_default().to_owned(), host })
    }

    /// What to do with an answer.
    fn answer(&self, response: Response<Body>, here: u64, origin: &Origin) -> Result<Answer, Failure> {
        let status = response.status();
        let found = Origin { url: self.file.url.clone(), validator: validator(&response) };
        match status {
            StatusCode::OK => {
                let total = text(&response, header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
                let output = self.part.begin(&found)?;
                Ok(Answer { body: response.into_body(), output, done: 0, total })
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = text(&response, header::CONTENT_RANGE).unwrap_or_default();
                let is_same = match (&found.validator, &origin.validator) {
                    (Some(found), Some(before)) => found == before,
                    _ => true,
                };
                match content_range(&range) {
                    Some((start, total)) if start == here && is_same => Ok(Answer {
                        body: response.into_body(),
                        output: self.part.go_on()?,
                        done: here,
                        total,
                    }),
                    _ => {
                        self.part.discard()?;
                        Err(passing(format!("the server went on with {range:?} of another file")))
                    }
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.part.discard()?;
                Err(passing("the server has no such range of the file"))
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let seconds = text(&response, header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
                let pause = seconds.map(Duration::from_secs);
                Err(Failure::Passing { reason: format!("the server answered {status}"), pause })
            }
            _ => {
                let status = status.to_string();
                let homepage = self.manifest.homepage.clone();
                Err(DataError::FetchStatus { url: self.file.url.clone(), status, homepage }.into())
            }
        }
    }

    fn bad_url(&self, url: &str) -> DataError {
        let reason = format!("{url:?} is no address");
        DataError::Fetch { url: self.file.url.clone(), reason, attempts: 1 }
    }

    fn failed(&self, error: ureq::Error) -> Failure {
        let reason = error.to_string();
        match error {
            ureq::Error::Rustls(_)
            | ureq::Error::Tls(_)
            | ureq::Error::BadUri(_)
            | ureq::Error::InvalidProxyUrl => {
                DataError::Fetch { url: self.file.url.clone(), reason, attempts: 1 }.into()
            }
            _ => passing(reason),
        }
    }
}

/// By what a server knows a file again: a strong `ETag`, or `Last-Modified` (RFC 9110, section 13.1.5).
fn validator(response: &Response<Body>) -> Option<String> {
    let etag = text(response, header::ETAG).filter(|etag| !etag.starts_with("W/"));
    etag.or_else(|| text(response, header::LAST_MODIFIED))
}

fn text(response: &Response<Body>, name: header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Start and total of `bytes START-END/TOTAL`.
fn content_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (bytes, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let start = bytes.split_once('-')?.0.parse().ok()?;
    Some((start, total.parse().ok()))
}

/// Whether an address is this machine, for which no proxy is asked.
pub(super) fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
