//! CUDA's version numbers.

use std::fmt;

/// A version of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// 13 of 13.0.
    pub major: u32,
    /// 0 of 13.0.
    pub minor: u32,
}

impl CudaVersion {
    /// What this program was built with. The driver must offer as much: it compiles PTX of this version at load.
    pub const BUILT_WITH: Self = include!(concat!(env!("OUT_DIR"), "/version.rs"));

    /// From the form in which the driver gives it: 13000 for 13.0, 12080 for 12.8.
    pub const fn from_number(number: i32) -> Self {
        let number = number.unsigned_abs();
        Self { major: number / 1000, minor: number % 1000 / 10 }
    }

    /// The first branch of the driver with this version.
    ///
    /// # References
    /// CUDA Toolkit release notes, table "CUDA Toolkit and Corresponding Driver Versions".
    pub const fn first_driver(self) -> Option<u32> {
        match (self.major, self.minor) {
            (12, 0) => Some(525),
            (12, 1) => Some(530),
            (12, 2) => Some(535),
            (12, 3) => Some(545),
            (12, 4) => Some(550),
            (12, 5) => Some(555),
            (12, 6) => Some(560),
            (12, 8) => Some(570),
            (12, 9) => Some(575),
            (13, 0) => Some(580),
            _ => None,
        }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_printed_as_people_write_them() {
        let (old, new) = (CudaVersion::from_number(12080), CudaVersion::from_number(13000));
        assert!(old < new);
        assert_eq!((old.to_string(), new.to_string()), ("12.8".to_owned(), "13.0".to_owned()));
        assert_eq!(new.first_driver(), Some(580));
    }
}
