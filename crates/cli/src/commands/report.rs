//! `wattle report`: what a run learnt and what it cost, finished or not.

use anyhow::Context;
use wattle_meter::IntensityTable;
use wattle_report::text::Bars;
use wattle_report::{Report, Run, page, text};

use crate::args::ReportArgs;
use crate::commands::page::Page;
use crate::exit::Exit;
use crate::terminal::{print, print_line};

/// Reads a run and says what is in it.
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let page = Page::of(args.html.as_deref(), args.json)?;
    let run = Run::open(&args.run)?;
    let table = args.reprice.as_deref().map(IntensityTable::open).transpose().context("--reprice")?;
    let report = Report::of(&run, table.as_ref())?;
    page.write(|| page::page(&report, &run))?;
    if args.json {
        print_line(&report.to_json())?;
    } else if !page.is_stdout() {
        print(&text::text(&report, bars()))?;
    }
    page.tell();
    Ok(Exit::Done)
}

/// Characters for bars: ASCII on a terminal that declares itself dumb.
fn bars() -> Bars {
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if is_dumb { Bars::Ascii } else { Bars::Blocks }
}
