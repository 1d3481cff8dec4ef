//! What decoding does that training does not: rows of several texts against a cache of their keys and values.

pub mod board;
