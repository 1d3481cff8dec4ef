//! What a way of training cost in some seconds.

use serde::{Deserialize, Serialize};
use wattle_runlog::{Joules, Seconds, Watts};

/// A stretch of training between two moments at which no work was under way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Tokens learnt from.
    pub tokens: u64,
    /// How long it took.
    pub seconds: Seconds,
    /// What all sensors together say.
    pub energy: Joules,
    /// 95 % half-width of its random error; `None` where nothing was measured.
    pub half_width: Option<Joules>,
    /// Share of the energy that was measured and not estimated.
    pub measured_fraction: f64,
}

impl Window {
    /// Joules a token.
    pub fn joules_per_token(&self) -> f64 {
        self.energy.get() / self.tokens as f64
    }

    /// Seconds a token.
    pub fn seconds_per_token(&self) -> f64 {
        self.seconds.get() / self.tokens as f64
    }

    /// Mean power.
    pub fn power(&self) -> Watts {
        self.energy / self.seconds
    }

    /// Two stretches of the same way as one.
    pub fn and(&self, other: &Self) -> Self {
        let energy = self.energy + other.energy;
        let measured =
            self.measured_fraction * self.energy.get() + other.measured_fraction * other.energy.get();
        Self {
            tokens: self.tokens + other.tokens,
            seconds: self.seconds + other.seconds,
            energy,
            half_width: self.half_width.zip(other.half_width).map(|(a, b)| Joules(a.get().hypot(b.get()))),
            measured_fraction: if energy > Joules::ZERO { measured / energy.get() } else { 0.0 },
        }
    }
}
