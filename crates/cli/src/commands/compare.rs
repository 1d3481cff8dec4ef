//! `wattle compare`: which of several runs cost least for the same result.

use std::path::PathBuf;

use wattle_report::compare::{self, Comparison, Metric};
use wattle_report::{Report, ReportError, Run};

use crate::args::CompareArgs;
use crate::commands::page::Page;
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_line};

/// Puts runs side by side.
pub fn run(args: &CompareArgs) -> anyhow::Result<Exit> {
    if let Some(loss) = args.target_loss.filter(|loss| !(loss.is_finite() && *loss > 0.0)) {
        let fault = format!("--target-loss {loss}: expected a loss above 0, in nats a token");
        return Err(BadUsage { faults: vec![fault] }.into());
    }
    if let Some(score) = args.target_score.filter(|score| !(0.0..=1.0).contains(score)) {
        let fault = format!("--target-score {score}: expected a share from 0 to 1");
        return Err(BadUsage { faults: vec![fault] }.into());
    }
    let page = Page::of(args.html.as_deref(), args.json)?;
    let (comparison, reports) = match &args.metric {
        Some(metric) => by_metric(&args.runs, metric.clone(), args.target_score)?,
        None => side_by_side(&args.runs, args.target_loss)?,
    };
    page.write(|| compare::page(&comparison, &reports))?;
    if args.json {
        print_line(&comparison.to_json())?;
    } else if !page.is_stdout() {
        print(&compare::text(&comparison))?;
    }
    page.tell();
    Ok(Exit::Done)
}

/// The runs in these directories, compared on their way to a validation loss.
///
/// # Errors
/// If one of them is no run, or is damaged.
pub fn side_by_side(
    runs: &[PathBuf],
    target_loss: Option<f64>,
) -> Result<(Comparison, Vec<Report>), ReportError> {
    let (runs, reports) = read(runs)?;
    Ok((Comparison::of(&runs, &reports, target_loss), reports))
}

/// The runs in these directories, compared on their way to a score.
fn by_metric(
    runs: &[PathBuf],
    metric: Metric,
    target_score: Option<f64>,
) -> Result<(Comparison, Vec<Report>), ReportError> {
    let (runs, reports) = read(runs)?;
    Comparison::by_metric(&runs, &reports, metric, target_score)
}

fn read(runs: &[PathBuf]) -> Result<(Vec<Run>, Vec<Report>), ReportError> {
    let runs: Vec<Run> = runs.iter().map(|path| Run::open(path)).collect::<Result<_, _>>()?;
    let reports = runs.iter().map(|run| Report::of(run, None)).collect::<Result<_, _>>()?;
    Ok((runs, reports))
}
