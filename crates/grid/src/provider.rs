//! What a provider of intensities is.

use jiff::Timestamp;
use wattle_runlog::GramsPerKwh;
use wattle_runlog::grid::{GridBasis, GridOrigin};

/// Tells what a zone's grid emits. It says what to ask and reads the answers; others do the asking.
pub trait Provider: Send + Sync {
    /// Its name in a configuration.
    fn name(&self) -> &'static str;

    /// The zone.
    fn zone(&self) -> &str;

    /// What its figures count.
    fn counts(&self) -> &'static str;

    /// Where it is, unless the configuration says otherwise.
    fn url(&self) -> &'static str;

    /// The key it needs.
    fn key(&self) -> Option<KeyKind>;

    /// Which zones it knows, as the end of a message.
    fn zones(&self) -> &'static str;

    /// Asks for the intensity now.
    fn current(&self) -> Query;

    /// Asks for the intensities to come, from the wall time `now_ns` on.
    fn forecast(&self, now_ns: i64) -> Query;

    /// Reads the answer to [`Provider::current`]: at least one interval.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read_current(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable>;

    /// Reads the answer to [`Provider::forecast`], in order of time.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read_forecast(&self, body: &[u8]) -> Result<Vec<Interval>, Unreadable>;

    /// Where its figures come from.
    fn origin(&self) -> GridOrigin {
        GridOrigin {
            provider: self.name().to_owned(),
            zone: self.zone().to_owned(),
            counts: self.counts().to_owned(),
        }
    }
}

/// A key that a provider needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyKind {
    /// The header that it is sent in.
    pub header: &'static str,
    /// The environment variable that it is read from.
    pub variable: &'static str,
    /// Where keys are given out.
    pub page: &'static str,
}

/// What to ask: a path below the provider's address, query included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query(pub String);

/// An intensity in wall time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its start, in nanoseconds since 1970.
    pub from_ns: i64,
    /// Its end.
    pub to_ns: i64,
    /// The intensity.
    pub intensity: GramsPerKwh,
    /// How the provider knows it.
    pub basis: GridBasis,
}

/// Why an answer is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is of another zone.
    OtherZone(String),
    /// It is not what was expected.
    Nonsense(String),
}

impl Interval {
    /// An interval between two times in nanoseconds since 1970, at so many grams a kilowatt-hour.
    ///
    /// # Errors
    /// If it ends before it begins, or the intensity is not a number of at least 0.
    pub(crate) fn between(
        from_ns: i64,
        to_ns: i64,
        intensity: f64,
        basis: GridBasis,
    ) -> Result<Self, Unreadable> {
        if !intensity.is_finite() || intensity < 0.0 {
            return Err(Unreadable::Nonsense(format!("an intensity of {intensity} g/kWh")));
        }
        if from_ns >= to_ns {
            return Err(Unreadable::Nonsense("an interval that ends before it begins".to_owned()));
        }
        Ok(Self { from_ns, to_ns, intensity: GramsPerKwh(intensity), basis })
    }
}

/// Reads a time, in nanoseconds since 1970.
pub(crate) fn time_ns(text: &str) -> Result<i64, Unreadable> {
    let time = text.parse::<Timestamp>().ok().and_then(|time| time.as_nanosecond().try_into().ok());
    time.ok_or_else(|| Unreadable::Nonsense(format!("the time {text:?}")))
}

/// Reads JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body).map_err(|error| Unreadable::Nonsense(error.to_string()))
}
