//! A call on any number of bytes, in rounds of bounded size.
//!
//! MPI reads and writes memory of ours, never the caller's: a call whose deadline has passed returns while the library
//! still holds addresses, and a rank that comes back late would write there. That memory is then leaked. Several
//! slots take turns, so that copies of one round overlap with the transfer of others.

use std::ffi::c_int;
use std::ops::Range;
use std::time::Instant;

use super::library::Request;
use super::wire::Wire;
use crate::deadline::Cut;
use crate::pace::Pace;

/// Memory of one round.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) send: Vec<u8>,
    pub(super) receive: Vec<u8>,
    /// Lengths and offsets in `receive`, where they differ between ranks.
    pub(super) counts: Vec<c_int>,
    pub(super) offsets: Vec<c_int>,
    request: Request,
}

/// The slots that take turns, each for one round.
pub(super) type Slots = [Slot; N_SLOTS];

/// Rounds under way at once: with more, ranks that share cores wait less for each other.
const N_SLOTS: usize = 4;

/// Rounds with more bytes than this begin with a meeting, so that nobody polls for ranks that are not there yet.
const MEET_ABOVE: usize = 64 << 10;

/// How a call is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cutting {
    /// Bytes of a piece, on the rank that has most.
    pub(super) len: usize,
    /// Bytes of a piece in one round.
    pub(super) piece: usize,
    /// Pieces that a rank handles in one round.
    pub(super) n_pieces: usize,
}

impl Cutting {
    fn n_rounds(self) -> usize {
        self.len.div_ceil(self.piece)
    }

    /// Which bytes of a piece of `len` a round moves.
    pub(super) fn range(self, round: usize, len: usize) -> Range<usize> {
        (round * self.piece).min(len)..((round + 1) * self.piece).min(len)
    }

    fn is_large(self) -> bool {
        self.len.min(self.piece) * self.n_pieces > MEET_ABOVE
    }
}

/// Makes all rounds: `fill` writes what a slot sends, `start` begins the transfer and returns MPI's code, `drain` reads
/// what has come.
pub(super) fn run(
    (wire, slots): (&Wire, &mut Slots),
    (call, cutting): (&'static str, Cutting),
    deadline: Instant,
    mut fill: impl FnMut(usize, &mut Slot),
    start: impl Fn(usize, &mut Slot, *mut Request) -> c_int,
    mut drain: impl FnMut(usize, &Slot),
) -> Result<(), Cut> {
    let n_rounds = cutting.n_rounds();
    let mut pace = Pace::Patient;
    if cutting.is_large() {
        wire.meet(deadline)?;
        pace = Pace::Eager;
    }
    for round in 0..n_rounds + N_SLOTS - 1 {
        if round < n_rounds {
            let slot = &mut slots[round % N_SLOTS];
            fill(round, slot);
            // An empty vector's address is 1, which is `MPI_IN_PLACE` in two of the ABIs.
            slot.send.reserve(1);
            slot.receive.reserve(1);
            let mut request: Request = 0;
            wire.library.check(call, start(round, slot, &raw mut request))?;
            slot.request = request;
        }
        if let Some(before) = (round + 1).checked_sub(N_SLOTS).filter(|before| *before < n_rounds) {
            let slot = &mut slots[before % N_SLOTS];
            wire.wait(&mut slot.request, pace, deadline)?;
            drain(before, slot);
        }
    }
    Ok(())
}
