//! A fabric over NCCL, for launchers that bring no MPI: what ranks tell one another goes through their GPUs.

use std::env;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::header::{self, Header};
use super::lane::Lane;
use super::meeting::COMM_ID;
use super::{Communicator, Element, Nccl};
use crate::deadline::{Cut, deadline};
use crate::error::DistError;
use crate::fabric::Fabric;
use crate::launch::Launched;
use crate::node;
use crate::place::Place;
use crate::watchdog::exit_now;

/// Ranks connected by an NCCL communicator of this fabric's own.
///
/// Any thread may call it; a mutex admits one call at a time. Each call begins with a header from every rank: its length, or
/// that it ends. Bytes go through a small buffer on the GPU, in rounds.
///
/// A call whose deadline passes looks at which headers have come: ranks whose header has not are named, among up to eight
/// ranks, which send one another theirs. More send it on in a ring, where one that is late hides others. Every later call
/// fails with the same reason.
///
/// Dropping it waits until all ranks drop theirs, for half a minute at most, unless a call has failed.
///
/// # Panics
/// Calls panic where lengths do not fit the number of ranks, or a root is not a rank.
pub struct NcclFabric {
    place: Place,
    description: String,
    state: Mutex<State>,
}

struct State {
    communicator: Communicator,
    lane: Lane,
    rank: usize,
    world: usize,
    /// Number of the last call.
    call: u64,
    /// Whether headers of all ranks have yet to come.
    is_meeting: bool,
    /// Why no further call is possible.
    failed: Option<String>,
}

/// Bytes for either direction on the GPU, where headers of all ranks do not need more.
const LANE_BYTES: usize = 4 << 20;
/// Up to so many ranks send one another their headers, which NCCL does at once; a connection takes memory.
const SERVED_AT_ONCE: usize = 8;
/// How long a rank that ends waits until the others have heard it.
const PART_WITHIN: Duration = Duration::from_millis(500);
/// How long ranks may take to end together.
const END_WITHIN: Duration = Duration::from_secs(30);

impl NcclFabric {
    /// Meets the ranks of torchrun or srun, on the GPU with this CUDA ordinal.
    ///
    /// # Errors
    /// If there is no NCCL or no such GPU, if the launcher does not tell how many ranks there are and where they meet
    /// ([`prepare`](super::prepare)), or a rank does not answer in time.
    pub fn open(launched: &Launched, ordinal: usize, within: Duration) -> Result<Self, DistError> {
        let until = deadline(within);
        let missing = |variable, expected| {
            let launcher = launched.launcher.name();
            DistError::Environment { launcher, variable, value: None, expected }
        };
        let world = launched.world.ok_or_else(|| missing("WORLD_SIZE", "the number of ranks"))?;
        if env::var_os(COMM_ID).is_none() {
            let expected = "the same HOST:PORT on all ranks, a free port of rank 0's machine";
            return Err(missing(COMM_ID, expected));
        }
        let nccl = Nccl::open()?;
        let lane = Lane::open(ordinal, LANE_BYTES.max(world * header::BYTES))?;
        let communicator = nccl.join(&nccl.unique_id()?, (launched.rank, world), left(until))?;
        let (major, minor, patch) = nccl.version();
        let description = format!("NCCL {major}.{minor}.{patch}, {world} ranks");
        let rank = launched.rank;
        let state = State { communicator, lane, rank, world, call: 0, is_meeting: false, failed: None };
        let place = Place { rank, world, ..Place::solo() };
        let mut opened = Self { place, description, state: Mutex::new(state) };
        let met = opened.call("the first meeting", left(until), |state, until| {
            state.meet(Header { text: node::identity(), ..state.header(0) }, until)
        })?;
        let identities: Vec<String> = met.into_iter().map(|header| header.text).collect();
        opened.place = node::place(rank, node::host(), &identities);
        Ok(opened)
    }

    /// Makes a call, unless an earlier one has failed.
    fn call<T>(
        &self,
        operation: &'static str,
        within: Duration,
        make: impl FnOnce(&mut State, Instant) -> Result<T, Cut>,
    ) -> Result<T, DistError> {
        let until = deadline(within);
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(DistError::Gone { gone: Vec::new(), reason: failed.clone() });
        }
        state.lane.bind()?;
        let error = match make(&mut state, until) {
            Ok(made) => return Ok(made),
            Err(Cut::Failed(error)) => error,
            Err(Cut::Late) => DistError::Silent { silent: state.silent(), operation, waited: within },
        };
        state.failed = Some(format!("an earlier call failed: {error}"));
        Err(error)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The header of the next call, which is about to give `len` bytes.
    fn header(&self, len: usize) -> Header {
        Header { call: self.call + 1, len: len as u64, parts: false, text: String::new() }
    }

    /// Gives `own` to every rank, and returns the headers of all.
    fn meet(&mut self, own: Header, until: Instant) -> Result<Vec<Header>, Cut> {
        (self.call, self.is_meeting) = (own.call, true);
        let bytes = own.encode();
        let peers: Vec<usize> = (0..self.world).filter(|&rank| rank != self.rank).collect();
        let n_received = self.world * header::BYTES;
        let fill = |send: &mut [u8]| send.copy_from_slice(&bytes);
        let is_direct = self.world <= SERVED_AT_ONCE;
        self.round(bytes.len(), n_received, until, fill, |communicator, lane| {
            if !is_direct {
                let places = (lane.sent(0), lane.received(0));
                // SAFETY: the lane has room for a header of each rank.
                return unsafe { communicator.all_gather(places, header::BYTES, Element::U8, lane.stream()) };
            }
            let send = |&rank: &usize| (rank, lane.sent(0), header::BYTES);
            let receive = |&rank: &usize| (rank, lane.received(rank * header::BYTES), header::BYTES);
            let sends: Vec<_> = peers.iter().map(send).collect();
            let receives: Vec<_> = peers.iter().map(receive).collect();
            // SAFETY: the lane has room for a header of each rank.
            unsafe { communicator.exchange(&sends, &receives, lane.stream()) }
        })?;
        self.is_meeting = false;
        let received = self.lane.has_received(n_received).chunks(header::BYTES);
        let mut all: Vec<Header> = received.map(Header::decode).collect();
        all[self.rank] = own;
        match all.iter().position(|header| header.parts) {
            Some(gone) => {
                let reason = all.swap_remove(gone).text;
                Err(Cut::Failed(DistError::Gone { gone: vec![gone], reason }))
            }
            None => Ok(all),
        }
    }

    /// One round: what `fill` writes goes to the GPU, `enqueue` gives NCCL its work, and `n_received` bytes come back, for
    /// [`Lane::has_received`].
    fn round(
        &mut self,
        n_sent: usize,
        n_received: usize,
        until: Instant,
        fill: impl FnOnce(&mut [u8]),
        enqueue: impl FnOnce(&mut Communicator, &Lane) -> Result<(), DistError>,
    ) -> Result<(), Cut> {
        let Self { communicator, lane, .. } = self;
        lane.send(n_sent, fill)?;
        enqueue(communicator, lane)?;
        while !communicator.is_settled()? {
            if Instant::now() >= until {
                return Err(Cut::Late);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        lane.receive(n_received)?;
        lane.wait(until, || communicator.is_settled().map(|_| ()))
    }

    /// Which ranks have not begun the call that this one waits in, as far as that can be found out.
    fn silent(&mut self) -> Vec<usize> {
        let (call, rank, world) = (self.call, self.rank, self.world);
        if !self.is_meeting || world > SERVED_AT_ONCE {
            return Vec::new();
        }
        let Some(headers) = self.lane.look_beside(world * header::BYTES) else { return Vec::new() };
        let has_not_come = |other: usize| {
            other != rank && Header::decode(&headers[other * header::BYTES..][..header::BYTES]).call != call
        };
        (0..world).filter(|&other| has_not_come(other)).collect()
    }

    /// Bytes of each of `n` pieces that one round moves.
    fn piece(&self, n: usize) -> usize {
        self.lane.bytes() / n
    }
}

impl Fabric for NcclFabric {
    fn place(&self) -> &Place {
        &self.place
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn barrier(&self, within: Duration) -> Result<(), DistError> {
        self.call("a barrier", within, |state, until| state.meet(state.header(0), until).map(|_| ()))
    }

    fn broadcast(&self, bytes: &mut [u8], root: usize, within: Duration) -> Result<(), DistError> {
        assert!(root < self.place.world, "rank {root} of {}", self.place.world);
        self.call("a broadcast", within, |state, until| {
            state.meet(state.header(bytes.len()), until)?;
            let (piece, is_root) = (state.piece(1), state.rank == root);
            for bytes in bytes.chunks_mut(piece) {
                let n = bytes.len();
                let fill = |send: &mut [u8]| send.copy_from_slice(bytes);
                state.round(n, n, until, fill, |communicator, lane| {
                    // SAFETY: the lane has room for a piece on either side.
                    unsafe {
                        communicator.broadcast((lane.sent(0), lane.received(0)), n, root, lane.stream())
                    }
                })?;
                if !is_root {
                    bytes.copy_from_slice(state.lane.has_received(n));
                }
            }
            Ok(())
        })
    }

    fn all_gather(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError> {
        let (len, world) = (own.len(), self.place.world);
        assert_eq!(all.len(), len * world, "`all` has one piece for each rank");
        self.call("a gathering by all", within, |state, until| {
            state.meet(state.header(len), until)?;
            for (round, own) in own.chunks(state.piece(world)).enumerate() {
                let (n, start) = (own.len(), round * state.piece(world));
                let fill = |send: &mut [u8]| send.copy_from_slice(own);
                state.round(n, n * world, until, fill, |communicator, lane| {
                    let places = (lane.sent(0), lane.received(0));
                    // SAFETY: the lane has room for the pieces of all ranks.
                    unsafe { communicator.all_gather(places, n, Element::U8, lane.stream()) }
                })?;
                for (rank, piece) in state.lane.has_received(n * world).chunks(n).enumerate() {
                    all[rank * len + start..][..n].copy_from_slice(piece);
                }
            }
            Ok(())
        })
    }

    fn gather(&self, own: &[u8], within: Duration) -> Result<Option<Vec<Vec<u8>>>, DistError> {
        let (rank, world) = (self.place.rank, self.place.world);
        self.call("a gathering by rank 0", within, |state, until| {
            let met = state.meet(state.header(own.len()), until)?;
            let lens: Vec<usize> = met.iter().map(|header| header.len as usize).collect();
            let leads = rank == 0;
            let mut all = vec![Vec::new(); if leads { world } else { 0 }];
            let piece = state.piece(world);
            for start in (0..lens.iter().copied().max().unwrap_or(0)).step_by(piece) {
                let left_of = |len: usize| len.saturating_sub(start).min(piece);
                let n = left_of(own.len());
                let fill = |send: &mut [u8]| send.copy_from_slice(&own[own.len().min(start)..][..n]);
                let n_received = if leads { piece * world } else { 0 };
                state.round(n, n_received, until, fill, |communicator, lane| {
                    let sends = [(0, lane.sent(0), n)];
                    let senders = (0..world).filter(|&rank| leads && left_of(lens[rank]) > 0);
                    let receives: Vec<_> = senders
                        .map(|rank| (rank, lane.received(rank * piece), left_of(lens[rank])))
                        .collect();
                    let sends = if n > 0 { &sends[..] } else { &[] };
                    // SAFETY: the lane has room for a piece of each rank.
                    unsafe { communicator.exchange(sends, &receives, lane.stream()) }
                })?;
                let received = state.lane.has_received(n_received);
                for (rank, bytes) in all.iter_mut().enumerate() {
                    bytes.extend_from_slice(&received[rank * piece..][..left_of(lens[rank])]);
                }
            }
            Ok(leads.then_some(all))
        })
    }

    fn exchange(&self, own: &[u8], all: &mut [u8], within: Duration) -> Result<(), DistError> {
        let world = self.place.world;
        assert!(own.len() == all.len() && own.len().is_multiple_of(world), "one piece for each rank");
        let len = own.len() / world;
        self.call("an exchange", within, |state, until| {
            state.meet(state.header(len), until)?;
            let piece = state.piece(world);
            for start in (0..len).step_by(piece) {
                let n = piece.min(len - start);
                let fill = |send: &mut [u8]| {
                    for (rank, send) in send.chunks_mut(n).enumerate() {
                        send.copy_from_slice(&own[rank * len + start..][..n]);
                    }
                };
                state.round(n * world, n * world, until, fill, |communicator, lane| {
                    let sends: Vec<_> = (0..world).map(|rank| (rank, lane.sent(rank * n), n)).collect();
                    let receives: Vec<_> =
                        (0..world).map(|rank| (rank, lane.received(rank * n), n)).collect();
                    // SAFETY: the lane has room for a piece of each rank on either side.
                    unsafe { communicator.exchange(&sends, &receives, lane.stream()) }
                })?;
                for (rank, piece) in state.lane.has_received(n * world).chunks(n).enumerate() {
                    all[rank * len + start..][..n].copy_from_slice(piece);
                }
            }
            Ok(())
        })
    }

    fn part(&self, reason: &str) {
        let own = |state: &State| Header { parts: true, text: reason.to_owned(), ..state.header(0) };
        // The others may have gone too; either way this fabric is of no more use.
        let _ = self.call("parting", PART_WITHIN, |state, until| state.meet(own(state), until));
    }

    fn abort(&self, exit_code: u8) -> ! {
        exit_now(exit_code)
    }
}

impl Drop for NcclFabric {
    fn drop(&mut self) {
        if std::thread::panicking() || self.barrier(END_WITHIN).is_err() {
            return;
        }
        let communicator = &mut self.lock().communicator;
        // What is left to send goes out, or the others find out.
        let _ = communicator.finalize().and_then(|()| communicator.settle("ending NCCL", END_WITHIN));
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
