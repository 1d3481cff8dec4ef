//! Who follows a session: a display, a metrics server, a log file.

use std::io;

use wattle_meter::Used;
use wattle_meter::Watch;
use wattle_runlog::RunDir;
use wattle_runlog::event::{EvaluateEvent, StepEvent};
use wattle_train::Plan;

use crate::pace::Pace;

/// Follows a session. Every method does nothing unless it is implemented; none can end the run.
pub trait Listener {
    /// The run directory exists and is locked by this process.
    ///
    /// # Errors
    /// If what the listener writes there cannot be written. The session then does not start.
    fn opened(&mut self, _dir: &RunDir) -> io::Result<()> {
        Ok(())
    }

    /// Data preparation progressed.
    fn preparing(&mut self, _progress: wattle_data::Progress) {}

    /// Data preparation is over.
    fn prepared(&mut self) {}

    /// The meter is running.
    fn metering(&mut self, _meter: &MeterStart) {}

    /// Everything is built; the first step comes next.
    fn training(&mut self, _start: &TrainingStart) {}

    /// `step` updates have ended on the device.
    fn at_step(&mut self, _step: u64) {}

    /// A step ended; by then the run had used `used`.
    fn step(&mut self, _event: &StepEvent, _used: Used) {}

    /// Every step that ended so far has been passed to [`Listener::step`].
    fn told(&mut self, _pace: &Pace, _energy: Option<EnergyView>) {}

    /// `done` of `total` batches of an evaluation are done.
    fn evaluating(&mut self, _done: u64, _total: u64) {}

    /// An evaluation ended; by then the run had used `used`.
    fn evaluated(&mut self, _event: &EvaluateEvent, _used: Used) {}

    /// Training waits for cleaner electricity, or for something else of it than before.
    fn paused(&mut self, _why: &str) {}

    /// Training goes on after a pause.
    fn unpaused(&mut self) {}

    /// The run was asked to stop; it leaves a checkpoint first.
    fn stopping(&mut self) {}

    /// Training is over: nothing more will be reported.
    fn ended(&mut self) {}
}

/// A listener that does nothing.
impl Listener for () {}

/// A meter that has just been started.
#[derive(Debug)]
pub struct MeterStart {
    /// The run's id.
    pub run_id: String,
    /// What every sensor reads now, for another thread.
    pub watch: Watch,
}

/// Training that is about to begin.
#[derive(Clone, Copy, Debug)]
pub struct TrainingStart {
    /// All its steps.
    pub plan: Plan,
    /// Updates that earlier segments finished.
    pub step: u64,
}

/// What the meter says at some moment.
#[derive(Clone, Copy, Debug)]
pub struct EnergyView {
    /// Whether less than half of this process's energy was measured.
    pub is_estimated: bool,
    /// What the run has used, earlier processes included.
    pub used: Used,
}
