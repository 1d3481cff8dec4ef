//! `wattle runs`: the runs of a folder.

use wattle_report::list::RunList;

use crate::args::RunsArgs;
use crate::exit::Exit;
use crate::terminal::{print, print_line};

/// Lists runs.
pub fn run(args: &RunsArgs) -> anyhow::Result<Exit> {
    let list = RunList::of(&args.dir)?;
    match args.json {
        true => print_line(&list.to_json())?,
        false => print(&list.text(&args.dir))?,
    }
    Ok(Exit::Done)
}
