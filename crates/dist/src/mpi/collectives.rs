//! The calls, each as one of MPI's non-blocking collectives.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::Mpi;
use super::library::Library;
use super::rounds::{self, Cutting, Slot};
use super::wire::count;
use crate::deadline;
use crate::error::DistError;
use crate::fabric::Fabric;
use crate::place::Place;

impl Fabric for Mpi {
    fn place(&self) -> &Place {
        &self.place
    }

    fn describe(&self) -> String {
        let Self { wire, version, .. } = self;
        format!("MPI, {} ranks ({version}, {} of {})", wire.world, wire.library.abi.name, wire.library.file)
    }

    fn barrier(&self, within: Duration) -> Result<(), DistError> {
        self.call("a barrier", within, |wire, _, deadline| wire.meet(deadline))
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize, within: Duration) -> Result<(), DistError> {
        assert!(root < self.wire.world, "rank {root} of {}", self.wire.world);
        let (len, is_root) = (bytes.len(), self.wire.rank == root);
        let cutting = self.cutting(len, 1);
        // Both closures use the bytes, one after the other.
        let bytes = RefCell::new(bytes);
        self.call("a broadcast", within, |wire, slots, deadline| {
            let fill = |round, slot: &mut Slot| {
                let range = cutting.range(round, len);
                slot.send.resize(range.len(), 0);
                if is_root {
                    slot.send.copy_from_slice(&bytes.borrow()[range]);
                }
            };
            let start = |_, slot: &mut Slot, request| {
                let Library { functions, byte, world, .. } = &wire.library;
                let (buffer, n) = (slot.send.as_mut_ptr().cast(), count(slot.send.len()));
                // SAFETY: the slot's memory stays until the round is complete, or is leaked.
                unsafe { (functions.ibcast)(buffer, n, *byte, count(root), *world, request) }
            };
            let drain = |round, slot: &Slot| {
                if !is_root {
                    bytes.borrow_mut()[cutting.range(round, len)].copy_from_slice(&slot.send);
                }
            };
            rounds::run((wire, slots), ("MPI_Ibcast", cutting), deadline, fill, start, drain)
        })
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError> {
        let (len, n_ranks) = (own.len(), self.wire.world);
        assert_eq!(all.len(), len * n_ranks, "`all` has one piece for each rank");
        let cutting = self.cutting(len, n_ranks);
        self.call("a gathering by all", within, |wire, slots, deadline| {
            let fill = |round, slot: &mut Slot| {
                slot.send.clear();
                slot.send.extend_from_slice(&own[cutting.range(round, len)]);
                slot.receive.resize(slot.send.len() * n_ranks, 0);
            };
            let start = |_, slot: &mut Slot, request| {
                let Library { functions, byte, world, .. } = &wire.library;
                let (from, to) = (slot.send.as_ptr().cast(), slot.receive.as_mut_ptr().cast());
                let n = count(slot.send.len());
                // SAFETY: the slot's memory stays until the round is complete, or is leaked.
                unsafe { (functions.iallgather)(from, n, *byte, to, n, *byte, *world, request) }
            };
            let drain = |round, slot: &Slot| scatter_pieces(cutting, round, slot, all);
            rounds::run((wire, slots), ("MPI_Iallgather", cutting), deadline, fill, start, drain)
        })
    }

    fn gather(&self, own: &[u8], within: Duration) -> Result<Option<Vec<Vec<u8>>>, DistError> {
        let deadline = deadline::deadline(within);
        let lens = self.all_gather_lens(own.len(), within)?;
        let leads = self.wire.rank == 0;
        let cutting = self.cutting(lens.iter().copied().max().unwrap_or(0), self.wire.world);
        let mut all: Vec<Vec<u8>> =
            if leads { lens.iter().map(|_| Vec::new()).collect() } else { Vec::new() };
        let left = deadline.saturating_duration_since(Instant::now());
        self.call("a gathering by rank 0", left, |wire, slots, deadline| {
            let fill = |round, slot: &mut Slot| {
                slot.send.clear();
                slot.send.extend_from_slice(&own[cutting.range(round, own.len())]);
                slot.counts = lens.iter().map(|len| count(cutting.range(round, *len).len())).collect();
                slot.offsets = (0..lens.len()).map(|rank| count(rank * cutting.piece)).collect();
                slot.receive.resize(if leads { cutting.piece * lens.len() } else { 0 }, 0);
            };
            let start = |_, slot: &mut Slot, request| {
                let Library { functions, byte, world, .. } = &wire.library;
                let (from, n) = (slot.send.as_ptr().cast(), count(slot.send.len()));
                let (to, counts) = (slot.receive.as_mut_ptr().cast(), slot.counts.as_ptr());
                let offsets = slot.offsets.as_ptr();
                // SAFETY: the slot's memory stays until the round is complete, or is leaked; counts and offsets
                // lie within it.
                unsafe {
                    (functions.igatherv)(from, n, *byte, to, counts, offsets, *byte, 0, *world, request)
                }
            };
            let drain = |round, slot: &Slot| {
                for (rank, bytes) in all.iter_mut().enumerate() {
                    let n = cutting.range(round, lens[rank]).len();
                    bytes.extend_from_slice(&slot.receive[rank * cutting.piece..][..n]);
                }
            };
            rounds::run((wire, slots), ("MPI_Igatherv", cutting), deadline, fill, start, drain)
        })?;
        Ok(leads.then_some(all))
    }

    fn exchange(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError> {
        let n_ranks = self.wire.world;
        assert!(own.len() == all.len() && own.len().is_multiple_of(n_ranks), "one piece for each rank");
        let len = own.len() / n_ranks;
        let cutting = self.cutting(len, n_ranks);
        self.call("an exchange", within, |wire, slots, deadline| {
            let fill = |round, slot: &mut Slot| {
                slot.send.clear();
                for rank in 0..n_ranks {
                    slot.send.extend_from_slice(&own[rank * len..][cutting.range(round, len)]);
                }
                slot.receive.resize(slot.send.len(), 0);
            };
            let start = |_, slot: &mut Slot, request| {
                let Library { functions, byte, world, .. } = &wire.library;
                let (from, to) = (slot.send.as_ptr().cast(), slot.receive.as_mut_ptr().cast());
                let n = count(slot.send.len() / n_ranks);
                // SAFETY: the slot's memory stays until the round is complete, or is leaked.
                unsafe { (functions.ialltoall)(from, n, *byte, to, n, *byte, *world, request) }
            };
            let drain = |round, slot: &Slot| scatter_pieces(cutting, round, slot, all);
            rounds::run((wire, slots), ("MPI_Ialltoall", cutting), deadline, fill, start, drain)
        })
    }

    fn part(&self, reason: &str) {
        self.say_parting(reason);
    }

    fn abort(&self, exit_code: u8) -> ! {
        self.end(exit_code)
    }
}

/// Copies what each rank sent in a round to its place in `all`.
fn scatter_pieces(cutting: Cutting, round: usize, slot: &Slot, all: &mut [u8]) {
    let range = cutting.range(round, cutting.len);
    for (rank, piece) in slot.receive.chunks_exact(range.len()).enumerate() {
        all[rank * cutting.len..][range.clone()].copy_from_slice(piece);
    }
}
