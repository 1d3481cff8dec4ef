//! The command line.

use clap::{Parser, Subcommand};

#[cfg(feature = "train")]
use std::path::PathBuf;

/// Train transformer language models, and know what every step cost in energy, emissions and money.
#[derive(Debug, Parser)]
#[command(
    name = "wattle",
    version,
    max_term_width = 100,
    after_help = "\
Example:
  wattle train
      trains a small model on embedded tales and writes what it cost beside each checkpoint

wattle <COMMAND> --help says more. RUST_LOG overrides -v and -q."
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more (-v: debug, -vv: trace).
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Say less: warnings and errors alone.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model. Without arguments: a small one on embedded tales, some three minutes on two cores
    #[cfg(feature = "train")]
    Train(Box<TrainArgs>),
    /// Show every sensor and compute device, and what mends those that cannot be read
    Devices(DevicesArgs),
}

/// Arguments of `train`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle train
      the embedded default: corpus, tokenizer and model from nothing but this program
  wattle train --preset shakespeare-char --set 'data.input=[\"input.txt\"]'
      a text of your own, by characters
  wattle train my.toml --set train.max_steps=500 --out runs/short
      a file, with one setting changed
  wattle train my.toml --resume
      go on with the newest unfinished run of that name

Every run directory holds a config.toml with all settings at their values: start from one of those.
Exit status: 0 done, 1 failed, 2 bad usage or configuration, 75 stopped by a signal after a checkpoint.")]
pub struct TrainArgs {
    /// A configuration file (TOML)
    pub config: Option<PathBuf>,
    /// A ready configuration; file and --set go over it
    #[arg(long, value_enum)]
    pub preset: Option<crate::config::Preset>,
    /// Change one setting; a value that is not TOML is taken as text
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// The run directory; default runs/NAME-TIME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: wattle_train::device::DeviceChoice,
    /// Go on with an unfinished run: that of --out, else the newest of this name
    #[arg(long)]
    pub resume: bool,
    /// Print the plan (parameters, memory, tokens, FLOPs, steps) and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// Arguments of `devices`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  wattle devices --json | jq '.findings[] | select(.state == \"unreadable\") | .remedy'
      the commands that mend what cannot be read")]
pub struct DevicesArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
