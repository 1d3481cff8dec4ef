//! One rank alone.

use std::time::Duration;

use crate::error::DistError;
use crate::fabric::Fabric;
use crate::place::Place;

/// A process that trains by itself: every call is a copy.
#[derive(Debug)]
pub struct Solo {
    place: Place,
}

impl Solo {
    /// The only rank.
    pub fn new() -> Self {
        Self { place: Place::solo() }
    }
}

impl Default for Solo {
    fn default() -> Self {
        Self::new()
    }
}

impl Fabric for Solo {
    fn place(&self) -> &Place {
        &self.place
    }

    fn describe(&self) -> String {
        String::from("one process")
    }

    fn barrier(&self, _: Duration) -> Result<(), DistError> {
        Ok(())
    }

    fn broadcast(&self, _: &mut [u8], _: usize, _: Duration) -> Result<(), DistError> {
        Ok(())
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], _: Duration) -> Result<(), DistError> {
        all.copy_from_slice(own);
        Ok(())
    }

    fn gather(&self, own: &[u8], _: Duration) -> Result<Option<Vec<Vec<u8>>>, DistError> {
        Ok(Some(vec![own.to_vec()]))
    }

    fn exchange(&self, own: &[u8], all: &mut [u8], _: Duration) -> Result<(), DistError> {
        all.copy_from_slice(own);
        Ok(())
    }

    fn part(&self, _: &str) {}

    fn abort(&self, exit_code: u8) -> ! {
        std::process::exit(exit_code.into())
    }
}
