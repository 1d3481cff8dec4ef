//! Ranks that an MPI library connects, opened at run time.
//!
//! - `abi`: how libraries represent handles and constants
//! - `library`: an opened library and its functions
//! - `wire`: the library, and this rank among the others
//! - `roll_call`: which ranks are silent
//! - `parting`: the last word of a rank that cannot go on
//! - `wait`: waiting within a deadline
//! - `rounds`: a call on any number of bytes
//! - `collectives`: the calls

mod abi;
mod collectives;
mod library;
mod parting;
mod roll_call;
mod rounds;
mod wait;
mod wire;

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::library::Library;
use self::rounds::{Cutting, Slots};
use self::wire::{Wire, count};
use crate::deadline::{self, Cut};
use crate::error::DistError;
use crate::fabric::Fabric;
use crate::launch::{Launched, Launcher};
use crate::node;
use crate::place::Place;
use crate::watchdog::{EXIT_PARTED, exit_now, watched};

/// Ranks connected by MPI. A process can open it once.
///
/// Any thread may call it; a mutex admits one call at a time (`MPI_THREAD_SERIALIZED`). Data moves as `MPI_BYTE`, by
/// non-blocking collectives that are polled with growing sleeps, so a waiting rank uses almost no CPU time.
///
/// A call whose deadline passes takes up to two seconds more, in which it finds out which ranks do not answer: those
/// that are stopped, dead, or busy outside this fabric. Every later call fails with the same reason.
///
/// Dropping it finalizes MPI if no call has failed; launchers call a process that ends without that faulty. A rank that
/// gives up calls [`Fabric::abort`] instead: dropping would wait half a minute for the others to drop theirs.
///
/// # Panics
/// Calls panic where lengths do not fit the number of ranks, or a root is not a rank.
pub struct Mpi {
    wire: Wire,
    place: Place,
    state: Mutex<State>,
    round_bytes: usize,
    version: String,
}

struct State {
    slots: Slots,
    /// Why no further call is possible.
    failed: Option<String>,
}

/// MPI can be started once in a process.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Bytes that a rank sends and receives in one round: what stays in a core's cache is copied cheaply.
const ROUND_BYTES: usize = 512 << 10;
/// Shortest piece for each rank in one round, unless a round is limited to less: short messages waste a network.
const MIN_PIECE: usize = 64 << 10;
/// Longest piece: counts are of type `int`.
const MAX_PIECE: usize = 1 << 30;
/// How long ranks may take to end together.
const FINALIZE_WITHIN: Duration = Duration::from_secs(30);
/// How long an abort may take, and how long it waits for a call on another thread.
const ABORT_WITHIN: Duration = Duration::from_secs(5);

impl Mpi {
    /// Opens the first library of `names` that there is, and meets the other ranks.
    ///
    /// If MPI does not start within `within`, the process ends with [`EXIT_PARTED`] and a message: the call that starts
    /// it cannot be left.
    ///
    /// # Errors
    /// If no library can be opened, it does not start, or a rank does not answer in time.
    pub fn open(names: &[String], within: Duration) -> Result<Self, DistError> {
        let began = Instant::now();
        let library = Library::open(names)?;
        if IS_OPEN.swap(true, Ordering::SeqCst) {
            let reason = String::from("it has been started in this process before, and can be started once");
            return Err(DistError::Library { library: library.file, call: "MPI_Init_thread", reason });
        }
        let what = format!("MPI_Init_thread of {}", library.file);
        watched(within, &what, EXIT_PARTED, || start(&library))?;
        let (rank, world) = rank_and_size(&library)?;
        let version = library.version();
        let state = Mutex::new(State { slots: Slots::default(), failed: None });
        let place = Place { rank, world, ..Place::solo() };
        let wire = Wire { library, rank, world };
        let mut opened = Self { wire, place, state, round_bytes: ROUND_BYTES, version };
        let left = within.saturating_sub(began.elapsed());
        let identities = opened.all_gather_texts(&node::identity(), left)?;
        opened.place = node::place(rank, node::host(), &identities);
        Ok(opened)
    }

    /// Limits what a rank sends and receives in one round, which is the same on all ranks: for tests of long calls.
    #[must_use]
    pub fn with_round_bytes(mut self, round_bytes: usize) -> Self {
        self.round_bytes = round_bytes.max(1);
        self
    }

    /// The library's name and version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// File of the library, as it was opened.
    pub fn file(&self) -> &str {
        &self.wire.library.file
    }

    /// MPI's own, blocking `MPI_Alltoall` (`is_exchange`) or `MPI_Allgather`: to compare with, for it has no deadline.
    ///
    /// # Errors
    /// If the library reports one.
    pub fn blocking(&self, is_exchange: bool, own: &[u8], all: &mut [u8]) -> Result<(), DistError> {
        let _state = self.lock();
        let Library { functions, world, byte, .. } = &self.wire.library;
        let n = if is_exchange { own.len() / self.wire.world } else { own.len() };
        assert_eq!(all.len(), n * self.wire.world, "`all` has one piece for each rank");
        let call = if is_exchange { functions.alltoall } else { functions.allgather };
        let (from, to, n) = (own.as_ptr().cast(), all.as_mut_ptr().cast(), count(n));
        // SAFETY: the lengths are checked above; the call returns when it no longer needs the memory.
        let code = unsafe { call(from, n, *byte, to, n, *byte, *world) };
        self.wire.library.check("a blocking collective", code)
    }

    /// The text of each rank, in the order of ranks.
    fn all_gather_texts(&self, own: &str, within: Duration) -> Result<Vec<String>, DistError> {
        let deadline = deadline::deadline(within);
        let left = || deadline.saturating_duration_since(Instant::now());
        let lens = self.all_gather_lens(own.len(), within)?;
        let longest = lens.iter().copied().max().unwrap_or(0);
        let mut padded = own.as_bytes().to_vec();
        padded.resize(longest, 0);
        let mut all = vec![0; longest * self.wire.world];
        self.all_gather(&padded, &mut all, left())?;
        let text =
            |(rank, len): (usize, &usize)| String::from_utf8_lossy(&all[rank * longest..][..*len]).into();
        Ok(lens.iter().enumerate().map(text).collect())
    }

    fn all_gather_lens(&self, own: usize, within: Duration) -> Result<Vec<usize>, DistError> {
        let mut all = vec![0; self.wire.world * size_of::<usize>()];
        self.all_gather(&own.to_le_bytes(), &mut all, within)?;
        let (words, _) = all.as_chunks();
        Ok(words.iter().map(|word| usize::from_le_bytes(*word)).collect())
    }

    /// Cuts pieces of `len` bytes, of which a round has `n_pieces`.
    fn cutting(&self, len: usize, n_pieces: usize) -> Cutting {
        let shortest = MIN_PIECE.min(self.round_bytes);
        let piece = (self.round_bytes / n_pieces).max(shortest).min(MAX_PIECE / n_pieces);
        Cutting { len, piece, n_pieces }
    }

    /// Makes a call, unless an earlier one has failed. If it fails, memory that MPI may still use is leaked.
    fn call(
        &self,
        operation: &'static str,
        within: Duration,
        make: impl FnOnce(&Wire, &mut Slots, Instant) -> Result<(), Cut>,
    ) -> Result<(), DistError> {
        let deadline = deadline::deadline(within);
        let mut state = self.lock();
        if let Some(failed) = &state.failed {
            return Err(DistError::Gone { gone: Vec::new(), reason: failed.clone() });
        }
        let Err(cut) = make(&self.wire, &mut state.slots, deadline) else { return Ok(()) };
        let error = match cut {
            Cut::Failed(error) => error,
            Cut::Late => {
                let silent = roll_call::silent(&self.wire).unwrap_or_default();
                DistError::Silent { silent, operation, waited: within }
            }
        };
        std::mem::forget(std::mem::take(&mut state.slots));
        state.failed = Some(format!("an earlier call failed: {error}"));
        Err(error)
    }

    /// Tells the others that this rank ends. Afterwards no call is possible.
    fn say_parting(&self, reason: &str) {
        let mut state = self.lock();
        // The others may have gone too, and this rank has said what there is to say.
        let _ = parting::part(&self.wire, reason);
        state.failed.get_or_insert_with(|| format!("this rank has parted: {reason}"));
    }

    /// Ends all ranks, by `MPI_Abort` unless the launcher ends them anyway when this one exits.
    ///
    /// Open MPI's `mpirun` does. That of 4.1.4 (Debian 12) cannot unpack the message that `MPI_Abort` sends it
    /// (`show_help.c`): it crashed in several of some 20 jobs, and hung in one.
    fn end(&self, exit_code: u8) -> ! {
        let is_open_mpi = |launched: Launched| launched.launcher == Launcher::OpenMpi;
        if Launched::here().is_ok_and(|launched| launched.is_some_and(is_open_mpi)) {
            exit_now(exit_code);
        }
        watched(ABORT_WITHIN, "MPI_Abort, or the call that it waits for,", exit_code, || {
            let _state = self.lock();
            // SAFETY: MPI has been started and not finalized, and no other thread is in it.
            unsafe { (self.wire.library.functions.abort)(self.wire.library.world, exit_code.into()) }
        });
        exit_now(exit_code)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts MPI, and lets it return errors where it would end the process.
fn start(library: &Library) -> Result<(), DistError> {
    let functions = &library.functions;
    let needs = library.abi.thread_serialized;
    let mut provided: c_int = 0;
    let none = std::ptr::null_mut();
    // SAFETY: MPI has not been started before; it takes no arguments.
    let code = unsafe { (functions.init_thread)(none, none.cast(), needs, &raw mut provided) };
    library.check("MPI_Init_thread", code)?;
    if provided < needs {
        let reason = String::from("it has no MPI_THREAD_SERIALIZED; use a build with threads");
        return Err(DistError::Library { library: library.file.clone(), call: "MPI_Init_thread", reason });
    }
    // SAFETY: both handles are of this library.
    let code = unsafe { (functions.comm_set_errhandler)(library.world, library.errors_return) };
    library.check("MPI_Comm_set_errhandler", code)
}

fn rank_and_size(library: &Library) -> Result<(usize, usize), DistError> {
    let ask = |name, function: unsafe extern "C" fn(usize, *mut c_int) -> c_int| {
        let mut answer: c_int = 0;
        // SAFETY: MPI has been started, and writes one int.
        let code = unsafe { function(library.world, &raw mut answer) };
        library.check(name, code)?;
        Ok(usize::try_from(answer).expect("MPI counts ranks from 0"))
    };
    let rank = ask("MPI_Comm_rank", library.functions.comm_rank)?;
    Ok((rank, ask("MPI_Comm_size", library.functions.comm_size)?))
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if std::thread::panicking() || self.barrier(FINALIZE_WITHIN).is_err() {
            // MPI may still use them.
            std::mem::forget(std::mem::take(&mut self.lock().slots));
            return;
        }
        watched(FINALIZE_WITHIN, "MPI_Finalize", EXIT_PARTED, || {
            // SAFETY: no request is under way, and nothing is called afterwards.
            unsafe { (self.wire.library.functions.finalize)() }
        });
    }
}
