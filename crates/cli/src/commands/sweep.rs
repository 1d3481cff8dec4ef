//! `wattle sweep`: several ways of training, each with several seeds, and what they cost.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail};
use indicatif::MultiProgress;
use wattle_report::compare;
use wattle_report::words::quantity::{count, si};
use wattle_report::words::table::{self, Table};
use wattle_runlog::run_dir::write_atomic;
use wattle_session::Config;
use wattle_session::Forecast;

use crate::args::SweepArgs;
use crate::commands::compare::side_by_side;
use crate::display::Display;
use crate::exit::{BadUsage, Exit};
use crate::following::Following;
use crate::signals::StopSignal;
use crate::sweep::{
    Ending, ExecuteOptions, PlannedRun, RunState, SweepFile, SweepFolder, SweepPlan, execute,
};
use crate::terminal::{is_drawn_on, print, print_line};

/// Makes every run of a sweep that is not made yet, and compares them.
pub fn run(args: &SweepArgs, bars: &MultiProgress, verbose: u8, quiet: bool) -> anyhow::Result<Exit> {
    crate::ranks::refuse_several("wattle sweep")?;
    let text = SweepFile::text(&args.sweep).map_err(BadUsage::new)?;
    let origin = args.sweep.display().to_string();
    let file = SweepFile::parse(&origin, &text).map_err(|faults| BadUsage { faults })?;
    let plan = SweepPlan::of(&origin, &file).map_err(|faults| BadUsage { faults })?;
    let mut following = Following::without_run(Display::new(bars.clone(), is_drawn_on() && !quiet));
    if args.dry_run {
        return dry_run(&plan, &mut following);
    }
    let signal = StopSignal::note().context("cannot listen for signals")?;
    let folder = SweepFolder::open(&args.out)?;
    folder.write(&text, &plan.runs)?;
    // Data are prepared here, once: their energy is no strategy's.
    forecasts(&plan, &mut following)?;
    let options = ExecuteOptions {
        global: global(verbose, quiet),
        train: vec!["--device".into(), args.device.clone().into()],
    };
    match execute(&folder, &plan.runs, &options, &signal)? {
        Ending::Stopped(exit) => {
            let finished = finished(&folder, &plan.runs)?.len();
            tracing::info!("{finished} of {} runs are done; the same command goes on", plan.runs.len());
            Ok(exit)
        }
        Ending::Over { failed } => {
            compare(&folder, &plan)?;
            if !failed.is_empty() {
                bail!("{} failed; the same command tries again", failed.join(", "));
            }
            Ok(Exit::Done)
        }
    }
}

fn global(verbose: u8, quiet: bool) -> Vec<OsString> {
    let verbose = std::iter::repeat_n(OsString::from("-v"), usize::from(verbose));
    verbose.chain(quiet.then(|| OsString::from("-q"))).collect()
}

/// What each strategy would be: the same that a run finds out before it begins to train.
fn forecasts(plan: &SweepPlan, following: &mut Following<'_>) -> anyhow::Result<Vec<Forecast>> {
    let of = |config: &Config| {
        Forecast::on_cpu(config, following).with_context(|| format!("strategy {:?}", config.run.name))
    };
    plan.strategies.iter().map(of).collect()
}

fn dry_run(plan: &SweepPlan, following: &mut Following<'_>) -> anyhow::Result<Exit> {
    let forecasts = forecasts(plan, following)?;
    let mut table = Table::new(["strategy", "parameters", "steps", "tokens", "compute"], &[0]);
    for (config, forecast) in plan.strategies.iter().zip(&forecasts) {
        let flops = forecast.flops.nanogpt;
        let tokens = forecast.plan.total_tokens();
        table.row([
            config.run.name.clone(),
            count(forecast.n_parameters),
            count(forecast.plan.total_steps),
            count(tokens),
            si(flops as f64 * tokens as f64, "FLOP"),
        ]);
    }
    let names: Vec<_> = plan.runs.iter().map(|run| run.name.as_str()).collect();
    let mut lines = vec![format!("{} strategies", plan.strategies.len())];
    lines.extend(table.lines());
    lines.extend([String::new(), format!("{} runs, in this order", plan.runs.len())]);
    lines.extend(table::hang("  ", &names.join(", ")));
    print_line(&lines.join("\n"))?;
    Ok(Exit::Done)
}

fn finished(folder: &SweepFolder, runs: &[PlannedRun]) -> anyhow::Result<Vec<PathBuf>> {
    let mut finished = Vec::new();
    for run in runs {
        if folder.state(run)? == RunState::Finished {
            finished.push(folder.run(run));
        }
    }
    Ok(finished)
}

/// Puts the runs that are done side by side, in the order of the strategies.
fn compare(folder: &SweepFolder, plan: &SweepPlan) -> anyhow::Result<()> {
    let place = |run: &PlannedRun| plan.strategies.iter().position(|way| way.run.name == run.config.run.name);
    let mut runs = plan.runs.clone();
    runs.sort_by_key(place);
    let finished = finished(folder, &runs)?;
    if finished.is_empty() {
        return Ok(());
    }
    let (comparison, reports) = side_by_side(&finished, plan.target_loss)?;
    let page = folder.path().join("compare.html");
    write_atomic(&page, compare::page(&comparison, &reports).as_bytes())?;
    write_atomic(&folder.path().join("compare.json"), comparison.to_json().as_bytes())?;
    print(&compare::text(&comparison))?;
    tracing::info!("{}", page.display());
    Ok(())
}
