//! `wattle report`: what a run learnt and what it cost, finished or not.

use anyhow::Context;
use wattle_meter::intensity_table::IntensityTable;
use wattle_report::{Report, Run, page, text};

use crate::args::ReportArgs;
use crate::exit::Exit;
use crate::output_file::OutputFile;

/// Reads a run and says what is in it.
#[allow(clippy::print_stdout, reason = "its output is the command's result")]
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let run = Run::open(&args.run)?;
    let table = args.reprice.as_deref().map(IntensityTable::open).transpose().context("--reprice")?;
    let report = Report::of(&run, table.as_ref())?;
    if let Some(path) = &args.html {
        OutputFile::open(path, "--html")?.finish(&page::page(&report, &run))?;
    }
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{}", text::text(&report));
    }
    if let Some(path) = &args.html {
        tracing::info!("{}", path.display());
    }
    Ok(Exit::Done)
}
