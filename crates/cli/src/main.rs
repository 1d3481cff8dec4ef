//! `wattle`: trains transformer language models and knows what every step cost.

mod allocator;
mod args;
mod child;
mod commands;
mod completion;
#[cfg(feature = "train")]
mod config;
#[cfg(feature = "train")]
mod display;
mod exit;
#[cfg(feature = "train")]
mod following;
mod hints;
mod logging;
mod metrics;
mod output_file;
#[cfg(feature = "train")]
mod plan;
#[cfg(feature = "train")]
mod ranks;
#[cfg(feature = "train")]
mod run;
#[cfg(feature = "train")]
mod signals;
mod status_line;
#[cfg(feature = "train")]
mod sweep;
mod terminal;
#[cfg(feature = "train")]
mod threads;
#[cfg(feature = "train")]
mod tune;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;
use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::args::{Args, Command};
use crate::hints::with_hint;

fn main() -> ExitCode {
    CompleteEnv::with_factory(Args::command).complete();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let args = Args::try_parse_from(&arguments).unwrap_or_else(|error| {
        #[cfg(feature = "train")]
        if error.use_stderr() {
            ranks::leave_faults_to_the_first(&arguments);
        }
        with_hint(error, &arguments).exit()
    });
    #[cfg(feature = "train")]
    if matches!(args.command, Command::Train(_)) {
        // SAFETY: no thread has been started yet.
        unsafe { ranks::prepare() };
    }
    let silent = is_silent(&args.command);
    let quiet = args.quiet || silent;
    let bars = bars(quiet);
    let log_file = logging::init(args.verbose, quiet, silent, &bars);
    let outcome = match &args.command {
        #[cfg(feature = "train")]
        Command::Train(train) => commands::train::run(train, &bars, &log_file, quiet),
        #[cfg(feature = "train")]
        Command::Init(init) => commands::init::run(init),
        #[cfg(feature = "train")]
        Command::Prepare(prepare) => commands::prepare::run(prepare, &bars, args.quiet),
        #[cfg(feature = "train")]
        Command::Generate(generate) if generate.chat => commands::chat::run(generate),
        #[cfg(feature = "train")]
        Command::Generate(generate) => commands::generate::run(generate),
        #[cfg(feature = "train")]
        Command::Show(show) => commands::show::run(show),
        #[cfg(feature = "train")]
        Command::Evaluate(evaluate) => commands::evaluate::run(evaluate, &bars),
        #[cfg(feature = "train")]
        Command::Verify(verify) => commands::verify::run(verify),
        #[cfg(feature = "train")]
        Command::Export(export) => commands::export::run(export),
        Command::Meter(meter) => commands::meter::run(meter, args.quiet),
        Command::Runs(runs) => commands::runs::run(runs),
        Command::Report(report) => commands::report::run(report),
        Command::Compare(compare) => commands::compare::run(compare),
        #[cfg(feature = "train")]
        Command::Sweep(sweep) => commands::sweep::run(sweep, &bars, args.verbose, args.quiet),
        #[cfg(feature = "train")]
        Command::Tune(tune) => commands::tune::run(tune, &bars, args.quiet),
        #[cfg(feature = "train")]
        Command::TuneTrial(trial) => tune::trials::run_trial(trial),
        #[cfg(feature = "train")]
        Command::TuneRestore(restore) => tune::board::run_restore(restore),
        Command::Estimate(estimate) => commands::estimate::run(estimate),
        Command::Calibrate(calibrate) => commands::calibrate::run(calibrate),
        Command::Devices(devices) => commands::devices::run(devices),
        Command::Man(man) => commands::man::run(man),
    };
    drop(log_file);
    exit::status(outcome)
}

/// Whether another rank of the same training says what there is to say.
fn is_silent(command: &Command) -> bool {
    #[cfg(feature = "train")]
    let is_silent = matches!(command, Command::Train(_)) && ranks::is_follower();
    #[cfg(not(feature = "train"))]
    let is_silent = {
        let _ = command;
        false
    };
    is_silent
}

/// Where bars are drawn: nowhere, if they are not wanted or the terminal cannot show them.
fn bars(quiet: bool) -> MultiProgress {
    match terminal::is_drawn_on() && !quiet {
        true => MultiProgress::new(),
        false => MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
    }
}
