//! What is sought.

use crate::window::Window;

/// What is sought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The fewest joules a token.
    Energy,
    /// The least time a token.
    Time,
    /// The least time a token among ways that take no more than so many joules a token.
    TimeWithin {
        /// Joules a token at most.
        joules_per_token: f64,
    },
}

impl Goal {
    /// What counts of a window; less is better.
    pub fn value(self, window: &Window) -> f64 {
        match self {
            Self::Energy => window.joules_per_token(),
            Self::Time | Self::TimeWithin { .. } => window.seconds_per_token(),
        }
    }

    /// The meter's own part of the relative error of that, as a 95 % half-width.
    pub(crate) fn relative_error(self, window: &Window) -> f64 {
        match self {
            Self::Energy => window.half_width.map_or(0.0, |half_width| half_width / window.energy),
            Self::Time | Self::TimeWithin { .. } => 0.0,
        }
    }

    /// Joules a token that no way may exceed.
    pub fn limit(self) -> Option<f64> {
        match self {
            Self::TimeWithin { joules_per_token } => Some(joules_per_token),
            Self::Energy | Self::Time => None,
        }
    }
}
