//! What boards of several ranks do together, by NCCL on a stream of its own.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wattle_dist::nccl::{Communicator, Element, Reduction};
use wattle_dist::{DistError, Fabric, Nccl, Place};

use super::context::Context;
use super::lock;
use super::patience::Patience;
use super::stream::{Event, Stream};
use crate::board::{BoardError, Collectives, DevicePtr, Owned, Ptr};

/// A communicator over the boards of all ranks, and the stream of its work.
///
/// Sums are the same from run to run with `NCCL_NVLS_ENABLE=0`, which [`wattle_dist::nccl::prepare`] sets at the start of
/// a process.
pub(super) struct CudaCollectives {
    place: Place,
    fabric: Arc<dyn Fabric>,
    communicator: Arc<Mutex<Communicator>>,
    work: Arc<Stream>,
    stream: Stream,
    /// The work that collectives wait for.
    forked: Event,
    /// The collectives that the work waits for.
    joined: Event,
    /// Whether the work is yet to be told to wait for a collective.
    is_apart: AtomicBool,
    context: Arc<Context>,
}

impl CudaCollectives {
    /// Joins the boards of all ranks. From then on the context's waits end when ranks are lost.
    pub(super) fn open(
        (context, work): (&Arc<Context>, &Arc<Stream>),
        fabric: Arc<dyn Fabric>,
        nccl: &Nccl,
        within: Duration,
    ) -> Result<Self, BoardError> {
        context.bind()?;
        refuse_shared(context, fabric.as_ref(), nccl, within)?;
        let id = nccl.shared_id(fabric.as_ref(), within)?;
        let place = fabric.place().clone();
        let communicator = nccl.join(&id, (place.rank, place.world), within)?;
        let communicator = Arc::new(Mutex::new(communicator));
        let collectives = Self {
            place,
            work: Arc::clone(work),
            stream: Stream::new(context)?,
            forked: Event::fence(context)?,
            joined: Event::fence(context)?,
            is_apart: AtomicBool::new(false),
            context: Arc::clone(context),
            communicator,
            fabric,
        };
        let patience = Patience::new(&collectives.fabric, &collectives.communicator, within);
        context.wait_with(patience);
        Ok(collectives)
    }

    /// Lets the board's work wait for collectives that it does not wait for yet.
    pub(super) fn join_if_apart(&self) -> Result<(), BoardError> {
        if self.is_apart.load(Ordering::Relaxed) { self.join() } else { Ok(()) }
    }

    fn patience(&self) -> &Patience {
        self.context.patience().expect("it was given as the ranks were joined")
    }

    /// Hands a collective to NCCL. What that does in the background is over when this returns, so it belongs to the step
    /// that is being recorded, if one is.
    fn enqueue(
        &self,
        what: &'static str,
        call: impl FnOnce(&mut Communicator) -> Result<(), DistError>,
    ) -> Result<(), BoardError> {
        self.context.bind()?;
        self.is_apart.store(true, Ordering::Relaxed);
        let mut communicator = lock(&self.communicator);
        call(&mut communicator).map_err(|error| self.patience().lose_with_last_word(error))?;
        self.patience().settle(&communicator, what)
    }
}

impl Collectives for CudaCollectives {
    fn rank(&self) -> usize {
        self.place.rank
    }

    fn world(&self) -> usize {
        self.place.world
    }

    fn fork(&self) -> Result<(), BoardError> {
        self.context.bind()?;
        self.forked.record(&self.work)?;
        self.stream.wait_for(&self.forked)
    }

    fn join(&self) -> Result<(), BoardError> {
        self.context.bind()?;
        self.joined.record(&self.stream)?;
        self.work.note_work();
        self.work.wait_for(&self.joined)?;
        self.is_apart.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn reduce_scatter(&self, x: Ptr<f32>, n: usize) -> Result<(), BoardError> {
        let (from, to) = (pointer(x.bytes()), pointer(x.add(self.place.rank * n).bytes()));
        let stream = self.stream.handle.as_ptr();
        self.enqueue("a sum over ranks", |communicator| {
            let sum = (Element::F32, Reduction::Sum);
            // SAFETY: that `x` has `n` elements a rank on this device is the caller's part, as for any work of a board.
            unsafe { communicator.reduce_scatter((from.cast_const(), to), n, sum, stream) }
        })
    }

    fn all_gather(&self, x: DevicePtr, n_bytes: usize) -> Result<(), BoardError> {
        let (from, to) = (pointer(x.offset(self.place.rank * n_bytes)), pointer(x));
        let stream = self.stream.handle.as_ptr();
        self.enqueue("a gathering by all", |communicator| {
            // SAFETY: that `x` has `n_bytes` a rank on this device is the caller's part, as for any work of a board.
            unsafe { communicator.all_gather((from.cast_const(), to), n_bytes, Element::U8, stream) }
        })
    }

    fn reduce(&self, parts: &[Owned]) -> Result<(), BoardError> {
        let stream = self.stream.handle.as_ptr();
        let parts: Vec<_> = parts
            .iter()
            .map(|part| (pointer(part.at), part.n_bytes / size_of::<f32>(), part.owner))
            .collect();
        self.enqueue("sums over ranks", |communicator| {
            // SAFETY: that each part lies on this device is the caller's part, as for any work of a board.
            unsafe { communicator.reduce_each(&parts, (Element::F32, Reduction::Sum), stream) }
        })
    }

    fn broadcast(&self, parts: &[Owned]) -> Result<(), BoardError> {
        let stream = self.stream.handle.as_ptr();
        let parts: Vec<_> = parts.iter().map(|part| (pointer(part.at), part.n_bytes, part.owner)).collect();
        self.enqueue("broadcasts", |communicator| {
            // SAFETY: that each part lies on this device is the caller's part, as for any work of a board.
            unsafe { communicator.broadcast_each(&parts, stream) }
        })
    }

    fn all_agree(&self, own: bool) -> Result<bool, BoardError> {
        if self.work.is_recording() {
            return Err(BoardError::NotRecordable("an agreement"));
        }
        self.patience().check()?;
        let agreed = self.fabric.all_agree(own, self.patience().within());
        agreed.map_err(|error| self.patience().lose(error))
    }

    fn set_deadline(&self, within: Duration) {
        self.patience().set_within(within);
    }
}

/// An address as NCCL takes it.
fn pointer(at: DevicePtr) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(at.address() as usize)
}

/// # Errors
/// If ranks were given the same device, unless NCCL lets them.
fn refuse_shared(
    context: &Context,
    fabric: &dyn Fabric,
    nccl: &Nccl,
    within: Duration,
) -> Result<(), BoardError> {
    let own = context.uuid()?;
    let mut all = vec![0; own.len() * fabric.place().world];
    fabric.all_gather(&own, &mut all, within)?;
    let boards: Vec<&[u8]> = all.chunks(own.len()).collect();
    let ranks_of = |board: &[u8]| -> Vec<usize> {
        boards.iter().enumerate().filter(|(_, other)| **other == board).map(|(rank, _)| rank).collect()
    };
    let shared = boards.iter().map(|board| ranks_of(board)).find(|ranks| ranks.len() > 1);
    match shared {
        Some(sharing) if !nccl.shares_boards() => {
            let board = boards[sharing[0]].iter().map(|byte| format!("{byte:02x}")).collect();
            Err(DistError::SharedBoard { sharing, board }.into())
        }
        _ => Ok(()),
    }
}
