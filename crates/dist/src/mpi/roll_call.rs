//! Which ranks are silent.
//!
//! A rank whose deadline has passed asks all others and notes who answers. Ranks that wait in a call of their own
//! answer while they wait, and so do those that ask at the same time. A rank that is stopped, dead, or computing
//! does not, nor does one that has asked and given up.

use std::time::{Duration, Instant};

use super::library::Request;
use super::wire::{Wire, count};
use crate::error::DistError;

const QUESTION: i32 = 7601;
const ANSWER: i32 = 7602;
/// What an answer says.
static HERE: [u8; 1] = [1];

/// For how long answers are waited for.
pub(super) const LISTEN_FOR: Duration = Duration::from_secs(2);
/// For how long a question that has been seen may take to arrive.
const ARRIVE_WITHIN: Duration = Duration::from_millis(100);
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Asks all ranks, and returns those that do not answer within [`LISTEN_FOR`].
///
/// # Errors
/// If the library reports one.
pub(super) fn silent(wire: &Wire) -> Result<Vec<usize>, DistError> {
    // Leaked: what does not arrive now may arrive later.
    let question: &[u8] = Box::leak(Box::new(count(wire.rank).to_le_bytes()));
    let answers: &mut [u8] = Box::leak(vec![0; wire.world].into_boxed_slice());
    let mut waiting: Vec<(usize, Request)> = Vec::new();
    for (rank, answer) in answers.iter_mut().enumerate().filter(|(rank, _)| *rank != wire.rank) {
        waiting.push((rank, receive(wire, std::slice::from_mut(answer), count(rank), ANSWER)?));
        send(wire, question, rank, QUESTION)?;
    }
    let until = Instant::now() + LISTEN_FOR;
    // To the end, even when all have answered: others may begin to ask later.
    while Instant::now() < until {
        answer(wire)?;
        let mut still = Vec::new();
        for (rank, mut request) in waiting {
            if !wire.is_done(&mut request)? {
                still.push((rank, request));
            }
        }
        waiting = still;
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(waiting.into_iter().map(|(rank, _)| rank).collect())
}

/// Answers every rank that has asked.
///
/// # Errors
/// If the library reports one.
pub(super) fn answer(wire: &Wire) -> Result<(), DistError> {
    while has_been_asked(wire)? {
        let mut asker = Box::new([0_u8; 4]);
        let mut request = receive(wire, &mut *asker, wire.library.abi.any_source, QUESTION)?;
        let until = Instant::now() + ARRIVE_WITHIN;
        while !wire.is_done(&mut request)? {
            if Instant::now() >= until {
                // The library may still write to it.
                std::mem::forget(asker);
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let asker = usize::try_from(i32::from_le_bytes(*asker)).unwrap_or(wire.world);
        if asker < wire.world {
            send(wire, &HERE, asker, ANSWER)?;
        }
    }
    Ok(())
}

fn has_been_asked(wire: &Wire) -> Result<bool, DistError> {
    has_arrived(wire, wire.library.abi.any_source, QUESTION)
}

/// Whether a message of this tag has come from `source`.
pub(super) fn has_arrived(wire: &Wire, source: i32, tag: i32) -> Result<bool, DistError> {
    let library = &wire.library;
    let iprobe = library.functions.iprobe;
    let mut flag = 0;
    // SAFETY: the flag is written before the call returns.
    let code = unsafe { iprobe(source, tag, library.world, &raw mut flag, library.status_ignore()) };
    library.check("MPI_Iprobe", code)?;
    Ok(flag != 0)
}

/// Begins to send; nobody waits for the end.
pub(super) fn send(wire: &Wire, bytes: &'static [u8], to: usize, tag: i32) -> Result<(), DistError> {
    let library = &wire.library;
    let (isend, n) = (library.functions.isend, count(bytes.len()));
    let mut request: Request = 0;
    // SAFETY: the bytes stay for as long as the process.
    let code = unsafe {
        isend(bytes.as_ptr().cast(), n, library.byte, count(to), tag, library.world, &raw mut request)
    };
    library.check("MPI_Isend", code)?;
    // SAFETY: the request is live; MPI completes a send whose request has been freed.
    let code = unsafe { (library.functions.request_free)(&raw mut request) };
    library.check("MPI_Request_free", code)
}

/// Begins to receive; the caller keeps `bytes` until that is done, or for ever.
pub(super) fn receive(wire: &Wire, bytes: &mut [u8], from: i32, tag: i32) -> Result<Request, DistError> {
    let library = &wire.library;
    let (irecv, n) = (library.functions.irecv, count(bytes.len()));
    let mut request: Request = 0;
    // SAFETY: `bytes` is that long, and stays until the request is done.
    let code = unsafe {
        irecv(bytes.as_mut_ptr().cast(), n, library.byte, from, tag, library.world, &raw mut request)
    };
    library.check("MPI_Irecv", code)?;
    Ok(request)
}
