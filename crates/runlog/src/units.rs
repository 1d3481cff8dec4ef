//! Physical quantities as types, in SI units inside.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use serde::{Deserialize, Serialize};

/// Joules in a kilowatt-hour, exactly.
pub const JOULES_PER_KWH: f64 = 3.6e6;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub f64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0.0);

            /// The bare number, for a boundary whose name carries the unit.
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }

        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }

        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, factor: f64) -> Self {
                Self(self.0 * factor)
            }
        }

        impl Div for $name {
            type Output = f64;
            fn div(self, other: Self) -> f64 {
                self.0 / other.0
            }
        }

        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
                quantities.fold(Self::ZERO, Add::add)
            }
        }
    };
}

quantity! {
    /// Energy.
    Joules
}
quantity! {
    /// Power.
    Watts
}
quantity! {
    /// A length of time.
    Seconds
}
quantity! {
    /// Mass of greenhouse gas, as grams of CO₂ with the same effect over a hundred years.
    GramsCo2e
}
quantity! {
    /// Carbon intensity of electricity: grams of CO₂-equivalent a kilowatt-hour.
    GramsPerKwh
}

/// Temperature in degrees Celsius. Temperatures do not add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Celsius(pub f64);

impl Celsius {
    /// The bare number, for a boundary whose name carries the unit.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Joules {
    /// The same energy in kilowatt-hours.
    pub fn kwh(self) -> f64 {
        self.0 / JOULES_PER_KWH
    }

    /// Energy from kilowatt-hours.
    pub fn from_kwh(kwh: f64) -> Self {
        Self(kwh * JOULES_PER_KWH)
    }
}

impl Mul<Seconds> for Watts {
    type Output = Joules;
    fn mul(self, time: Seconds) -> Joules {
        Joules(self.0 * time.0)
    }
}

impl Div<Seconds> for Joules {
    type Output = Watts;
    fn div(self, time: Seconds) -> Watts {
        Watts(self.0 / time.0)
    }
}

impl Mul<Joules> for GramsPerKwh {
    type Output = GramsCo2e;
    fn mul(self, energy: Joules) -> GramsCo2e {
        GramsCo2e(self.0 * energy.kwh())
    }
}

impl Seconds {
    /// From nanoseconds.
    pub fn from_ns(ns: u64) -> Self {
        Self(ns as f64 * 1e-9)
    }

    /// In whole nanoseconds.
    pub fn ns(self) -> u64 {
        (self.0 * 1e9) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kilowatt_for_an_hour_is_a_kilowatt_hour() {
        let energy = Watts(1000.0) * Seconds(3600.0);
        assert_eq!(energy.kwh(), 1.0);
        assert_eq!(Joules::from_kwh(1.0), energy);
        assert_eq!(GramsPerKwh(480.6) * energy, GramsCo2e(480.6));
    }
}
