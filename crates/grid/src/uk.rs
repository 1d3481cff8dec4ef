//! The Carbon Intensity API of Great Britain: `api.carbonintensity.org.uk`, half-hours, without a key.
//!
//! Nationally an interval has a forecast and, once it is known, an actual figure. Regions have forecasts alone. It counts
//! CO₂ of generation, imports and losses of the network, not what building power stations and mining fuel emitted.

use serde::Deserialize;
use wattle_runlog::clock::zoneless;
use wattle_runlog::grid::GridBasis;

use crate::provider::{Interval, KeyKind, Provider, Query, Unreadable, json, time_ns};

/// Regions have numbers from 1 to this.
const LAST_REGION: u32 = 17;

/// Great Britain, or one region of it.
#[derive(Clone, Debug)]
pub struct Uk {
    zone: String,
    region: Option<u32>,
}

#[derive(Deserialize)]
struct National {
    data: Vec<HalfHour>,
}

#[derive(Deserialize)]
struct Regional {
    data: OneOrMany,
}

/// The current half-hour comes in a list, a forecast without one.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Region),
    Many(Vec<Region>),
}

#[derive(Deserialize)]
struct Region {
    regionid: u32,
    data: Vec<HalfHour>,
}

#[derive(Deserialize)]
struct HalfHour {
    from: String,
    to: String,
    intensity: Figures,
}

#[derive(Deserialize)]
struct Figures {
    forecast: Option<f64>,
    #[serde(default)]
    actual: Option<f64>,
}

impl Uk {
    /// The zone "GB", or a region by its number, such as "GB-13"; `None` for another.
    pub fn new(zone: &str) -> Option<Self> {
        let region = match zone {
            "GB" => None,
            _ => Some(
                zone.strip_prefix("GB-")?.parse().ok().filter(|region| (1..=LAST_REGION).contains(region))?,
            ),
        };
        Some(Self { zone: zone.to_owned(), region })
    }

    fn read(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable> {
        let half_hours = match self.region {
            None => json::<National>(body)?.data,
            Some(region) => {
                let regions = match json::<Regional>(body)?.data {
                    OneOrMany::One(region) => vec![region],
                    OneOrMany::Many(regions) => regions,
                };
                let others: Vec<_> = regions.iter().map(|other| other.regionid.to_string()).collect();
                let found = regions.into_iter().find(|found| found.regionid == region);
                found.ok_or_else(|| Unreadable::OtherZone(others.join(", ")))?.data
            }
        };
        let mut intervals: Vec<Interval> =
            half_hours.iter().filter_map(HalfHour::interval).collect::<Result<_, _>>()?;
        intervals.sort_by_key(|interval| interval.from_ns);
        match intervals.is_empty() {
            true => Err(Unreadable::Nonsense("no interval with a figure".to_owned())),
            false => Ok(intervals),
        }
    }
}

impl HalfHour {
    /// `None` where no figure is known yet.
    fn interval(&self) -> Option<Result<Interval, Unreadable>> {
        let Figures { forecast, actual } = self.intensity;
        let (figure, basis) = match (actual, forecast) {
            (Some(actual), _) => (actual, GridBasis::Live),
            (None, forecast) => (forecast?, GridBasis::Forecast),
        };
        let read = || Interval::between(time_ns(&self.from)?, time_ns(&self.to)?, figure, basis);
        Some(read())
    }
}

impl Provider for Uk {
    fn name(&self) -> &'static str {
        "uk"
    }

    fn zone(&self) -> &str {
        &self.zone
    }

    fn counts(&self) -> &'static str {
        "direct CO2"
    }

    fn url(&self) -> &'static str {
        "https://api.carbonintensity.org.uk"
    }

    fn key(&self) -> Option<KeyKind> {
        None
    }

    fn zones(&self) -> &'static str {
        "expected \"GB\", or a region from \"GB-1\" to \"GB-17\""
    }

    fn current(&self) -> Query {
        Query(self.region.map_or("/intensity".to_owned(), |region| format!("/regional/regionid/{region}")))
    }

    fn forecast(&self, now_ns: i64) -> Query {
        // The API writes minutes alone.
        let now = zoneless(now_ns);
        let from = &now[..now.len() - ":00".len()];
        Query(match self.region {
            None => format!("/intensity/{from}Z/fw48h"),
            Some(region) => format!("/regional/intensity/{from}Z/fw48h/regionid/{region}"),
        })
    }

    fn read_current(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable> {
        self.read(body)
    }

    fn read_forecast(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable> {
        self.read(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_runlog::GramsPerKwh;

    const HALF_HOUR_NS: i64 = 1_800_000_000_000;

    #[test]
    fn the_actual_figure_counts_where_there_is_one_and_the_forecast_where_not() {
        let body = br#"{"data":[
            {"from":"2026-11-28T05:30Z","to":"2026-11-28T06:00Z","intensity":{"forecast":266,"actual":263,"index":"moderate"}},
            {"from":"2026-11-28T06:00Z","to":"2026-11-28T06:30Z","intensity":{"forecast":250,"actual":null,"index":"moderate"}},
            {"from":"2026-11-28T06:30Z","to":"2026-11-28T07:00Z","intensity":{"forecast":null,"actual":null,"index":null}}]}"#;
        let read = Uk::new("GB").unwrap().read_current(body).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].intensity, read[0].basis), (GramsPerKwh(263.0), GridBasis::Live));
        assert_eq!((read[1].intensity, read[1].basis), (GramsPerKwh(250.0), GridBasis::Forecast));
        assert_eq!(read[0].to_ns - read[0].from_ns, HALF_HOUR_NS);
        assert_eq!(read[0].to_ns, read[1].from_ns);
        assert_eq!(read[0].from_ns, time_ns("2026-11-28T05:30:00Z").unwrap());
    }

    #[test]
    fn a_region_is_read_from_a_list_and_alone_and_another_region_is_refused() {
        let alone = r#"{"regionid":13,"shortname":"London","data":[{"from":"2026-11-28T05:30Z","to":"2026-11-28T06:00Z","intensity":{"forecast":100,"index":"low"}}]}"#;
        let uk = Uk::new("GB-13").unwrap();
        for body in [format!("{{\"data\":{alone}}}"), format!("{{\"data\":[{alone}]}}")] {
            let read = uk.read_forecast(body.as_bytes()).unwrap();
            assert_eq!((read[0].intensity, read[0].basis), (GramsPerKwh(100.0), GridBasis::Forecast));
            let other = Uk::new("GB-12").unwrap().read_current(body.as_bytes());
            assert_eq!(other, Err(Unreadable::OtherZone("13".to_owned())));
        }
    }

    #[test]
    fn questions_are_those_of_the_api() {
        let now = time_ns("2026-11-28T05:54:48Z").unwrap();
        let (national, london) = (Uk::new("GB").unwrap(), Uk::new("GB-13").unwrap());
        assert_eq!(national.current().0, "/intensity");
        assert_eq!(national.forecast(now).0, "/intensity/2026-11-28T05:54Z/fw48h");
        assert_eq!(london.current().0, "/regional/regionid/13");
        assert_eq!(london.forecast(now).0, "/regional/intensity/2026-11-28T05:54Z/fw48h/regionid/13");
    }

    #[test]
    fn nonsense_is_refused() {
        let uk = Uk::new("GB").unwrap();
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"data":[]}"#,
            r#"{"data":[{"from":"now","to":"later","intensity":{"forecast":1,"actual":1}}]}"#,
            r#"{"data":[{"from":"2026-11-28T06:00Z","to":"2026-11-28T05:30Z","intensity":{"forecast":1}}]}"#,
            r#"{"data":[{"from":"2026-11-28T05:30Z","to":"2026-11-28T06:00Z","intensity":{"forecast":-1}}]}"#,
        ] {
            assert!(matches!(uk.read_current(body.as_bytes()), Err(Unreadable::Nonsense(_))), "{body}");
        }
    }
}
