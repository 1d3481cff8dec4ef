//! Prometheus's answer to `/api/v1/query_range`, which is where an SNMP exporter's readings of a PDU end.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::time::{expected, unix_ns};
use super::{Fault, LogFormat, LogOptions, Raw, RawReading, watts};

#[derive(Deserialize)]
struct Answer {
    status: String,
    error: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    #[serde(default)]
    result: Vec<Value>,
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    values: Vec<Value>,
}

pub(super) fn parse(text: &str, options: &LogOptions) -> Result<Raw, Fault> {
    let whole = |reason: String| (None, reason);
    let answer: Answer = serde_json::from_str(text)
        .map_err(|error| (Some(error.line()), format!("expected Prometheus's answer as JSON: {error}")))?;
    if answer.status != "success" {
        return Err(whole(format!("Prometheus said: {}", answer.error.unwrap_or(answer.status))));
    }
    let data = answer.data.ok_or_else(|| whole("Prometheus's answer has no data".to_owned()))?;
    if data.result_type != "matrix" {
        return Err(whole(format!(
            "expected an answer to query_range, a matrix, got a {}; ask with start, end and step",
            data.result_type
        )));
    }
    let series = data.result.into_iter().map(serde_json::from_value).collect::<Result<Vec<Series>, _>>();
    let series = series.map_err(|error| whole(format!("a series is not understood: {error}")))?;
    let names: Vec<String> = series.iter().map(|series| name(&series.metric)).collect();
    let is_wanted =
        |name: &String| options.column.as_ref().is_none_or(|wanted| name.contains(wanted.as_str()));
    let chosen: Vec<usize> = (0..series.len()).filter(|i| is_wanted(&names[*i])).collect();
    let [chosen] = chosen[..] else {
        let (n, all) = (chosen.len(), names.join("; "));
        return Err(whole(match (series.len(), &options.column) {
            (0, _) => "it holds no series: nothing was recorded then, or the query names none".to_owned(),
            (_, Some(wanted)) => format!("--column {wanted:?} fits {n} series of {all}"),
            (n, None) => format!("it holds {n} series: {all}; name one by --column 'LABEL=\"VALUE\"'"),
        }));
    };
    let mut raw = Raw { format: LogFormat::Prometheus, readings: Vec::new(), left_out: 0 };
    for (value, number) in series[chosen].values.iter().zip(1..) {
        let at = |reason: String| whole(format!("{}, value {number}: {reason}", names[chosen]));
        let (Some(time), Some(text)) = (value[0].as_f64(), value[1].as_str()) else {
            return Err(at(format!("expected [TIME, \"VALUE\"], got {value}")));
        };
        let wall_ns = unix_ns(time).ok_or_else(|| at(expected(&value[0].to_string())))?;
        let power: f64 =
            text.parse().map_err(|_| at(format!("expected a power of at least 0, got {text:?}")))?;
        if power.is_nan() {
            raw.left_out += 1;
        } else if power.is_finite() && power >= 0.0 {
            let metric = series[chosen].metric.get("__name__").map_or("", String::as_str);
            raw.readings.push(RawReading {
                line: 1,
                wall_ns,
                zoned: true,
                watts: watts(power, metric, options),
            });
        } else {
            return Err(at(format!("expected a power of at least 0, got {text:?}")));
        }
    }
    Ok(raw)
}

/// `power{instance="pdu1",outlet="3"}`
fn name(metric: &BTreeMap<String, String>) -> String {
    let labels = metric.iter().filter(|(label, _)| *label != "__name__");
    let labels: Vec<String> = labels.map(|(label, value)| format!("{label}={value:?}")).collect();
    format!("{}{{{}}}", metric.get("__name__").map_or("", String::as_str), labels.join(","))
}
