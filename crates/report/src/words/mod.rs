//! Quantities, records, sensors and flags in words, and tables of them. Nothing here knows a run.

pub mod describe;
pub mod flags;
pub mod quantity;
pub mod sensor_name;
pub mod table;

pub(crate) mod bounds;
pub(crate) mod clock;
