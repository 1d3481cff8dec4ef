//! `wattle init`: a configuration file with every key in it.

use wattle_session::config::SCHEMA;

use crate::args::InitArgs;
use crate::config::{Sources, said_by};
use crate::exit::{BadUsage, Exit};
use crate::output_file::{OutputFile, is_stdout};

/// Characters of a line.
const WIDTH: usize = 100;

/// Writes the file.
pub fn run(args: &InitArgs) -> anyhow::Result<Exit> {
    let file = args.file.display();
    if args.file.is_file() {
        return Err(BadUsage::new(format!("{file} exists and is left alone; name another file")).into());
    }
    let sources = Sources { preset: Some(args.preset), set: args.set.clone(), ..Sources::default() };
    let values = said_by(&sources).map_err(|faults| BadUsage { faults })?;
    let head = format!(
        "# A configuration of wattle {}, from its preset {}; wattle train FILE trains by it.\n# Lines that begin with \
         #KEY show defaults: take the # away to set one. docs/configuration.md says more.\n\n",
        env!("CARGO_PKG_VERSION"),
        args.preset.name(),
    );
    OutputFile::open(&args.file, "FILE")?.finish(&(head + &SCHEMA.template(&values, WIDTH)))?;
    if !is_stdout(&args.file) {
        tracing::info!("{file} · edit it, then: wattle train {file}");
    }
    Ok(Exit::Done)
}
