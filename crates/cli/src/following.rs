//! What the command line does while a session goes on: bars or lines, the log file, figures for Prometheus.

use std::io;
use std::net::SocketAddr;

use wattle_data::Progress;
use wattle_meter::Used;
use wattle_runlog::RunDir;
use wattle_runlog::event::{EvaluateEvent, StepEvent};
use wattle_session::listener::{EnergyView, MeterStart, TrainingStart};
use wattle_session::pace::Pace;
use wattle_session::{Config, Listener};

use crate::allocator::give_back;
use crate::display::Display;
use crate::logging::LogFile;
use crate::metrics::run::SharedProgress;
use crate::metrics::{MetricsServer, registry};

/// Follows one session.
pub struct Following<'a> {
    display: Display,
    log_file: Option<&'a LogFile>,
    /// `energy.metrics_addr`
    metrics_addr: Option<SocketAddr>,
    progress: SharedProgress,
    server: Option<MetricsServer>,
}

impl<'a> Following<'a> {
    /// Of a session of `config`, whose log goes to `log_file` too.
    pub fn new(display: Display, log_file: &'a LogFile, config: &Config) -> Self {
        Self {
            display,
            log_file: Some(log_file),
            metrics_addr: config.energy.metrics_addr,
            progress: SharedProgress::new(&config.cost.currency),
            server: None,
        }
    }

    /// Of work that leaves no run.
    pub fn without_run(display: Display) -> Self {
        let progress = SharedProgress::new("");
        Self { display, log_file: None, metrics_addr: None, progress, server: None }
    }
}

impl Listener for Following<'_> {
    fn opened(&mut self, dir: &RunDir) -> io::Result<()> {
        self.log_file.map_or(Ok(()), |log_file| log_file.open(&dir.train_log()))
    }

    fn preparing(&mut self, progress: Progress) {
        self.display.prepare(progress);
    }

    fn prepared(&mut self) {
        self.display.end_preparation();
    }

    fn metering(&mut self, meter: &MeterStart) {
        let Some(addr) = self.metrics_addr else { return };
        let mut registry = registry(&meter.run_id, meter.watch.clone());
        registry.register_collector(Box::new(self.progress.clone()));
        self.server = MetricsServer::start("energy.metrics_addr", addr, registry);
    }

    fn training(&mut self, start: &TrainingStart) {
        self.display.start_training(start.plan, start.step);
        self.progress.plan(start.plan.total_steps);
        // What the model was built from is needed no more.
        give_back();
    }

    fn at_step(&mut self, step: u64) {
        self.display.at_step(step);
    }

    fn step(&mut self, event: &StepEvent, used: Used) {
        self.display.step(event);
        self.progress.step(event, used);
    }

    fn told(&mut self, pace: &Pace, energy: Option<EnergyView>) {
        self.display.told(pace, energy);
    }

    fn evaluating(&mut self, done: u64, total: u64) {
        self.display.evaluate(done, total);
    }

    fn evaluated(&mut self, event: &EvaluateEvent, used: Used) {
        self.progress.evaluate(event, used);
    }

    fn paused(&mut self, why: &str) {
        self.display.pause(why);
        self.progress.pause(true);
    }

    fn unpaused(&mut self) {
        self.display.unpause();
        self.progress.pause(false);
    }

    fn stopping(&mut self) {
        tracing::info!("a signal asks for an end: leaving a checkpoint (a second signal ends at once)");
    }

    fn ended(&mut self) {
        self.display.finish();
    }
}
