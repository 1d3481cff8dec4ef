//! What a resume leaves alone.

/// Whether a key may change when a run is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtResume {
    /// It must be what it was.
    Fixed,
    /// It may be another.
    Free,
}
