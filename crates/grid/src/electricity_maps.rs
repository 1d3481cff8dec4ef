//! Electricity Maps: `api.electricitymaps.com/v3`, hours, with a key in the header `auth-token`.
//!
//! It counts the life cycle of each kind of generation, imports included. For recent hours the figure is often its own
//! estimate (`isEstimated`). Asked for a place that it does not know, it may answer for where the caller is, so an
//! answer of another zone is refused.

use serde::Deserialize;
use wattle_runlog::grid::GridBasis;

use crate::provider::{Interval, KeyKind, Provider, Query, Unreadable, json, time_ns};

/// The interval of a figure, where the answer does not name another.
const HOUR_NS: i64 = 3_600_000_000_000;

/// A zone of Electricity Maps.
#[derive(Clone, Debug)]
pub struct ElectricityMaps {
    zone: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Latest {
    zone: String,
    carbon_intensity: Option<f64>,
    datetime: String,
    #[serde(default)]
    is_estimated: bool,
    #[serde(default)]
    temporal_granularity: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Forecast {
    zone: String,
    forecast: Vec<Forecasted>,
    #[serde(default)]
    temporal_granularity: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Forecasted {
    carbon_intensity: Option<f64>,
    datetime: String,
}

impl ElectricityMaps {
    /// The zone of this key; `None` if it cannot be one.
    pub fn new(zone: &str) -> Option<Self> {
        let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (!zone.is_empty() && zone.chars().all(is_key)).then(|| Self { zone: zone.to_owned() })
    }

    fn check_zone(&self, zone: String) -> Result<(), Unreadable> {
        if zone == self.zone { Ok(()) } else { Err(Unreadable::OtherZone(zone)) }
    }
}

/// How long a figure stands.
fn length_ns(granularity: Option<&str>) -> i64 {
    match granularity {
        Some("5_minutes") => HOUR_NS / 12,
        Some("15_minutes") => HOUR_NS / 4,
        _ => HOUR_NS,
    }
}

impl Provider for ElectricityMaps {
    fn name(&self) -> &'static str {
        "electricity_maps"
    }

    fn zone(&self) -> &str {
        &self.zone
    }

    fn counts(&self) -> &'static str {
        "lifecycle"
    }

    fn url(&self) -> &'static str {
        "https://api.electricitymaps.com/v3"
    }

    fn key(&self) -> Option<KeyKind> {
        Some(KeyKind {
            header: "auth-token",
            variable: "ELECTRICITY_MAPS_API_KEY",
            page: "https://portal.electricitymaps.com",
        })
    }

    fn zones(&self) -> &'static str {
        "its zone keys are listed at https://api.electricitymaps.com/v3/zones"
    }

    fn current(&self) -> Query {
        Query(format!("/carbon-intensity/latest?zone={}", self.zone))
    }

    fn forecast(&self, _now_ns: i64) -> Query {
        Query(format!("/carbon-intensity/forecast?zone={}", self.zone))
    }

    fn read_current(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable> {
        let latest: Latest = json(body)?;
        self.check_zone(latest.zone)?;
        let figure = latest.carbon_intensity;
        let figure = figure.ok_or_else(|| Unreadable::Nonsense("no carbonIntensity".to_owned()))?;
        let basis = if latest.is_estimated { GridBasis::Estimated } else { GridBasis::Live };
        let from = time_ns(&latest.datetime)?;
        let to = from.saturating_add(length_ns(latest.temporal_granularity.as_deref()));
        Ok(vec![Interval::between(from, to, figure, basis)?])
    }

    fn read_forecast(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable> {
        let answer: Forecast = json(body)?;
        self.check_zone(answer.zone)?;
        let longest = length_ns(answer.temporal_granularity.as_deref());
        let mut rows: Vec<(i64, Option<f64>)> = Vec::new();
        for Forecasted { carbon_intensity, datetime } in answer.forecast {
            rows.push((time_ns(&datetime)?, carbon_intensity));
        }
        rows.sort_by_key(|(from, _)| *from);
        rows.dedup_by_key(|(from, _)| *from);
        let ends = rows.iter().skip(1).map(|(from, _)| *from).chain([i64::MAX]);
        rows.iter()
            .zip(ends)
            .filter_map(|((from, figure), next)| {
                let to = from.saturating_add(longest).min(next);
                Some(Interval::between(*from, to, (*figure)?, GridBasis::Forecast))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_runlog::GramsPerKwh;

    fn de() -> ElectricityMaps {
        ElectricityMaps::new("DE").unwrap()
    }

    #[test]
    fn the_latest_figure_stands_for_its_hour_and_says_whether_it_is_an_estimate() {
        let body = r#"{"zone":"DE","carbonIntensity":302,"datetime":"2026-11-28T05:00:00.000Z","updatedAt":"2026-11-28T05:41:06.721Z","emissionFactorType":"lifecycle","isEstimated":true,"estimationMethod":"TIME_SLICER_AVERAGE"}"#;
        let read = de().read_current(body.as_bytes()).unwrap();
        assert_eq!((read[0].intensity, read[0].basis), (GramsPerKwh(302.0), GridBasis::Estimated));
        assert_eq!(read[0].from_ns, time_ns("2026-11-28T05:00:00Z").unwrap());
        assert_eq!(read[0].to_ns - read[0].from_ns, HOUR_NS);
        let live = body
            .replace("true", "false")
            .replace("\"updatedAt\"", "\"temporalGranularity\":\"5_minutes\",\"x\"");
        let read = de().read_current(live.as_bytes()).unwrap();
        assert_eq!((read[0].basis, read[0].to_ns - read[0].from_ns), (GridBasis::Live, HOUR_NS / 12));
        let other = body.replace("\"DE\"", "\"FR\"");
        assert_eq!(de().read_current(other.as_bytes()), Err(Unreadable::OtherZone("FR".to_owned())));
        let none = body.replace("302", "null");
        assert!(matches!(de().read_current(none.as_bytes()), Err(Unreadable::Nonsense(_))));
    }

    #[test]
    fn hours_of_a_forecast_end_where_the_next_begins_and_one_without_a_figure_is_left_out() {
        let body = br#"{"zone":"DE","forecast":[
            {"carbonIntensity":300,"datetime":"2026-11-28T06:00:00.000Z"},
            {"carbonIntensity":null,"datetime":"2026-11-28T07:00:00.000Z"},
            {"carbonIntensity":150,"datetime":"2026-11-28T08:30:00.000+00:30"}],"updatedAt":"2026-11-28T05:41:06Z"}"#;
        let read = de().read_forecast(body).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[1].from_ns - read[0].from_ns, 2 * HOUR_NS);
        assert!(
            read.iter().all(|row| row.to_ns - row.from_ns == HOUR_NS && row.basis == GridBasis::Forecast)
        );
    }

    #[test]
    fn a_key_that_could_end_the_question_is_no_zone() {
        for zone in ["", "DE&x=1", "../", "a b", "ä"] {
            assert!(ElectricityMaps::new(zone).is_none(), "{zone}");
        }
        assert_eq!(
            ElectricityMaps::new("US-CAL-CISO").unwrap().current().0,
            "/carbon-intensity/latest?zone=US-CAL-CISO"
        );
    }
}
