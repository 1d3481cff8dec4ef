//! `wattle`: trains transformer language models and knows what every step cost.

mod args;
mod commands;
#[cfg(feature = "train")]
mod config;
#[cfg(feature = "train")]
mod display;
mod exit;
#[cfg(feature = "train")]
mod humanize;
mod logging;
#[cfg(feature = "train")]
mod metering;
#[cfg(feature = "train")]
mod model_card;
#[cfg(feature = "train")]
mod observer;
#[cfg(feature = "train")]
mod plan;
#[cfg(feature = "train")]
mod run;
#[cfg(feature = "train")]
mod signals;

use std::process::ExitCode;

use clap::Parser;
use indicatif::MultiProgress;

use crate::args::{Args, Command};

/// candle allocates and frees the same large blocks at every step; the system's allocator gives each back to
/// the kernel and takes page after page anew, which costs some 40 % of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let bars = MultiProgress::new();
    let log_file = logging::init(args.verbose, args.quiet, &bars);
    let outcome = match &args.command {
        #[cfg(feature = "train")]
        Command::Train(train) => commands::train::run(train, &bars, &log_file, args.quiet),
        Command::Devices(devices) => commands::devices::run(devices),
    };
    drop(log_file);
    exit::status(outcome)
}
