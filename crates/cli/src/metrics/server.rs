//! The HTTP server that live figures are read from.
//!
//! It must never be able to hurt the work it reports on, so everything that a client can use up has a limit: one
//! thread, [`MAX_CONNECTIONS`] sockets, [`MAX_HEAD_BYTES`] of request head, no request body, and
//! [`CONNECTION_TIME`] from accepting a connection to closing it. Further connections wait in the kernel's queue and
//! cost this process neither memory nor file descriptors.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// The page's type, as registered for OpenMetrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page's path, where Prometheus looks for it.
const PATH: &str = "/metrics";

/// The variable that holds the token which clients must send as `Authorization: Bearer TOKEN`. It is not a
/// configuration key because the configuration is stored in the run directory.
const TOKEN_VARIABLE: &str = "WATTLE_METRICS_TOKEN";

/// Connections that are open at the same time.
const MAX_CONNECTIONS: usize = 8;

/// Size of a request's first line and headers; hyper accepts no smaller limit.
const MAX_HEAD_BYTES: usize = 8192;

/// Number of a request's headers.
const MAX_HEADERS: usize = 64;

/// Time for a client to send a request's head.
const HEAD_TIME: Duration = Duration::from_secs(2);

/// Time from accepting a connection to closing it.
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// Pause after an accept fails, which it does while the process has no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A server of live figures. Dropping it ends it without waiting for any client.
pub struct MetricsServer {
    /// Dropping it tells the thread to end.
    _shutdown: oneshot::Sender<()>,
}

/// What a request is answered from.
struct Page {
    registry: Registry,
    token: Option<String>,
}

impl MetricsServer {
    /// Serves `registry` at `addr` and logs the address. If that fails, it logs a warning and returns `None`: the
    /// work goes on without live figures. `key` is the flag or key that set the address.
    ///
    /// Beyond loopback, clients must present the token of `WATTLE_METRICS_TOKEN`; without one nothing is served.
    pub fn start(key: &str, addr: SocketAddr, registry: Registry) -> Option<Self> {
        let token = std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
        Self::bind(addr, registry, token)
            .inspect_err(|error| {
                tracing::warn!("{key} = {addr}: {error}; live figures are not served");
            })
            .ok()
    }

    fn bind(addr: SocketAddr, registry: Registry, token: Option<String>) -> Result<Self, String> {
        if !addr.ip().is_loopback() {
            if token.is_none() {
                return Err(format!(
                    "other machines can reach this address: set {TOKEN_VARIABLE} to a secret that clients send as \
                     `Authorization: Bearer`, or use 127.0.0.1"
                ));
            }
            tracing::warn!("live figures are served to other machines, without encryption, at {addr}");
        }
        let listener = TcpListener::bind(addr).map_err(|error| format!("{error}: use another address"))?;
        let local_addr = listener.local_addr().map_err(|error| error.to_string())?;
        listener.set_nonblocking(true).map_err(|error| error.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| error.to_string())?;
        let (_shutdown, ended) = oneshot::channel();
        let page = Arc::new(Page { registry, token });
        thread::Builder::new()
            .name("wattle-metrics".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::spawn(serve(listener, page));
                    // An error: the sender was dropped. The runtime then drops the server and its connections.
                    let _ = ended.await;
                });
            })
            .map_err(|error| error.to_string())?;
        tracing::info!("live figures at http://{local_addr}{PATH}");
        Ok(Self { _shutdown })
    }
}

/// Accepts connections for as long as it is polled. A connection is accepted only once it has a permit.
async fn serve(listener: TcpListener, page: Arc<Page>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!("live figures are not served: {error}"),
    };
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let page = Arc::clone(&page);
                tokio::spawn(async move {
                    // A client that is too slow or speaks no HTTP is cut off; nobody here needs to know.
                    let _ = timeout(CONNECTION_TIME, answer_one(stream, &page)).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Answers one request and closes the connection.
async fn answer_one(stream: TcpStream, page: &Page) -> hyper::Result<()> {
    let service = service_fn(async |request| Ok::<_, Infallible>(page.answer(&request)));
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

impl Page {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !self.is_allowed(request.headers().get(AUTHORIZATION)) {
            let mut response = plain(
                StatusCode::UNAUTHORIZED,
                format!("send the token of {TOKEN_VARIABLE} as `Authorization: Bearer`\n"),
            );
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, PATH) => self.metrics(),
            (&Method::GET | &Method::HEAD, _) => {
                plain(StatusCode::NOT_FOUND, format!("live figures are at {PATH}\n"))
            }
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n".to_owned());
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
        }
    }

    /// The token is compared without branching on its characters, so the time taken does not reveal how many match.
    fn is_allowed(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some(token) = &self.token else { return true };
        let given =
            authorization.and_then(|value| value.as_bytes().strip_prefix(b"Bearer ")).unwrap_or_default();
        given.len() == token.len()
            && given.iter().zip(token.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry).expect("writing to a string does not fail");
        let mut response = Response::new(Full::from(page));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
        response
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_must_match_whole() {
        let page = Page { registry: Registry::default(), token: Some("s3cret".to_owned()) };
        let allows = |value: &'static str| page.is_allowed(Some(&HeaderValue::from_static(value)));
        assert!(allows("Bearer s3cret"));
        for wrong in ["Bearer s3cre", "Bearer s3crets", "Bearer S3cret", "s3cret", "Basic s3cret", "Bearer "]
        {
            assert!(!allows(wrong), "{wrong}");
        }
        assert!(!page.is_allowed(None));
        assert!(Page { token: None, ..page }.is_allowed(None));
    }

    #[test]
    fn an_address_that_others_reach_needs_a_token() {
        let anywhere: SocketAddr = ([0, 0, 0, 0], 0).into();
        let refused = MetricsServer::bind(anywhere, Registry::default(), None).err();
        assert!(refused.as_ref().is_some_and(|error| error.contains(TOKEN_VARIABLE)), "{refused:?}");
        assert!(MetricsServer::bind(([127, 0, 0, 1], 0).into(), Registry::default(), None).is_ok());
    }
}
