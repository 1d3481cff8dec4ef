//! `wattle man`: manual pages, made of the same definition as `--help`.

use std::fs;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::{Args, ManArgs};
use crate::exit::Exit;

/// Writes a page for the program and one for each command.
pub fn run(args: &ManArgs) -> anyhow::Result<Exit> {
    let dir = &args.out;
    let unwritable =
        || format!("--out {}: the pages cannot be written; choose another folder", dir.display());
    fs::create_dir_all(dir).with_context(unwritable)?;
    clap_mangen::generate_to(Args::command(), dir).with_context(unwritable)?;
    tracing::info!("man -l {} shows the first of them", dir.join("wattle.1").display());
    Ok(Exit::Done)
}
