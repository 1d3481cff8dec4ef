//! Live figures over HTTP, in OpenMetrics' text, for Prometheus and whatever else reads that.

#[cfg(feature = "train")]
pub mod run;
mod sensors;
mod server;

pub use server::MetricsServer;

use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use wattle_meter::Watch;

use sensors::SensorCollector;

/// The figures of `run`: those of its sensors, and what is added besides.
pub fn registry(run: &str, watch: Watch) -> Registry {
    let labels = [("run".into(), run.to_owned().into())];
    let mut registry = Registry::with_prefix_and_labels("wattle", labels.into_iter());
    registry.register_collector(Box::new(SensorCollector::new(watch)));
    registry
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
