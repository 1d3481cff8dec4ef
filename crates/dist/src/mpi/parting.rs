//! A rank that cannot go on says so before it ends.

use std::time::{Duration, Instant};

use super::roll_call::{self, has_arrived, receive, send};
use super::wire::{Wire, count};
use crate::error::DistError;

const PARTING: i32 = 7603;
/// Bytes of a parting word: short enough for any library to send at once.
const WORD: usize = 1024;
/// For how long the library is given time to send it.
const SEND_FOR: Duration = Duration::from_millis(200);

/// Tells all ranks that this one ends, and why.
///
/// # Errors
/// If the library reports one.
pub(super) fn part(wire: &Wire, reason: &str) -> Result<(), DistError> {
    let end = (0..=reason.len().min(WORD)).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or(0);
    let mut word = reason.as_bytes()[..end].to_vec();
    word.resize(WORD, 0);
    let word: &[u8] = word.leak();
    for rank in (0..wire.world).filter(|&rank| rank != wire.rank) {
        send(wire, word, rank, PARTING)?;
    }
    let until = Instant::now() + SEND_FOR;
    while Instant::now() < until {
        roll_call::answer(wire)?;
        std::thread::sleep(roll_call::LOOK_EVERY);
    }
    Ok(())
}

/// Whether a rank has said that it ends.
///
/// # Errors
/// [`DistError::Gone`] with what it said; others if the library reports one.
pub(super) fn heed(wire: &Wire) -> Result<(), DistError> {
    for rank in (0..wire.world).filter(|&rank| rank != wire.rank) {
        if !has_arrived(wire, count(rank), PARTING)? {
            continue;
        }
        // Leaked if it does not come: the library may still write to it.
        let word: &mut [u8] = Box::leak(vec![0; WORD].into_boxed_slice());
        let mut request = receive(wire, word, count(rank), PARTING)?;
        let until = Instant::now() + SEND_FOR;
        while !wire.is_done(&mut request)? && Instant::now() < until {
            std::thread::sleep(roll_call::LOOK_EVERY);
        }
        let reason = String::from_utf8_lossy(word).trim_end_matches('\0').to_owned();
        return Err(DistError::Gone { gone: vec![rank], reason });
    }
    Ok(())
}
