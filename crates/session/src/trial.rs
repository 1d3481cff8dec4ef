//! Some seconds of a configuration's training, metered and thrown away.

use std::path::Path;
use std::time::{Duration, Instant};

use wattle_data::Dataset;
use wattle_meter::{EDGE_TIMEOUT, Sampler, SamplerOptions, discover};
use wattle_ops::board::select::Measured;
use wattle_runlog::run_dir::write_atomic;
use wattle_train::config::KernelSelection;
use wattle_train::device::ChosenDevice;
use wattle_train::{Kernels, Trainer, TrainerOptions};
use wattle_tune::Window;

use crate::config::Config;
use crate::error::SessionError;
use crate::forecast::on_trial;

/// Training before a window, for what is made at first use, and for clocks to rise.
const WARM_UP: Duration = Duration::from_millis(300);
/// The first steps certify gradients and are recorded; they belong to no window.
const WARM_UP_STEPS: u64 = 2;
/// A window is of so many steps at least: at its end the queue runs empty.
const MIN_STEPS: u64 = 3;

/// Trains as `config` says, window by window: as long as `next` gives a length, that much is trained and `told` hears what
/// it took. No run directory is made and nothing is kept.
///
/// With `kernels`, choices of kernels are taken from that file, if it is of this board, and written there: several trials
/// measure each kernel once.
///
/// # Errors
/// If training cannot begin, a loss is not finite, or the meter does not answer.
pub fn trial(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
    kernels: Option<&Path>,
    next: &mut dyn FnMut() -> Option<Duration>,
    told: &mut dyn FnMut(Window) -> Result<(), SessionError>,
) -> Result<(), SessionError> {
    let discovery = discover(&config.energy, std::slice::from_ref(&device.compute));
    let options = SamplerOptions { interval: config.energy.interval(), ..SamplerOptions::default() };
    let sampler = Sampler::start(discovery.sensors, options)?;
    let known = kernels.and_then(|path| Kernels::read(path).ok());
    let is_measured = config.train.select == KernelSelection::Measure;
    let differ = |options: &mut TrainerOptions| {
        options.kernels = known;
        options.select = is_measured;
    };
    on_trial(config, dataset, device, differ, |trainer| {
        if let (Some(path), Some(chosen)) = (kernels, trainer.kernels()) {
            write_atomic(path, chosen.to_json().as_bytes())?;
        }
        make_steps(trainer, Duration::ZERO, WARM_UP_STEPS)?;
        while let Some(length) = next() {
            told(window(trainer, &sampler, length)?)?;
        }
        Ok(())
    })
}

/// One window.
fn window(trainer: &mut Trainer<'_>, sampler: &Sampler, length: Duration) -> Result<Window, SessionError> {
    // Whatever was changed in between takes a moment to show.
    make_steps(trainer, WARM_UP.min(length / 2), 1)?;
    let start = sampler.edge(EDGE_TIMEOUT);
    let tokens = make_steps(trainer, length, MIN_STEPS)?;
    let end = sampler.edge(EDGE_TIMEOUT);
    let energy = sampler.window(&start, &end)?;
    sampler.forget_before(&end);
    Ok(Window {
        tokens,
        seconds: energy.duration(),
        energy: energy.energy,
        half_width: energy.uncertainty,
        measured_fraction: energy.measured_fraction,
    })
}

fn make_steps(trainer: &mut Trainer<'_>, length: Duration, n_steps: u64) -> Result<u64, SessionError> {
    let began = Instant::now();
    Ok(trainer.try_steps(|made| made >= n_steps && began.elapsed() >= length)?)
}

/// Chooses the kernels of `config` on the device's board, by measuring all of them anew; `None` on a CPU, where there is
/// no choice.
///
/// # Errors
/// If training cannot begin.
pub fn measure_kernels(
    config: &Config,
    dataset: &Dataset,
    device: &ChosenDevice,
) -> Result<Option<(Kernels, Vec<Measured>)>, SessionError> {
    let differ = |options: &mut TrainerOptions| options.select = true;
    on_trial(config, dataset, device, differ, |trainer| {
        Ok(trainer.kernels().map(|kernels| (kernels, trainer.measured().to_vec())))
    })
}
