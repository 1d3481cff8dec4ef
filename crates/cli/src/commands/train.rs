//! `wattle train`

use anyhow::Context;
use indicatif::MultiProgress;
use wattle_data::Verify;
use wattle_report::words::describe::{describe_energy, energy_warnings, estimate_warning};
use wattle_report::words::quantity::{count, duration};
use wattle_runlog::StopReason;
use wattle_session::data::prepare;
use wattle_session::{
    Config, Forecast, Outcome, Resume, Session, SessionError, Together, Trained, warmup_warning,
};
use wattle_train::device::DeviceChoice;
use wattle_train::{Ranks, TrainError};

use crate::allocator::give_back;
use crate::args::TrainArgs;
use crate::display::Display;
use crate::exit::{BadUsage, Exit};
use crate::following::Following;
use crate::logging::LogFile;
use crate::plan;
use crate::ranks::{find, local_world, part};
use crate::run::{Target, target};
use crate::signals::StopSignal;
use crate::terminal::{is_drawn_on, print};
use crate::threads::set_threads_of_rank;

/// Trains.
pub fn run(args: &TrainArgs, bars: &MultiProgress, log_file: &LogFile, quiet: bool) -> anyhow::Result<Exit> {
    let target = target(args);
    let train = target.as_ref().map(|target| target.config.train.clone()).unwrap_or_default();
    set_threads_of_rank(train.threads, local_world());
    let (ranks, device) = find(train.rank_deadline_s, args.device)?;
    let target = target.map_err(|BadUsage { faults }| SessionError::Config(faults));
    let target = Together::new(&ranks).meet(target)?;
    let display = Display::new(bars.clone(), is_drawn_on() && !quiet);
    if args.dry_run {
        if !ranks.leads() {
            return Ok(Exit::Done);
        }
        return dry_run(args, device, &target.config, display);
    }
    let signal = StopSignal::listen().context("cannot listen for signals")?;
    let mut following = Following::new(display, log_file, &target.config);
    let resume = match &target.found {
        Some(found) => Resume::Accepted(found.stored.clone().map(Box::new)),
        None => Resume::Never,
    };
    let outcome = Session::new(target.config.clone(), &target.path)
        .device(device)
        .verify(verify(args))
        .resume(resume)
        .ranks(ranks.clone())
        .listener(&mut following)
        .stop_when(|| signal.is_asked())
        .train();
    if let Err(SessionError::Train(error @ TrainError::Parted { .. })) = &outcome {
        part(&ranks, error, signal.is_asked());
    }
    let outcome = outcome.map_err(|error| left_to_the_leader(&ranks, error))?;
    Ok(match outcome {
        Outcome::WasFinished => leave_alone(&target),
        Outcome::Trained(trained) => summarize(&trained),
        Outcome::Followed(StopReason::Signal) => Exit::Requeue,
        Outcome::Followed(_) => Exit::Done,
    })
}

/// Whatever ends a rank that does not lead the leading one hears, and says.
fn left_to_the_leader(ranks: &Ranks, error: SessionError) -> SessionError {
    match error {
        SessionError::Config(_) | SessionError::Train(TrainError::Ranks(_)) => error,
        _ if ranks.leads() => error,
        SessionError::ToldByLeader { .. } => error,
        _ => SessionError::ToldByLeader { is_usage: false },
    }
}

fn verify(args: &TrainArgs) -> Verify {
    if args.no_verify { Verify::Never } else { Verify::FirstUse }
}

/// Prints what the run would be.
fn dry_run(
    args: &TrainArgs,
    device: DeviceChoice,
    config: &Config,
    display: Display,
) -> anyhow::Result<Exit> {
    let mut following = Following::without_run(display);
    let dataset = prepare(config, verify(args), &mut following)?;
    let device = device.open()?;
    let mut forecast = Forecast::of(config, &dataset, &device)?;
    // What does not fit is not built either: the plan says so.
    if forecast.shortage.is_none() {
        forecast.rehearse(config, &dataset, &device, give_back)?;
    }
    print(&plan::describe(config, &dataset, &forecast))?;
    if let Some(warning) = warmup_warning(config, forecast.plan.total_steps) {
        tracing::warn!("{warning}");
    }
    Ok(Exit::Done)
}

/// Says that there is nothing to do, and how to start another run.
fn leave_alone(target: &Target) -> Exit {
    tracing::info!("{} is finished: nothing to do", target.path.display());
    if target.is_found_by_name() {
        tracing::info!("to train anew, leave out --resume");
    }
    Exit::Done
}

/// The run's last lines.
fn summarize(trained: &Trained) -> Exit {
    let how = match trained.reason {
        StopReason::Done => "done",
        StopReason::EarlyStop => "stopped early, as configured",
        StopReason::Budget => "the budget is used up",
        StopReason::Signal => "stopped by a signal; go on with --resume",
        StopReason::Error => "failed",
    };
    let mut parts = vec![format!("{how} at step {}", count(trained.step)), duration(trained.time)];
    if let Some(record) = &trained.record {
        parts.extend(describe_energy(record));
        energy_warnings(record)
            .iter()
            .chain(estimate_warning(record).iter())
            .for_each(|warning| tracing::warn!("{warning}"));
    }
    let path = trained.path.display();
    tracing::info!("{}", parts.join(" · "));
    tracing::info!("{path}");
    match &trained.report {
        Some(Ok(page)) => {
            tracing::info!("what it learnt and what it cost: {}, or wattle report {path}", page.display());
        }
        Some(Err(error)) => tracing::warn!("the report was not written: {error:#}"),
        None => {}
    }
    if trained.reason == StopReason::Signal { Exit::Requeue } else { Exit::Done }
}
