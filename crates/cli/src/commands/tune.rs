//! `wattle tune`: which way of training costs least on this machine.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use wattle_data::Verify;
use wattle_report::compare::{Measure, Reached};
use wattle_report::{Report, Run};
use wattle_session::Config;
use wattle_session::data::{plan_of, prepare};
use wattle_session::need;
use wattle_session::trial::measure_kernels;
use wattle_train::device::DeviceChoice;
use wattle_tune::{Failure, Goal, Rules, Search, Way};

use crate::args::{Sought, TuneArgs};
use crate::config::resolve;
use crate::display::Display;
use crate::exit::{BadUsage, Exit};
use crate::following::Following;
use crate::output_file::OutputFile;
use crate::signals::StopSignal;
use crate::terminal::{is_drawn_on, print};
use crate::tune::board::{self, Board};
use crate::tune::trials::{Trials, free_path};
use crate::tune::{kernels, space, text};

/// Looks for the cheapest way.
pub fn run(args: &TuneArgs, bars: &MultiProgress, quiet: bool) -> anyhow::Result<Exit> {
    crate::ranks::refuse_several("wattle tune")?;
    let config = resolve(None, &args.source.sources()).map_err(|faults| BadUsage { faults })?;
    let faults = faults(args);
    if !faults.is_empty() {
        return Err(BadUsage { faults }.into());
    }
    let is_drawn = is_drawn_on() && !quiet;
    let mut following = Following::without_run(Display::new(bars.clone(), is_drawn));
    // Data are prepared here, once: their energy is no way's.
    let dataset = prepare(&config, Verify::FirstUse, &mut following)?;
    let plan = plan_of(&config, &dataset)?;
    if args.kernels {
        return show_kernels(&config, &dataset, args.device);
    }
    // That it can be written is known before the search begins.
    let out = OutputFile::open(free_path(&args.out)?, "--out")?;
    let device = args.device.open()?;
    let tokens = match (args.target_loss, &args.like) {
        (Some(loss), Some(run)) => tokens_to(loss, run)?,
        _ => plan.total_tokens(),
    };
    let goal = match (args.sought, args.joules) {
        (Sought::Energy, _) => Goal::Energy,
        (Sought::Time, None) => Goal::Time,
        (Sought::Time, Some(joules)) => Goal::TimeWithin { joules_per_token: joules / tokens as f64 },
    };
    let signal = StopSignal::listen().context("cannot listen for signals")?;
    let changes_board = args.power.is_some() || args.clock.is_some();
    let limits = changes_board.then(|| board::find(&config.energy, &device.compute)).transpose()?;
    let axes = space::axes(args, &config, device.device.is_cpu(), limits.as_ref())?;
    if axes.is_empty() {
        bail!(
            "there is nothing to choose between: train.batch_size = 1 on one processor; --precision tries types"
        );
    }
    let start = Way { power_limit_mw: limits.as_ref().map(|limits| limits.found_mw()), ..Way::default() };
    let board = limits.map(|limits| Board::watch(limits, args.clock.is_some())).transpose()?;
    let name = device.compute.to_string();
    let vocab_size = config.model.vocab_size_for(dataset.vocab_size()).map_err(BadUsage::new)?;
    let need = device.device.is_cpu().then(|| need::training(&config, vocab_size));
    drop(device);

    let bar = progress(bars, is_drawn);
    let mut n_windows = 0;
    let told = |way: &Way| {
        n_windows += 1;
        bar.set_message(format!("window {n_windows}: {way}"));
    };
    let window = Duration::from_secs_f64(args.window);
    let mut trials = Trials::new(&config, name, window, &signal, board, need.as_ref(), told)?;
    let rules = Rules { max_rounds: args.rounds, min_rounds: args.rounds.min(3), ..Rules::default() };
    let search = Search { goal, axes, rules };
    let mut told_race = |axis: &wattle_tune::Axis, race: &wattle_tune::Race| {
        text::race(axis, race, goal).iter().for_each(|line| tracing::info!("{line}"));
    };
    let tuned = search.run(&start, &mut |way| trials.measure(way), &mut told_race);
    let found = tuned.and_then(|tuned| Ok((trials.config_of(&tuned.best)?, tuned)));
    // The board is as it was before anything else is said.
    drop(trials);
    bar.finish_and_clear();
    let (tuned_config, tuned) = match found {
        Ok(found) => found,
        Err(Failure::Stopped) => bail!("stopped by a signal; nothing was written"),
        Err(Failure::Impossible(why)) => bail!("none of the ways can be taken: {why}"),
        Err(Failure::Broken(why)) => bail!("{why}"),
    };
    out.finish(&text::toml(&tuned, &tuned_config))?;
    print(&text::summary(&tuned, goal, tokens, args.target_loss))?;
    tracing::info!("wattle train {}", args.out.display());
    Ok(Exit::Done)
}

fn faults(args: &TuneArgs) -> Vec<String> {
    let mut faults = Vec::new();
    if !(args.window.is_finite() && (0.1..=3600.0).contains(&args.window)) {
        faults.push(format!("--window {}: expected a number of seconds from 0.1 to 3600", args.window));
    }
    if !(2..=1000).contains(&args.rounds) {
        faults.push(format!("--rounds {}: expected 2 to 1000; of one turn nothing can be said", args.rounds));
    }
    if let Some(joules) = args.joules {
        if !(joules.is_finite() && joules > 0.0) {
            faults.push(format!("--joules {joules}: expected a number above 0"));
        }
        if args.sought == Sought::Energy {
            faults.push(
                "--joules: is a limit for --for time; the fewest joules are sought without it".to_owned(),
            );
        }
    }
    if let Some(loss) = args.target_loss.filter(|loss| !(loss.is_finite() && *loss > 0.0)) {
        faults.push(format!("--target-loss {loss}: expected a number above 0"));
    }
    faults
}

/// Tokens after which a run came down to a loss.
fn tokens_to(loss: f64, run: &Path) -> anyhow::Result<u64> {
    let report = Report::of(&Run::open(run)?, None)?;
    let reached = Reached::of(&report.learning.evaluations, loss, Measure::of(std::slice::from_ref(&report)));
    let Some(reached) = reached else {
        let best =
            report.learning.best.map_or_else(String::new, |best| format!("; its lowest is {:.4}", best.loss));
        return Err(BadUsage::new(format!(
            "--like {}: did not come to a loss of {loss}{best}",
            run.display()
        ))
        .into());
    };
    Ok(reached.at.tokens)
}

fn show_kernels(
    config: &Config,
    dataset: &wattle_data::Dataset,
    device: DeviceChoice,
) -> anyhow::Result<Exit> {
    crate::threads::set_threads(config.train.threads);
    let device = device.open()?;
    let Some(board) = device.board()? else {
        bail!("--kernels: {} has no kernels to choose between; a GPU has", device.compute);
    };
    let roof = wattle_ops::board::roof::measure(board.as_ref())?;
    drop(board);
    match measure_kernels(config, dataset, &device)? {
        Some((_, measured)) => print(&kernels::table(&measured, &roof))?,
        None => bail!("--kernels: candle's autograd trains this configuration, which takes its own kernels"),
    }
    Ok(Exit::Done)
}

fn progress(bars: &MultiProgress, is_drawn: bool) -> ProgressBar {
    let bar = if is_drawn { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let style =
        ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}").expect("a template of our own");
    let bar = bars.add(bar.with_style(style));
    if is_drawn {
        bar.enable_steady_tick(Duration::from_millis(100));
    }
    bar
}
