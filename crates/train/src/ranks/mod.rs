//! Several processes that train one model: what they tell one another.
//!
//! Each rank has all weights and makes the gradients of its own sequences. Of gradients, moments and the update it keeps
//! its part (ZeRO's first stage): [`Split`](wattle_model::Split).
//!
//! - `tree`: sums of gradients whose shape does not depend on the number of ranks
//! - `step`: one step's sums and weights
//! - `snapshot`: the moments of all, for a checkpoint

pub(crate) mod snapshot;
pub(crate) mod step;
pub(crate) mod tree;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytemuck::Pod;
use wattle_dist::{DistError, Fabric, Solo};
use wattle_model::{LanguageModel, Share};
use wattle_runlog::StopReason;

use crate::error::TrainError;
use crate::observer::Directive;

/// How often a rank's longest own step is waited for.
const STEPS_OF_OTHERS: u32 = 20;
/// A first step, a checkpoint, an evaluation or the end may take so many times as long as a step.
const PATIENCE: u32 = 10;

/// The ranks that train together, and how long each waits for the others.
#[derive(Clone)]
pub struct Ranks {
    fabric: Arc<dyn Fabric>,
    deadline: Duration,
    /// Whether all know that they end.
    all_know: Arc<AtomicBool>,
}

impl fmt::Debug for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ranks").field("place", self.fabric.place()).field("deadline", &self.deadline).finish()
    }
}

impl Default for Ranks {
    /// One rank alone.
    fn default() -> Self {
        Self::new(Arc::new(Solo::new()), Duration::from_secs(60))
    }
}

impl Ranks {
    /// Those that `fabric` connects. Within a step each waits for the others for `deadline`, or twenty times as long as its
    /// own steps take if that is longer; elsewhere ten times as long.
    pub fn new(fabric: Arc<dyn Fabric>, deadline: Duration) -> Self {
        Self { fabric, deadline, all_know: Arc::default() }
    }

    /// What they tell one another by.
    pub fn fabric(&self) -> &dyn Fabric {
        self.fabric.as_ref()
    }

    /// The same, to be kept.
    pub fn shared_fabric(&self) -> Arc<dyn Fabric> {
        Arc::clone(&self.fabric)
    }

    /// Notes that every rank has learnt that they end, in a call of all.
    pub fn all_know(&self) {
        self.all_know.store(true, Ordering::Relaxed);
    }

    /// Tells the others that this rank cannot go on, unless they know.
    pub fn part(&self, reason: &str) {
        if !self.all_know.swap(true, Ordering::Relaxed) {
            self.fabric.part(reason);
        }
    }

    /// Which of how many this one is.
    pub fn share(&self) -> Share {
        let place = self.fabric.place();
        Share { rank: place.rank, world: place.world }
    }

    /// Whether there is more than one.
    pub fn are_several(&self) -> bool {
        self.share().world > 1
    }

    /// Whether this one writes what all share.
    pub fn leads(&self) -> bool {
        self.fabric.place().leads()
    }

    /// How long to wait for others within a step that took this rank `own`.
    pub(crate) fn within_step(&self, own: Duration) -> Duration {
        self.deadline.max(own.saturating_mul(STEPS_OF_OTHERS))
    }

    /// How long to wait for others between steps.
    pub fn between_steps(&self) -> Duration {
        self.deadline.saturating_mul(PATIENCE)
    }

    /// What all do before the next step: they end if one must, for the reason of the lowest such rank; else they pause if
    /// one does.
    pub(crate) fn agree(&self, own: Directive) -> Result<Directive, DistError> {
        if !self.are_several() {
            return Ok(own);
        }
        let all = self.all_gather(&[word(own)], self.between_steps())?;
        let directives = || all.iter().map(|&word| directive(word));
        let stop = directives().find(|directive| matches!(directive, Directive::Stop(_)));
        let pause = || directives().find(|directive| *directive == Directive::Pause);
        Ok(stop.or_else(pause).unwrap_or(Directive::Continue))
    }

    /// Goes on with what every rank has for itself. Where one has none, none goes on: it gets its own error, the others
    /// [`TrainError::OtherRank`]. So ranks part before the next call of all, which would wait for one that never makes it.
    ///
    /// # Errors
    /// If one has none, or does not answer in time.
    pub(crate) fn all_or_none<T>(&self, own: Result<T, TrainError>) -> Result<T, TrainError> {
        if !self.are_several() {
            return own;
        }
        let can_all = self.fabric.all_agree(own.is_ok(), self.between_steps())?;
        match own {
            Ok(own) if can_all => Ok(own),
            Ok(_) => Err(TrainError::OtherRank),
            Err(error) => Err(error),
        }
    }

    /// The bytes of the leading rank, on all; `own` are the leading one's.
    ///
    /// # Errors
    /// If a rank does not answer in time.
    pub fn tell(&self, mut own: Vec<u8>, within: Duration) -> Result<Vec<u8>, DistError> {
        let mut len = (own.len() as u64).to_le_bytes();
        self.fabric.broadcast(&mut len, 0, within)?;
        own.resize(u64::from_le_bytes(len) as usize, 0);
        self.fabric.broadcast(&mut own, 0, within)?;
        Ok(own)
    }

    /// The numbers of all ranks, in their order; each has as many.
    pub(crate) fn all_gather<T: Pod>(&self, own: &[T], within: Duration) -> Result<Vec<T>, DistError> {
        let mut all = vec![T::zeroed(); own.len() * self.share().world];
        self.fabric.all_gather(bytemuck::cast_slice(own), bytemuck::cast_slice_mut(&mut all), within)?;
        Ok(all)
    }
}

/// CRC-32C of all weights, frozen ones among them, by which ranks know that they begin alike.
///
/// # Errors
/// If a tensor operation fails.
pub fn crc_of_weights(model: &dyn LanguageModel) -> Result<u32, TrainError> {
    let frozen = model.adapter().map_or("", |adapter| adapter.base.crc32c.as_str());
    let mut crc = crc32c::crc32c(frozen.as_bytes());
    for parameter in model.parameters() {
        let values = parameter.var.flatten_all()?.to_vec1::<f32>()?;
        crc = crc32c::crc32c_append(crc, bytemuck::cast_slice(&values));
    }
    Ok(crc)
}

const REASONS: [StopReason; 5] =
    [StopReason::Done, StopReason::EarlyStop, StopReason::Budget, StopReason::Signal, StopReason::Error];

fn word(directive: Directive) -> u8 {
    match directive {
        Directive::Continue => 0,
        Directive::Pause => 1,
        Directive::Stop(reason) => {
            2 + REASONS.iter().position(|other| *other == reason).expect("every reason is listed") as u8
        }
    }
}

fn directive(word: u8) -> Directive {
    match word {
        0 => Directive::Continue,
        1 => Directive::Pause,
        stop => Directive::Stop(*REASONS.get(usize::from(stop - 2)).unwrap_or(&StopReason::Error)),
    }
}
