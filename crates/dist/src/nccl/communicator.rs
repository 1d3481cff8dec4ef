//! Ranks that sum.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::config::Config;
use super::library::{
    BF16, Comm, DataType, F32, F64, IN_PROGRESS, Library, MAX, NcclResult, RedOp, SUM, Stream, U8, UniqueId,
};
use crate::error::DistError;

/// One rank of a communicator. No call blocks: one that has begun work in the background is to be settled by
/// [`Communicator::settle`] before the next.
///
/// Dropping it frees nothing: NCCL's teardown waits for other ranks, and for graphs that hold the communicator. It goes
/// with the process, or by [`Communicator::abort`].
pub struct Communicator {
    library: Arc<Library>,
    comm: Comm,
}

// SAFETY: NCCL's calls may come from any thread, one at a time; `&mut self` sees to that where work is enqueued.
unsafe impl Send for Communicator {}

/// Type of the elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// A byte, which is copied and never summed.
    U8,
    /// 32 bits.
    F32,
    /// 64 bits.
    F64,
    /// 16 bits, with the exponent of 32.
    Bf16,
}

/// How elements of ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// The greatest.
    Max,
}

const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Communicator {
    /// Begins to join; [`Communicator::settle`] waits for the end.
    pub(super) fn begin(
        library: Arc<Library>,
        id: &UniqueId,
        (rank, world): (usize, usize),
    ) -> Result<Self, DistError> {
        let mut config = Config::non_blocking();
        let mut comm: Comm = std::ptr::null_mut();
        let init = library.functions.comm_init_rank_config;
        // SAFETY: the communicator is written, and the configuration read, before the call returns.
        let result = unsafe { init(&raw mut comm, count(world), *id, count(rank), &raw mut config) };
        library.check("ncclCommInitRankConfig", result)?;
        Ok(Self { library, comm })
    }

    /// What NCCL's threads have found out: whether work is still being set up.
    ///
    /// # Errors
    /// If NCCL reports one, such as a rank that has gone.
    pub fn is_settled(&self) -> Result<bool, DistError> {
        let mut state: NcclResult = 0;
        // SAFETY: the communicator is live; the state is written before the call returns.
        let result = unsafe { (self.library.functions.comm_get_async_error)(self.comm, &raw mut state) };
        self.library.check("ncclCommGetAsyncError", result)?;
        self.library.check("NCCL's work in the background", state)?;
        Ok(state != IN_PROGRESS)
    }

    /// Waits until what has been begun is set up. Which ranks are late is not known to NCCL.
    ///
    /// # Errors
    /// If NCCL reports one, or the deadline passes.
    pub fn settle(&self, operation: &'static str, within: Duration) -> Result<(), DistError> {
        let began = Instant::now();
        while !self.is_settled()? {
            if began.elapsed() >= within {
                return Err(DistError::Silent { silent: Vec::new(), operation, waited: within });
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Enqueues: each rank gets its share of the reduction over ranks. Shares follow one another in the order of ranks.
    ///
    /// # Shapes
    /// `from` has `n` elements a rank, `to` has `n`.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// Addresses lie on this communicator's device with that many elements, and live until the work on `stream`, which
    /// is of the same device, is done.
    pub unsafe fn reduce_scatter(
        &mut self,
        (from, to): (*const c_void, *mut c_void),
        n: usize,
        (element, reduction): (Element, Reduction),
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        let call = self.library.functions.reduce_scatter;
        // SAFETY: the caller's.
        let result =
            unsafe { call(from, to, n, element.code(), reduction.code(), self.comm, stream as Stream) };
        self.library.check("ncclReduceScatter", result)
    }

    /// Enqueues: all ranks get the `n` elements of each, in the order of ranks.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// As for [`Communicator::reduce_scatter`]; `to` has `n` elements a rank, `from` has `n`.
    pub unsafe fn all_gather(
        &mut self,
        (from, to): (*const c_void, *mut c_void),
        n: usize,
        element: Element,
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        let call = self.library.functions.all_gather;
        // SAFETY: the caller's.
        let result = unsafe { call(from, to, n, element.code(), self.comm, stream as Stream) };
        self.library.check("ncclAllGather", result)
    }

    /// Enqueues: all ranks get the reduction of `n` elements over ranks.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// As for [`Communicator::reduce_scatter`]; both have `n` elements.
    pub unsafe fn all_reduce(
        &mut self,
        (from, to): (*const c_void, *mut c_void),
        n: usize,
        (element, reduction): (Element, Reduction),
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        let call = self.library.functions.all_reduce;
        // SAFETY: the caller's.
        let result =
            unsafe { call(from, to, n, element.code(), reduction.code(), self.comm, stream as Stream) };
        self.library.check("ncclAllReduce", result)
    }

    /// Enqueues: all ranks get the `n` bytes of `root`.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// As for [`Communicator::reduce_scatter`]; both have `n` bytes.
    pub unsafe fn broadcast(
        &mut self,
        (from, to): (*const c_void, *mut c_void),
        n: usize,
        root: usize,
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        let (call, root) = (self.library.functions.broadcast, count(root));
        // SAFETY: the caller's.
        let result = unsafe { call(from, to, n, U8, root, self.comm, stream as Stream) };
        self.library.check("ncclBroadcast", result)
    }

    /// Enqueues one group of transfers: each of `sends` goes to the rank that it names, and each of `receives` is filled by
    /// the rank that it names.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// As for [`Communicator::reduce_scatter`]; each address has as many bytes as stand with it.
    pub unsafe fn exchange(
        &mut self,
        sends: &[(usize, *const c_void, usize)],
        receives: &[(usize, *mut c_void, usize)],
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        self.grouped(|communicator| {
            let Library { functions, .. } = communicator.library.as_ref();
            let mut enqueued = Ok(());
            for &(rank, from, n) in sends {
                // SAFETY: the caller's.
                let result = unsafe { (functions.send)(from, n, U8, count(rank), communicator.comm, stream) };
                enqueued = enqueued.and(communicator.library.check("ncclSend", result));
            }
            for &(rank, to, n) in receives {
                // SAFETY: the caller's.
                let result = unsafe { (functions.recv)(to, n, U8, count(rank), communicator.comm, stream) };
                enqueued = enqueued.and(communicator.library.check("ncclRecv", result));
            }
            enqueued
        })
    }

    /// Enqueues one group of reductions in place: of each of `parts`, an address with a number of elements and a rank, that
    /// rank gets the reduction over ranks.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// As for [`Communicator::reduce_scatter`]; each address has as many elements as stand with it.
    pub unsafe fn reduce_each(
        &mut self,
        parts: &[(*mut c_void, usize, usize)],
        (element, reduction): (Element, Reduction),
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        self.grouped(|communicator| {
            let call = communicator.library.functions.reduce;
            let (element, reduction) = (element.code(), reduction.code());
            parts.iter().try_for_each(|&(at, n, root)| {
                // SAFETY: the caller's.
                let result = unsafe {
                    call(at.cast_const(), at, n, element, reduction, count(root), communicator.comm, stream)
                };
                communicator.library.check("ncclReduce", result)
            })
        })
    }

    /// Enqueues one group of copies in place: of each of `parts`, an address with a number of bytes and a rank, all ranks
    /// get what that rank has.
    ///
    /// # Errors
    /// If NCCL refuses.
    ///
    /// # Safety
    /// As for [`Communicator::reduce_scatter`]; each address has as many bytes as stand with it.
    pub unsafe fn broadcast_each(
        &mut self,
        parts: &[(*mut c_void, usize, usize)],
        stream: *mut c_void,
    ) -> Result<(), DistError> {
        self.grouped(|communicator| {
            parts.iter().try_for_each(|&(at, n, root)| {
                // SAFETY: the caller's.
                unsafe { communicator.broadcast((at.cast_const(), at), n, root, stream) }
            })
        })
    }

    /// Makes of calls one group, which is ended whatever becomes of them.
    fn grouped(&mut self, calls: impl FnOnce(&mut Self) -> Result<(), DistError>) -> Result<(), DistError> {
        let library = Arc::clone(&self.library);
        // SAFETY: it only begins a group of calls of this thread.
        library.check("ncclGroupStart", unsafe { (library.functions.group_start)() })?;
        let enqueued = calls(self);
        // SAFETY: it ends the group.
        let ended = library.check("ncclGroupEnd", unsafe { (library.functions.group_end)() });
        enqueued.and(ended)
    }

    /// Begins to end: [`Communicator::settle`] returns once what this rank has sent has left it. All ranks call it, and
    /// none may enqueue anything afterwards. Nothing recorded may hold the communicator.
    ///
    /// # Errors
    /// If NCCL reports one.
    pub fn finalize(&mut self) -> Result<(), DistError> {
        // SAFETY: the communicator is live.
        let result = unsafe { (self.library.functions.comm_finalize)(self.comm) };
        self.library.check("ncclCommFinalize", result)
    }

    /// Gives up what is under way and frees the communicator.
    ///
    /// # Errors
    /// If NCCL reports one.
    pub fn abort(self) -> Result<(), DistError> {
        // SAFETY: the communicator is live and used no more.
        let result = unsafe { (self.library.functions.comm_abort)(self.comm) };
        self.library.check("ncclCommAbort", result)
    }
}

/// A rank, or a number of them, as NCCL counts.
fn count(n: usize) -> c_int {
    c_int::try_from(n).expect("ranks are below 2^31")
}

impl Element {
    fn code(self) -> DataType {
        match self {
            Self::U8 => U8,
            Self::F32 => F32,
            Self::F64 => F64,
            Self::Bf16 => BF16,
        }
    }
}

impl Reduction {
    fn code(self) -> RedOp {
        match self {
            Self::Sum => SUM,
            Self::Max => MAX,
        }
    }
}
