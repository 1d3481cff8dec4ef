//! Collectives of stand-in boards, carried by a [`Fabric`].
//!
//! On a device they run beside the board's work, sooner or later. Here they run either as soon as they are issued or as
//! late as they may, so that results are wrong if gradients go out before they are complete, or are read before they are
//! summed. What is issued without having forked since the board's last work is refused.

use std::sync::Arc;
use std::time::Duration;

use wattle_dist::{DistError, Fabric};
use wattle_ops::board::{BoardError, Collectives, DevicePtr, Owned, Ptr};

use crate::arena::{self, Arena};
use crate::{ShimBoard, Work};

/// What carries collectives, and those that wait for the next join.
pub(crate) struct Ranks {
    fabric: Arc<dyn Fabric>,
    is_late: bool,
    deadline: Duration,
    has_forked: bool,
    waiting: Vec<Collective>,
}

/// One collective.
#[derive(Clone, Debug)]
pub(crate) enum Collective {
    Fork,
    Join,
    /// Of `n` numbers a rank.
    ReduceScatter(DevicePtr, usize),
    /// Of so many bytes a rank.
    AllGather(DevicePtr, usize),
    Reduce(Vec<Owned>),
    Broadcast(Vec<Owned>),
}

impl Ranks {
    pub(crate) fn new(fabric: Arc<dyn Fabric>, is_late: bool) -> Self {
        let deadline = Duration::from_secs(60);
        Self { fabric, is_late, deadline, has_forked: false, waiting: Vec::new() }
    }

    pub(crate) fn set_deadline(&mut self, within: Duration) {
        self.deadline = within;
    }

    pub(crate) fn fabric(&self) -> (Arc<dyn Fabric>, Duration) {
        (Arc::clone(&self.fabric), self.deadline)
    }

    /// To be told of work of the board's own.
    pub(crate) fn note_work(&mut self) {
        self.has_forked = false;
    }

    pub(crate) fn run(&mut self, arenas: &mut [Arena], collective: Collective) -> Result<(), BoardError> {
        match collective {
            Collective::Fork => self.has_forked = true,
            Collective::Join => {
                for waiting in std::mem::take(&mut self.waiting) {
                    self.carry(arenas, &waiting)?;
                }
            }
            _ if !self.has_forked => {
                return Err(BoardError::Call {
                    call: "collective",
                    why: format!("{collective:?} does not wait for the board's work before it"),
                });
            }
            _ if self.is_late => self.waiting.push(collective),
            _ => self.carry(arenas, &collective)?,
        }
        Ok(())
    }

    fn carry(&self, arenas: &mut [Arena], collective: &Collective) -> Result<(), DistError> {
        let place = self.fabric.place();
        let own = |len: usize| place.rank * len..(place.rank + 1) * len;
        match collective {
            &Collective::ReduceScatter(x, n) => {
                let len = n * size_of::<f32>();
                let bytes = arena::slice_mut(arenas, x, place.world * len);
                let mut all = vec![0; bytes.len()];
                self.fabric.exchange(bytes, &mut all, self.deadline)?;
                add_pieces(&all, &mut bytes[own(len)]);
            }
            &Collective::AllGather(x, len) => {
                let bytes = arena::slice_mut(arenas, x, place.world * len);
                let part = bytes[own(len)].to_vec();
                self.fabric.all_gather(&part, bytes, self.deadline)?;
            }
            Collective::Reduce(parts) => {
                for &Owned { at, n_bytes, owner } in parts {
                    let bytes = arena::slice_mut(arenas, at, n_bytes);
                    let mut all = vec![0; n_bytes * place.world];
                    self.fabric.all_gather(bytes, &mut all, self.deadline)?;
                    match owner == place.rank {
                        true => add_pieces(&all, bytes),
                        // Not a number, as whoever reads it is to see.
                        false => bytes.fill(0xff),
                    }
                }
            }
            Collective::Broadcast(parts) => {
                for &Owned { at, n_bytes, owner } in parts {
                    let bytes = arena::slice_mut(arenas, at, n_bytes);
                    self.fabric.broadcast(bytes, owner, self.deadline)?;
                }
            }
            Collective::Fork | Collective::Join => {}
        }
        Ok(())
    }
}

/// Fills `sum` with the sum of the pieces of `all`, which are as long, from the first on.
fn add_pieces(all: &[u8], sum: &mut [u8]) {
    let len = sum.len();
    for (i, sum) in sum.chunks_exact_mut(4).enumerate() {
        let of_piece = |piece: &[u8]| {
            let at = i * 4;
            f32::from_ne_bytes([piece[at], piece[at + 1], piece[at + 2], piece[at + 3]])
        };
        let total = all.chunks_exact(len).map(of_piece).reduce(|sum, x| sum + x).unwrap_or(0.0);
        sum.copy_from_slice(&total.to_ne_bytes());
    }
}

impl Collectives for ShimBoard {
    fn rank(&self) -> usize {
        self.place().rank
    }

    fn world(&self) -> usize {
        self.place().world
    }

    fn fork(&self) -> Result<(), BoardError> {
        self.submit(Work::Collective(Collective::Fork))
    }

    fn join(&self) -> Result<(), BoardError> {
        self.submit(Work::Collective(Collective::Join))
    }

    fn reduce_scatter(&self, x: Ptr<f32>, n: usize) -> Result<(), BoardError> {
        self.submit(Work::Collective(Collective::ReduceScatter(x.bytes(), n)))
    }

    fn all_gather(&self, x: DevicePtr, n_bytes: usize) -> Result<(), BoardError> {
        self.submit(Work::Collective(Collective::AllGather(x, n_bytes)))
    }

    fn reduce(&self, parts: &[Owned]) -> Result<(), BoardError> {
        self.submit(Work::Collective(Collective::Reduce(parts.to_vec())))
    }

    fn broadcast(&self, parts: &[Owned]) -> Result<(), BoardError> {
        self.submit(Work::Collective(Collective::Broadcast(parts.to_vec())))
    }

    fn all_agree(&self, own: bool) -> Result<bool, BoardError> {
        let (fabric, deadline) = self.fabric();
        Ok(fabric.all_agree(own, deadline)?)
    }

    fn set_deadline(&self, within: Duration) {
        if let Some(ranks) = &mut self.lock().ranks {
            ranks.set_deadline(within);
        }
    }
}
