//! Live figures over HTTP, in OpenMetrics' text, for Prometheus and whatever else reads that.

#[cfg(feature = "train")]
pub mod run;
mod sensors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use tiny_http::{Header, Method, Request, Response, Server};
use wattle_meter::Watch;

use sensors::SensorCollector;

/// What the page is, by OpenMetrics' registration.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where on the server it lies, as Prometheus expects.
const PATH: &str = "/metrics";

/// A server of live figures. It ends when this is dropped.
pub struct MetricsServer {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

/// The figures of `run`: those of its sensors, and what is added besides.
pub fn registry(run: &str, watch: Watch) -> Registry {
    let labels = [("run".into(), run.to_owned().into())];
    let mut registry = Registry::with_prefix_and_labels("wattle", labels.into_iter());
    registry.register_collector(Box::new(SensorCollector::new(watch)));
    registry
}

impl MetricsServer {
    /// Serves `registry` at `addr`, and says where. Where it cannot, that is said, and the work goes on without;
    /// `key` is what the user gave the address by.
    pub fn start(key: &str, addr: SocketAddr, registry: Registry) -> Option<Self> {
        let start = || {
            let server = Arc::new(Server::http(addr).map_err(|error| error.to_string())?);
            let listener = Arc::clone(&server);
            let thread = thread::Builder::new()
                .name("wattle-metrics".to_owned())
                .spawn(move || listener.incoming_requests().for_each(|request| answer(request, &registry)))
                .map_err(|error| error.to_string())?;
            Ok(Self { server, thread: Some(thread) })
        };
        start()
            .inspect(|started: &Self| {
                tracing::info!("live figures at http://{}{PATH}", started.server.server_addr());
            })
            .inspect_err(|error: &String| {
                tracing::warn!("{key} = {addr}: {error}: live figures are not served; give another address");
            })
            .ok()
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn answer(request: Request, registry: &Registry) {
    let path = request.url().split('?').next().unwrap_or_default();
    let response = match (request.method(), path) {
        (Method::Get | Method::Head, PATH) => page(registry),
        (Method::Get | Method::Head, _) => {
            Response::from_string(format!("live figures are at {PATH}\n")).with_status_code(404)
        }
        _ => Response::from_string("GET and HEAD are all there is\n")
            .with_status_code(405)
            .with_header(header("Allow", "GET, HEAD")),
    };
    // Whoever asked may have gone.
    let _ = request.respond(response);
}

fn page(registry: &Registry) -> Response<std::io::Cursor<Vec<u8>>> {
    let mut page = String::new();
    text::encode(&mut page, registry).expect("a string takes all that is written to it");
    Response::from_string(page).with_header(header("Content-Type", CONTENT_TYPE))
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values here are ASCII")
}

/// Writes one figure, once for each of its labels. Without any there is nothing of it on the page.
fn gauges<'a, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help, unit): (&str, &str, Option<Unit>),
    values: impl Iterator<Item = (Vec<(&'a str, &'a str)>, V)>,
) -> std::fmt::Result {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
    values.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
}
