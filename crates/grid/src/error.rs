//! What keeps the grid from being asked.

use thiserror::Error;

/// What keeps the grid from being asked. Each is a fault of the configuration or of the environment; a provider that
/// does not answer is not such a fault.
#[derive(Debug, Error)]
pub enum GridError {
    /// The provider needs a key, and none is set.
    #[error(
        "grid.provider = \"{provider}\": expected a key in the environment variable {variable}, which is not set; get one at {page}"
    )]
    NoKey {
        /// The provider's name.
        provider: &'static str,
        /// Where the key is looked for.
        variable: &'static str,
        /// Where keys are given out.
        page: &'static str,
    },
    /// The key would be sent over an open line.
    #[error(
        "grid.url = \"{url}\": the key in {variable} is sent over https alone, or to this machine; use https, or unset the variable"
    )]
    OpenLine {
        /// The address.
        url: String,
        /// Where the key is.
        variable: &'static str,
    },
    /// The provider refused the key.
    #[error("grid: {url} refused the key in {variable} ({status}); check the key and what its plan allows")]
    RefusedKey {
        /// What was asked.
        url: String,
        /// Where the key is looked for.
        variable: &'static str,
        /// The answer's status.
        status: String,
    },
    /// The provider does not know the zone.
    #[error("grid.zone = \"{zone}\": {url} does not know it ({reason}); {zones}")]
    UnknownZone {
        /// The zone.
        zone: String,
        /// What was asked.
        url: String,
        /// What came back.
        reason: String,
        /// Which zones there are.
        zones: &'static str,
    },
    /// There is no forecast to choose by.
    #[error(
        "grid.start = \"cleanest\": needs a forecast, and {url} gives none ({reason}); set grid.start = \"now\", or use a key whose plan has forecasts"
    )]
    NoForecast {
        /// What was asked.
        url: String,
        /// What came back.
        reason: String,
    },
}
