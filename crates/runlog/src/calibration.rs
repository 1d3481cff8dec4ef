//! The calibration by which a sensor's readings were corrected.

use serde::{Deserialize, Serialize};

/// What a sensor's readings were multiplied by, and where that comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppliedCalibration {
    /// The calibration's name.
    pub id: String,
    /// When it was made, RFC 3339 in UTC.
    pub made_at: String,
    /// The file that it was read from.
    pub file: String,
    /// By so much everything that the sensor said was multiplied, in `power.trace` too.
    pub gain: f64,
    /// The `systematic_id` of the sensor without it.
    pub systematic_id: String,
}
