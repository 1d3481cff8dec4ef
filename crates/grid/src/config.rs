//! The section `grid` of a configuration.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use wattle_runlog::Seconds;
use wattle_settings::{choices, section};

use crate::electricity_maps::ElectricityMaps;
use crate::provider::Provider;
use crate::uk::Uk;

section! {
    /// The electricity grid: what it emits now, and whether to wait.
    ///
    /// Nobody is asked unless `grid.provider` names somebody. See `docs/grid.md`.
    #[section(grid, at_resume = Free, check = GridConfig::together)]
    pub struct GridConfig {
        /// Who is asked for the grid's intensity.
        ///
        /// Each joule is then priced at the moment of its use; `carbon` applies to moments that the provider does not
        /// tell.
        pub provider: ProviderKind = ProviderKind::None;
        /// The zone of the grid that the machine draws from.
        ///
        /// `electricity_maps`: a zone key such as `DE`. `uk`: `GB`, or a region by its number, from
        /// `GB-1` to `GB-17`.
        pub zone: Option<String> = None,
            unset("`GB` for `uk`; `electricity_maps` needs one"),
            idle(when("grid.provider", &["none"]));
        /// Address of the provider, for a mirror.
        pub url: Option<String> = None,
            unset("the provider's own"),
            expects_that("an address such as \"https://example.com/v3\"", |url| {
                url.as_deref().is_none_or(is_address)
            }),
            idle(when("grid.provider", &["none"]));
        /// When training starts.
        pub start: StartKind = StartKind::Now, idle(when("grid.provider", &["none"]));
        /// When the run is to be over.
        ///
        /// A time such as `2026-11-29T06:00:00Z`, or a duration such as `8h` from the run's first start. A run that
        /// would not be over by then no longer waits.
        pub deadline: Option<String> = None,
            unset("`grid.pause_above_g` may wait forever"),
            expects_that("a time such as \"2026-11-29T06:00:00Z\" or a duration such as \"8h\"", |text| {
                text.as_deref().is_none_or(|text| Deadline::parse(text).is_some())
            }),
            idle(when("grid.provider", &["none"]));
        /// Training pauses while the grid emits more than this.
        pub pause_above_g: Option<f64> = None,
            unit("grams of CO₂-equivalent per kilowatt-hour"),
            unset("it does not pause"),
            expects(above(0.0)),
            idle(when("grid.provider", &["none"]));
        /// Where answers are kept for other runs on this machine.
        pub cache_dir: Option<PathBuf> = None,
            unset("`$XDG_CACHE_HOME/wattle/grid`, else `~/.cache/wattle/grid`"),
            idle(when("grid.provider", &["none"]));
    }
}

choices! {
    /// Who tells the grid's intensity.
    pub enum ProviderKind {
        /// Nobody is asked: one intensity, or that of a table.
        None = "none",
        /// Electricity Maps, most zones of the world. Its key is read from the environment variable
        /// `ELECTRICITY_MAPS_API_KEY`.
        ElectricityMaps = "electricity_maps",
        /// The Carbon Intensity API of Great Britain's system operator. It needs no key.
        Uk = "uk",
    }
}

choices! {
    /// When training starts.
    pub enum StartKind {
        /// At once.
        Now = "now",
        /// In the hours that emit least by the forecast, among those that end by `grid.deadline`. The first steps are
        /// made at once: they tell how long the run takes.
        Cleanest = "cleanest",
    }
}

/// When a run is to be over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deadline {
    /// At this wall time, in nanoseconds since 1970.
    At(i64),
    /// So long after the run's first start.
    After(Seconds),
}

impl Deadline {
    /// Reads a time or a duration; `None` if it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(time) = text.parse::<Timestamp>() {
            return time.as_nanosecond().try_into().ok().map(Self::At);
        }
        let duration: SignedDuration = text.parse().ok()?;
        (duration > SignedDuration::ZERO).then(|| Self::After(Seconds(duration.as_secs_f64())))
    }
}

impl GridConfig {
    /// Whether anybody is asked.
    pub fn is_on(&self) -> bool {
        self.provider != ProviderKind::None
    }

    /// Whether training may wait.
    pub fn may_wait(&self) -> bool {
        self.is_on() && (self.start == StartKind::Cleanest || self.pause_above_g.is_some())
    }

    /// The zone that is asked for.
    pub fn zone(&self) -> &str {
        self.zone.as_deref().unwrap_or(match self.provider {
            ProviderKind::Uk => "GB",
            ProviderKind::None | ProviderKind::ElectricityMaps => "",
        })
    }

    /// `deadline`, read.
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline.as_deref().and_then(Deadline::parse)
    }

    /// The provider; `None` if nobody is asked, or it does not know the zone.
    pub fn provider(&self) -> Option<Box<dyn Provider>> {
        let zone = self.zone();
        match self.provider {
            ProviderKind::None => None,
            ProviderKind::ElectricityMaps => {
                ElectricityMaps::new(zone).map(|provider| Box::new(provider) as Box<dyn Provider>)
            }
            ProviderKind::Uk => Uk::new(zone).map(|provider| Box::new(provider) as Box<dyn Provider>),
        }
    }

    fn together(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.is_on() && self.provider().is_none() {
            let (got, expected) = match (self.provider, self.zone.as_deref()) {
                (ProviderKind::Uk, zone) => (zone, "expected \"GB\", or a region from \"GB-1\" to \"GB-17\""),
                (_, zone) => (zone, "expected a zone key of Electricity Maps, such as \"DE\""),
            };
            let got = got.map_or("is not set".to_owned(), |zone| format!("= {zone:?}"));
            faults.push(format!("grid.zone {got}: {expected}"));
        }
        if self.is_on() && self.start == StartKind::Cleanest && self.deadline.is_none() {
            faults.push(
                "grid.start = \"cleanest\": needs a deadline; set grid.deadline, to \"8h\" for one"
                    .to_owned(),
            );
        }
        faults
    }
}

fn is_address(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['?', '#', '@', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(toml: &str) -> Vec<String> {
        toml::from_str::<GridConfig>(toml).unwrap().faults()
    }

    #[test]
    fn a_deadline_is_a_time_or_a_duration() {
        assert_eq!(Deadline::parse("1970-01-01T01:00:00+01:00"), Some(Deadline::At(0)));
        assert_eq!(Deadline::parse("8h"), Some(Deadline::After(Seconds(28_800.0))));
        assert_eq!(Deadline::parse("1h30m"), Some(Deadline::After(Seconds(5_400.0))));
        for none in ["", "tomorrow", "8", "-3h", "0s"] {
            assert_eq!(Deadline::parse(none), None, "{none}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_named_with_what_to_do() {
        assert_eq!(faults(""), Vec::<String>::new());
        assert_eq!(faults("provider = \"uk\""), Vec::<String>::new());
        assert_eq!(faults("provider = \"uk\"\nzone = \"GB-13\""), Vec::<String>::new());
        for (toml, key, words) in [
            ("provider = \"uk\"\nzone = \"GB-18\"", "grid.zone", "to \"GB-17\""),
            ("provider = \"uk\"\nzone = \"DE\"", "grid.zone", "\"GB\""),
            ("provider = \"electricity_maps\"", "grid.zone", "such as \"DE\""),
            ("provider = \"electricity_maps\"\nzone = \"a b\"", "grid.zone", "such as \"DE\""),
            ("provider = \"uk\"\nstart = \"cleanest\"", "grid.start", "grid.deadline"),
            ("provider = \"uk\"\ndeadline = \"soon\"", "grid.deadline", "\"8h\""),
            ("provider = \"uk\"\npause_above_g = 0.0", "grid.pause_above_g", "above 0"),
            ("provider = \"uk\"\nurl = \"example.com\"", "grid.url", "https://"),
        ] {
            let faults = faults(toml);
            assert_eq!(faults.len(), 1, "{toml}: {faults:?}");
            assert!(faults[0].starts_with(key) && faults[0].contains(words), "{}", faults[0]);
        }
    }
}
