//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
#[cfg(feature = "train")]
use wattle_data::{BadRecords, FormatChoice};
use wattle_grid::ProviderKind;
use wattle_meter::GpuSelection;
use wattle_meter::calibrate::log::utc_offset;
use wattle_meter::config::metrics_addr;
use wattle_report::scaling::{WAITING_SHARE, network};
use wattle_settings::{Choice, Choices};

use crate::completion;

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

wattle <COMMAND> --help says more. RUST_LOG overrides -v and -q.
source <(COMPLETE=bash wattle) completes commands, keys and runs in bash; zsh and fish likewise."
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
    /// Train a model. Without arguments: a small one on embedded tales, about a minute on two cores
    #[cfg(feature = "train")]
    Train(Box<TrainArgs>),
    /// Write a configuration file with every key in it
    #[cfg(feature = "train")]
    Init(InitArgs),
    /// Make tokens of text, once and for any number of runs
    #[cfg(feature = "train")]
    Prepare(PrepareArgs),
    /// Write text with a trained model
    #[cfg(feature = "train")]
    Generate(GenerateArgs),
    /// Show what a model sees of its data, and what of it is learnt
    #[cfg(feature = "train")]
    Show(ShowArgs),
    /// Measure a model's loss on a text
    #[cfg(feature = "train")]
    Evaluate(EvaluateArgs),
    /// Check every operation on this machine against its reference
    #[cfg(feature = "train")]
    Verify(VerifyArgs),
    /// Write a model to a file for other tools, in half precision or quantized
    #[cfg(feature = "train")]
    Export(ExportArgs),
    /// Run any command and say what it cost
    Meter(MeterArgs),
    /// List the runs of a folder: how each stands, its loss and what it cost
    Runs(RunsArgs),
    /// Show what a run learnt and what it cost
    Report(ReportArgs),
    /// Put runs side by side: which of them cost least for the same loss
    Compare(CompareArgs),
    /// Try several ways of training, each with several seeds, and compare what they cost
    #[cfg(feature = "train")]
    Sweep(SweepArgs),
    /// Find the way of training that costs least on this machine
    #[cfg(feature = "train")]
    Tune(Box<TuneArgs>),
    /// Train for `tune`, window by window
    #[cfg(feature = "train")]
    #[command(hide = true)]
    TuneTrial(TuneTrialArgs),
    /// Put a board back that `tune` left behind
    #[cfg(feature = "train")]
    #[command(hide = true)]
    TuneRestore(TuneRestoreArgs),
    /// Estimate the energy of a training run that no machine here can do
    Estimate(EstimateArgs),
    /// Find the gain of this machine's sensors by the log of a wall meter
    Calibrate(CalibrateArgs),
    /// Show every sensor and compute device, and what mends those that cannot be read
    Devices(DevicesArgs),
    /// Write the manual pages of all commands
    Man(ManArgs),
}

/// Arguments of `train`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = train_help())]
pub struct TrainArgs {
    /// The configuration.
    #[command(flatten)]
    pub source: ConfigArgs,
    /// The run directory; default runs/NAME-TIME
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: wattle_train::device::DeviceChoice,
    /// Resume a run: that of --out, which must exist, else the newest of this name; --resume=auto starts one
    /// where --out holds none yet, for jobs that are requeued
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "existing", hide_possible_values = true)]
    pub resume: Option<Resume>,
    /// Print the plan (parameters, memory, tokens, FLOPs, steps) and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Do not compare the tokens with their hashes; a damaged shard is then trained on unnoticed
    #[arg(long)]
    pub no_verify: bool,
}

/// Where a configuration comes from.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// A configuration file (TOML)
    pub config: Option<PathBuf>,
    /// A ready configuration; file and --set go over it
    #[arg(long, value_enum)]
    pub preset: Option<crate::config::Preset>,
    /// Change one setting; a value that is not TOML is taken as text
    #[arg(long, value_name = "SECTION.KEY=VALUE", add = ArgValueCompleter::new(completion::settings))]
    pub set: Vec<String>,
}

/// Arguments of `init`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle init my.toml
      every key with its meaning, unit and default; those of the default run are set
  wattle init big.toml --preset gpt2-124m --set 'data.input=[\"corpus.txt\"]'
      from another ready configuration, with one setting changed
  wattle train my.toml
      trains by it

It asks nothing, and an existing file is left alone.")]
pub struct InitArgs {
    /// The file to write; - is stdout
    #[arg(default_value = "wattle.toml")]
    pub file: PathBuf,
    /// The ready configuration whose keys are set
    #[arg(long, value_enum, default_value = "default")]
    pub preset: crate::config::Preset,
    /// Set one more
    #[arg(long, value_name = "SECTION.KEY=VALUE", add = ArgValueCompleter::new(completion::settings))]
    pub set: Vec<String>,
}

#[cfg(feature = "train")]
impl ConfigArgs {
    /// Whether neither a file nor a preset is named.
    pub fn is_bare(&self) -> bool {
        self.config.is_none() && self.preset.is_none()
    }

    /// These, and the default configuration if none is named.
    pub fn sources(&self) -> crate::config::Sources {
        crate::config::Sources {
            preset: self.preset.or(self.is_bare().then_some(crate::config::Preset::Default)),
            file: self.config.clone(),
            set: self.set.clone(),
            over: Vec::new(),
        }
    }
}

/// What `train --help` ends with: examples, and every key of the configuration.
#[cfg(feature = "train")]
fn train_help() -> String {
    const EXAMPLES: &str = "\
Examples:
  wattle train
      the embedded default: corpus, tokenizer and model from nothing but this program
  wattle train --preset shakespeare-char --set 'data.input=[\"input.txt\"]'
      a text of your own, by characters
  wattle train my.toml --set train.max_steps=500 --out runs/short
      a file, with one setting changed
  wattle train my.toml --resume
      resume the newest run of that name; if that is finished, nothing happens
  wattle train my.toml --out runs/long --resume=auto
      start that run or resume it, as a job does that is requeued until it is done

Every run directory holds a config.toml with all settings in effect: start from one of those.
Exit status: 0 done, 1 failed, 2 bad usage or configuration, 75 stopped by a signal after a checkpoint.";
    let keys = wattle_session::config::SCHEMA.help(HELP_WIDTH);
    format!(
        "{EXAMPLES}\n\nKeys of the configuration, with their defaults, for a file or --set \
         (docs/configuration.md has more):\n\n{keys}"
    )
}

/// Characters of a line that any terminal shows whole.
#[cfg(feature = "train")]
const HELP_WIDTH: usize = 80;

/// What `--resume` does where `--out` holds no run.
#[cfg(feature = "train")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Resume {
    /// It is an error.
    Existing,
    /// A run is started.
    Auto,
}

/// Arguments of `prepare`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("source").required(true).args(["input", "dataset", "mixture"])),
    after_long_help = "\
Examples:
  wattle prepare a.txt b.txt --out data/mine
      a byte-pair vocabulary of 2,048 entries, learnt on the training part; the last tenth for validation
  wattle prepare docs.jsonl --text-field body --tokenizer tok.json --out data/docs
      one JSON object a line, in a vocabulary made elsewhere
  wattle prepare 'fineweb/*.parquet' --tokenizer bpe:32768 --out data/fineweb
      the column text of Parquet files, in the order of their names
  wattle prepare docs.jsonl --text-field body --set data.dedup=true --out data/clean
      each of equal documents once; docs/data.md lists the steps
  wattle prepare --mixture mix.toml --tokenizer bpe:8192 --out data/mix
      the sources that its [[data.mixture]] tables name, with their weights
  wattle prepare --dataset tiny-shakespeare --tokenizer chars --out data/shakespeare
      fetched, and checked against its SHA-256
  wattle train --set 'data.dir=\"data/mine\"'
      trains on it")]
pub struct PrepareArgs {
    /// Text in UTF-8, or documents in JSON or Parquet; gzip and zstd are unpacked; patterns and folders
    pub input: Vec<PathBuf>,
    /// A corpus by its name, fetched into the cache
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// A configuration whose [[data.mixture]] is prepared
    #[arg(long, value_name = "FILE")]
    pub mixture: Option<PathBuf>,
    /// The folder to make; it must not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A tokenizer.json or the folder of a model, or bpe:VOCABULARY, bytes, chars
    #[arg(long, value_name = "FILE|DIR|bpe:VOCAB|bytes|chars", default_value = "bpe:2048")]
    pub tokenizer: TokenizerChoice,
    /// What makes text of conversations: chatml, plain, or a template's file or folder; default: the tokenizer's
    #[arg(long, value_name = "NAME|FILE|DIR")]
    pub chat_template: Option<wattle_data::TemplateChoice>,
    /// The share kept for validation, from the end; 0 for none
    #[arg(long, value_name = "F", default_value_t = 0.1)]
    pub val_fraction: f64,
    /// Where a document's text is: a field of JSON, a column of Parquet
    #[arg(long, value_name = "FIELD", default_value = "text")]
    pub text_field: String,
    /// What the files hold; auto tells by what they begin with, whatever they are called
    #[arg(long, value_parser = choices::<FormatChoice>(), default_value = FormatChoice::default().name())]
    pub format: FormatChoice,
    /// What to do with a record that has no text that can be read: leave it out and count it, or refuse
    #[arg(long, value_name = "WHAT", value_parser = choices::<BadRecords>())]
    #[arg(default_value = BadRecords::default().name())]
    pub bad_records: BadRecords,
    /// Any other key of the section data, such as data.dedup=true
    #[arg(long, value_name = "data.KEY=VALUE")]
    pub set: Vec<String>,
}

/// A tokenizer as the command line names it.
#[cfg(feature = "train")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// One token a byte.
    Bytes,
    /// One token a character.
    Chars,
    /// A byte-pair encoding of so many entries, learnt on the text.
    Bpe(usize),
    /// A `tokenizer.json`, or the Hugging Face folder with one.
    File(PathBuf),
}

#[cfg(feature = "train")]
impl std::str::FromStr for TokenizerChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("bpe:")) {
            ("bytes", _) => Ok(Self::Bytes),
            ("chars", _) => Ok(Self::Chars),
            ("bpe", _) => Err("expected a number of entries, such as bpe:2048".to_owned()),
            (_, Some(n)) => n.parse().map(Self::Bpe).map_err(|_| {
                format!("expected a number of entries after bpe:, got {n:?}; for example bpe:2048")
            }),
            (file, None) => Ok(Self::File(file.into())),
        }
    }
}

/// Arguments of `tune`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle tune my.toml
      micro-batch, recomputation and (on a CPU) threads with the fewest joules; leaves tuned.toml
  wattle tune my.toml --power --out frugal.toml
      the power limit too; it is put back at the end, also after kill -9. Needs root
  wattle tune my.toml --power=400,550,700 --for time --joules 9e6
      the fastest of these that trains all tokens with nine megajoules
  wattle tune my.toml --target-loss 3.2 --like runs/first
      what it takes to come to that loss, by the tokens that an earlier run took
  wattle tune my.toml --kernels
      every kernel that a GPU can choose between: how long, how much of what the board can do

Ways train some seconds at a time and in turns; what is behind by more than its error drops out.
What changes what is learnt (batch size, learning rate) is not tried: see wattle sweep.")]
pub struct TuneArgs {
    /// The configuration.
    #[command(flatten)]
    pub source: ConfigArgs,
    /// What to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: wattle_train::device::DeviceChoice,
    /// What is sought
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value_t = Sought::Energy)]
    pub sought: Sought,
    /// With --for time: joules that training may take in all
    #[arg(long, value_name = "J")]
    pub joules: Option<f64>,
    /// A validation loss to come to, instead of all tokens of the configuration
    #[arg(long, value_name = "LOSS", requires = "like")]
    pub target_loss: Option<f64>,
    /// A run of the same model and data that came to --target-loss
    #[arg(long, value_name = "RUN", requires = "target_loss")]
    pub like: Option<PathBuf>,
    /// Try power limits of the board too: these watts, or six from the least to today's
    #[arg(long, value_name = "W", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "")]
    pub power: Option<NumberList>,
    /// Try highest clocks of the board too: these MHz, or six up to the highest
    #[arg(long, value_name = "MHZ", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "")]
    pub clock: Option<NumberList>,
    /// Try types too: these, or all; they change what is learnt, a little
    #[arg(long, value_name = "DTYPE", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "")]
    pub precision: Option<PrecisionList>,
    /// Seconds that a way trains at a time
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub window: f64,
    /// Turns of each way at most; fewer are enough where the difference is clear
    #[arg(long, value_name = "N", default_value_t = 9)]
    pub rounds: usize,
    /// Show the kernels that the GPU can choose between, and nothing else
    #[arg(long)]
    pub kernels: bool,
    /// The configuration to leave; it must not exist
    #[arg(long, value_name = "FILE", default_value = "tuned.toml")]
    pub out: PathBuf,
}

/// Arguments of `tune-trial`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
pub struct TuneTrialArgs {
    /// The configuration.
    pub config: PathBuf,
    /// What to compute on.
    #[arg(long)]
    pub device: wattle_train::device::DeviceChoice,
    /// Where choices of kernels are kept.
    #[arg(long)]
    pub kernels: PathBuf,
}

/// Arguments of `tune-restore`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
pub struct TuneRestoreArgs {
    /// The board.
    pub uuid: String,
    /// Its power limit in milliwatts.
    pub limit_mw: u32,
    /// Whether its clock is to be given free.
    #[arg(long)]
    pub unlock_clock: bool,
}

/// What `tune` looks for.
#[cfg(feature = "train")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sought {
    /// The fewest joules a token
    Energy,
    /// The least time a token
    Time,
}

/// What stands between commas; nothing in an empty text.
#[cfg(feature = "train")]
fn listed<T>(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').filter(|_| !text.is_empty()).map(|part| parse(part.trim())).collect()
}

/// Numbers between commas; nothing for those that suggest themselves.
#[cfg(feature = "train")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberList(pub Vec<u32>);

#[cfg(feature = "train")]
impl std::str::FromStr for NumberList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(format!("expected whole numbers above 0 between commas, got {text:?}")),
            Ok(number) => Ok(number),
        };
        listed(text, number).map(Self)
    }
}

/// Types between commas; nothing for all.
#[cfg(feature = "train")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrecisionList(pub Vec<wattle_train::config::Precision>);

#[cfg(feature = "train")]
impl std::str::FromStr for PrecisionList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use wattle_train::config::Precision;
        let names = || Precision::CHOICES.iter().map(|choice| choice.name).collect::<Vec<_>>().join(", ");
        let named = |name: &str| {
            Precision::named(name).ok_or_else(|| format!("expected some of {}, got {name:?}", names()))
        };
        listed(text, named).map(Self)
    }
}

/// Arguments of `generate`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle generate runs/default-20261123-160000 --prompt 'Nobody in Pinegate'
      goes on from a text with the latest checkpoint of a run
  wattle generate gpt2/ --prompt 'The wattle tree' --temperature 0 --max-tokens 40
      the likeliest token each time, from a Hugging Face directory
  wattle generate gpt2/ --prompt 'A tree' --prompt 'A river' --dtype bf16
      two texts at once, each as if it were alone
  wattle generate runs/default-20261123-160000 --explain --max-tokens 10
      what else the model thought of at each step")]
pub struct GenerateArgs {
    /// A run directory (its latest checkpoint), a checkpoint, a Hugging Face directory, or a .gguf file
    #[arg(add = ArgValueCompleter::new(completion::runs))]
    pub checkpoint: PathBuf,
    /// Adapters to add to the checkpoint's weights: a run that trained some, or a folder in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// The text to go on from; without it, the start of a text. Given several times, each is gone on from
    #[arg(long, value_name = "TEXT")]
    pub prompt: Vec<String>,
    /// Talk with the model: each line of standard input is a message, rendered by the checkpoint's chat template
    #[arg(long, conflicts_with_all = ["prompt", "batch", "explain", "json"])]
    pub chat: bool,
    /// What the model is told before a conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Texts that are generated at once, where there are several prompts; without it, all of them
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Most tokens to write of each text
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub max_tokens: usize,
    /// Below 1 more of the likely, above 1 more of the unlikely; 0 always the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temperature: f64,
    /// Choose among the K likeliest tokens alone
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have probability P
    #[arg(long, value_name = "P")]
    pub top_p: Option<f64>,
    /// The same seed writes the same text
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// What to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: wattle_train::device::DeviceChoice,
    /// Type of weights and activations
    #[arg(long, value_enum, default_value_t = NumberType::F32)]
    pub dtype: NumberType,
    /// Show each step's likeliest tokens with their probabilities; of one text
    #[arg(long)]
    pub explain: bool,
    /// As JSON once all is written, with speed and energy
    #[arg(long, conflicts_with = "explain")]
    pub json: bool,
    /// Write control characters as they are; on a terminal they are escaped otherwise
    #[arg(long)]
    pub raw: bool,
}

/// Arguments of `show`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle show data/mine --first 2
      on a terminal, tokens that are learnt in colours, two of them in turn; all others dimmed
  wattle show runs/mine --split val --json
      a line an example: tokens, targets, mask (whether each target is learnt) and text

Examples are windows in the order in which they are stored, each of --context tokens; training
draws them in another order, and leaves out those in which nothing is learnt.")]
pub struct ShowArgs {
    /// A folder that wattle prepare made, or a run directory
    pub dir: PathBuf,
    /// Which part of the data
    #[arg(long, value_enum, default_value_t = SplitName::Train)]
    pub split: SplitName,
    /// How many examples
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub first: u64,
    /// Tokens of an example; default: a run's model.context, else 128
    #[arg(long, value_name = "T")]
    pub context: Option<usize>,
    /// As JSON, a line an example
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `evaluate`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("held").required(true).args(["data", "text", "tasks"])),
    after_long_help = "\
Examples:
  wattle evaluate runs/mine --text other.txt
      the latest checkpoint of a run, on any text
  wattle evaluate runs/mine/checkpoints/best --data data/mine --split val --json
      a checkpoint, on the part of a prepared folder that it was not trained on
  wattle evaluate runs/mine --tasks pets.jsonl last-word.jsonl
      a checkpoint, on items with a right answer; docs/evaluation.md describes the files

The loss is the mean over all non-overlapping windows of the model's context. A tail shorter than
a window is left out.")]
pub struct EvaluateArgs {
    /// A run directory (its latest checkpoint), a checkpoint, a Hugging Face directory, or a .gguf file
    #[arg(add = ArgValueCompleter::new(completion::runs))]
    pub checkpoint: PathBuf,
    /// Adapters to add to the checkpoint's weights: a run that trained some, or a folder in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// A folder that wattle prepare made, with the checkpoint's tokenizer
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Which part of --data
    #[arg(long, value_enum, default_value_t = SplitName::Val, conflicts_with = "text")]
    pub split: SplitName,
    /// Do not compare the tokens of --data with their hashes; a damaged shard then goes unnoticed
    #[arg(long, requires = "data")]
    pub no_verify: bool,
    /// A text
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Files of items with a right answer (JSON lines). The scores of a run's checkpoint are kept in its tasks.jsonl
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "split")]
    pub tasks: Vec<PathBuf>,
    /// Items at once on a GPU; scores are the same for any number
    #[arg(long, value_name = "N", default_value_t = 16, conflicts_with_all = ["data", "text"])]
    pub batch_size: usize,
    /// What to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: wattle_train::device::DeviceChoice,
    /// Type of weights and activations
    #[arg(long, value_enum, default_value_t = NumberType::F32)]
    pub dtype: NumberType,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// The values of a setting, for an argument.
fn choices<C: Choices>() -> impl TypedValueParser<Value = C> {
    let value = |choice: &Choice| {
        PossibleValue::new(choice.name).help(choice.doc.summary().trim_end_matches('.').to_owned())
    };
    let parser = PossibleValuesParser::new(C::CHOICES.iter().map(value));
    parser.map(|name| C::named(&name).expect("the name is one of the choices"))
}

/// A type of weights and activations, as the command line names it.
#[cfg(feature = "train")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NumberType {
    /// 32-bit floating point: the same on every device up to rounding
    F32,
    /// bfloat16: half the bytes, and less exact
    Bf16,
}

#[cfg(feature = "train")]
impl From<NumberType> for candle_core::DType {
    fn from(number_type: NumberType) -> Self {
        match number_type {
            NumberType::F32 => Self::F32,
            NumberType::Bf16 => Self::BF16,
        }
    }
}

/// A part of a dataset, as the command line names it.
#[cfg(feature = "train")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SplitName {
    /// What is learnt from
    Train,
    /// What is only measured on
    Val,
}

#[cfg(feature = "train")]
impl From<SplitName> for wattle_data::Split {
    fn from(name: SplitName) -> Self {
        match name {
            SplitName::Train => Self::Train,
            SplitName::Val => Self::Val,
        }
    }
}

/// Arguments of `verify`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle verify
      every operation's result and gradients, at every SIMD level that the processor has, and on
      the GPU if there is one
  wattle verify --json | jq '.checks[] | select(.holds | not)'
      what is further from its reference in f64 than rounding allows

Exit status: 0 if all hold, 1 if not or if the device cannot be had.")]
pub struct VerifyArgs {
    /// What to check besides the CPU: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: wattle_train::device::DeviceChoice,
    /// As JSON, every shape
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `export`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle export runs/mine --type q8_0 --out mine.gguf
      the latest checkpoint of a run in one file, a quarter of its size, for llama.cpp
  wattle evaluate mine.gguf --text other.txt
      what the smaller weights cost in loss

Checkpoints are Hugging Face directories already: transformers opens them as they are. Matrices of
which a row is no multiple of 32 are stored in f16; vectors and positions stay in f32. An existing
file is replaced when the new one is whole.")]
pub struct ExportArgs {
    /// A run directory (its latest checkpoint), a checkpoint, or a Hugging Face directory
    #[arg(add = ArgValueCompleter::new(completion::runs))]
    pub checkpoint: PathBuf,
    /// Adapters to add to the checkpoint's weights: a run that trained some, or a folder in PEFT's layout
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Add adapters to the weights, for good: of a checkpoint that is one, or of --adapter
    #[arg(long)]
    pub merge: bool,
    /// The kind of file
    #[arg(long, value_enum, default_value_t = ExportFormat::Gguf)]
    pub format: ExportFormat,
    /// In what a GGUF file's matrices are stored
    #[arg(long, value_enum)]
    pub r#type: Option<ExportType>,
    /// The file to write, or the folder of safetensors
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
}

/// A kind of file, as the command line names it.
#[cfg(feature = "train")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// One file with the tokenizer in it, as llama.cpp opens it
    Gguf,
    /// A folder in Hugging Face's layout, weights in 32 bits
    Safetensors,
}

/// A type of weights, as the command line names it.
#[cfg(feature = "train")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportType {
    /// 16 bits a weight
    #[value(name = "f16")]
    F16,
    /// 8.5 bits a weight
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits a weight
    #[value(name = "q4_0")]
    Q4_0,
}

#[cfg(feature = "train")]
impl From<ExportType> for wattle_model::WeightType {
    fn from(name: ExportType) -> Self {
        match name {
            ExportType::F16 => Self::F16,
            ExportType::Q8_0 => Self::Q8_0,
            ExportType::Q4_0 => Self::Q4_0,
        }
    }
}

/// Arguments of `meter`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle meter -- python train.py
      joules, grams and the share of each sensor, at the end of any command
  wattle meter --json cost.json --region FRA --gpus 0,1 -- torchrun --nproc-per-node 2 train.py
      two boards, and one record in a file
  wattle meter --metrics-addr 127.0.0.1:9184 -- python train.py
      live power and energy for Prometheus, at http://127.0.0.1:9184/metrics
  wattle meter --grid electricity_maps --grid-zone DE -- python train.py
      each joule at the price of its moment; the key is read from ELECTRICITY_MAPS_API_KEY

The command's exit status is passed back (128 + n after signal n, 127 if there is no such
command), and signals are passed on to it. A GPU counts whole, whoever uses it; an estimate counts
the command's processes alone, daemons and background jobs included. Metering ends with the command,
as a shell sees it; processes that it leaves running are named, and counted up to that moment.")]
pub struct MeterArgs {
    /// Where to write the record
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Time between two readings; default 50
    #[arg(long, value_name = "N")]
    pub interval_ms: Option<u64>,
    /// Whose electricity: a country's code or name; default the world's mean
    #[arg(long, value_name = "XX")]
    pub region: Option<String>,
    /// Who is asked what the electricity emits, to price each joule at the moment of its use; --region prices the rest
    #[arg(long, value_name = "PROVIDER", value_parser = choices::<ProviderKind>(), default_value = ProviderKind::None.name())]
    pub grid: ProviderKind,
    /// The zone of the grid that the machine draws from, such as DE; for uk GB or GB-1 to GB-17
    #[arg(long, value_name = "ZONE")]
    pub grid_zone: Option<String>,
    /// The provider's address, for a mirror
    #[arg(long, value_name = "URL")]
    pub grid_url: Option<String>,
    /// Which boards, by their number in nvidia-smi; default those that CUDA_VISIBLE_DEVICES shows
    #[arg(long, value_name = "all|none|0,1", value_parser = gpu_selection)]
    pub gpus: Option<GpuSelection>,
    /// Where to serve live figures to Prometheus, such as 127.0.0.1:9184
    #[arg(long, value_name = "ADDR:PORT", value_parser = metrics_addr)]
    pub metrics_addr: Option<SocketAddr>,
    /// Where to write every reading, for wattle calibrate; a new file
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The command and its arguments; what follows its name is its own
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

fn gpu_selection(text: &str) -> Result<GpuSelection, String> {
    match text {
        "all" => Ok(GpuSelection::All),
        "none" => Ok(GpuSelection::None),
        list => list
            .split(',')
            .map(|number| number.trim().parse())
            .collect::<Result<_, _>>()
            .map(GpuSelection::Boards)
            .map_err(|_| format!("expected all, none or numbers such as 0,1, got {list:?}")),
    }
}

/// Arguments of `runs`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle runs
      the runs in runs/, those of sweeps too, the oldest first
  wattle runs runs --json | jq -r '.runs[] | select(.status == \"interrupted\") | .path'
      those that --resume continues

A loss is the lowest validation loss, in nats a token. Nothing is written.")]
pub struct RunsArgs {
    /// A folder with runs
    #[arg(default_value = "runs")]
    pub dir: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  wattle man --out man1
      wattle.1, wattle-train.1 and so on; man -l man1/wattle-train.1 shows one")]
pub struct ManArgs {
    /// The folder to write them to, made where it is missing
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle report runs/default-20261123-160000
      what a run learnt and what it cost, finished or not
  wattle report runs/mine --html report.html
      one page with curves of loss, power and emissions, for any browser
  wattle report runs/mine --reprice 2026-hourly.csv
      its emissions by another table of carbon intensities (timestamp,g_per_kwh); the joules stay")]
pub struct ReportArgs {
    /// A run directory
    #[arg(add = ArgValueCompleter::new(completion::runs))]
    pub run: PathBuf,
    /// Where to write a page; - is stdout
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Price its joules again, by a CSV of timestamp,g_per_kwh
    #[arg(long, value_name = "TABLE.csv")]
    pub reprice: Option<PathBuf>,
}

/// Arguments of `compare`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle compare runs/small runs/large
      which of them cost less for the same loss
  wattle compare runs/* --target-loss 1.5 --html compare.html
      joules and grams to a loss of 1.5, and a page with the curves over each other
  wattle compare runs/small runs/large --metric pets --target-score 0.6
      joules until 60 % of the items in pets.jsonl are right, by wattle evaluate --tasks or
      evaluate.tasks")]
pub struct CompareArgs {
    /// Run directories
    #[arg(required = true, num_args = 2.., value_name = "RUN", add = ArgValueCompleter::new(completion::runs))]
    pub runs: Vec<PathBuf>,
    /// The validation loss to compare the way to; default the best that all of them reached
    #[arg(long, value_name = "L")]
    pub target_loss: Option<f64>,
    /// Compare the way to a score on this task, by the metric that stands for it or by another: pets:acc_norm
    #[arg(long, value_name = "TASK[:METRIC]", conflicts_with = "target_loss")]
    pub metric: Option<wattle_report::compare::Metric>,
    /// The score of --metric to compare the way to, from 0 to 1; default the best that all of them reached
    #[arg(long, value_name = "S", requires = "metric")]
    pub target_score: Option<f64>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Where to write a page; - is stdout
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Arguments of `sweep`.
#[cfg(feature = "train")]
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle sweep default --out sweeps/default
      the ready sweep: how far a smaller model, a larger batch and an early stop cut energy
  wattle sweep mine.toml --out sweeps/mine --dry-run
      every run that would be made, its size and its compute

mine.toml:
  preset = \"default\"          # and, or instead, config = \"base.toml\"
  seeds = [1, 2, 3]
  target_loss = 1.5           # to compare the way to; else the best that all reach
  [set]                       # for all of them
  train.epochs = 2
  [[strategy]]                # the first is what the others are held against
  name = \"base\"
  [[strategy]]
  name = \"small\"
  model.d_model = 64
  [matrix]                    # every strategy with every combination of these
  train.batch_size = [4, 8]

Each run is an ordinary run directory in DIR; seeds are the outer loop, so that a machine that warms
up meets all strategies alike. The same command goes on with a sweep that was stopped or killed.
Exit status: 0 done, 1 a run failed, 2 bad usage or configuration, 75 stopped by a signal.")]
pub struct SweepArgs {
    /// A file of strategies (TOML), or default, the ready one
    pub sweep: PathBuf,
    /// The folder of its runs; one that was begun is gone on with
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What to compute on: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_parser = device_name)]
    pub device: String,
    /// Print every run, its parameters and its compute, and stop
    #[arg(long)]
    pub dry_run: bool,
}

/// A device's name as it was given, if it names one: it is handed on.
#[cfg(feature = "train")]
fn device_name(text: &str) -> Result<String, String> {
    text.parse::<wattle_train::device::DeviceChoice>().map(|_| text.to_owned())
}

/// Arguments of `estimate`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle estimate --params 175B --tokens 300B --gpu V100 --gpus 10000 --pue 1.1 --region USA
      a run of GPT-3's size
  wattle estimate --params 1.5B --tokens 30B --gpu H200 --gpus 8 --mfu 0.45
      with a utilization of your own
  wattle estimate --run runs/small --gpus 1024 --network 400
      a finished run's step on 1, 8, 16 … 1,024 GPUs with 400 Gbit/s of network each
  wattle estimate --run runs/small --gpus 1024 --network 400 --network-per machine --shard 64
      one network card a machine, the optimizer's state sharded among 64 GPUs

With --run it simulates data-parallel training with ZeRO-1; docs/distributed.md has the model.")]
pub struct EstimateArgs {
    /// Parameters, such as 124M or 7e9
    #[arg(long, value_name = "N", required_unless_present = "run")]
    pub params: Option<String>,
    /// Training tokens, such as 300B
    #[arg(long, value_name = "N", required_unless_present = "run")]
    pub tokens: Option<String>,
    /// The board; an unknown name lists those there are
    #[arg(long, value_name = "NAME", required_unless_present = "run")]
    pub gpu: Option<String>,
    /// How many of them
    #[arg(long, value_name = "N")]
    pub gpus: u64,
    /// Model FLOPs utilization, above 0 and at most 1; default a range
    #[arg(long, value_name = "F")]
    pub mfu: Option<f64>,
    /// Power usage effectiveness of the building, at least 1
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub pue: f64,
    /// Whose electricity: a country's code or name; default the world's mean
    #[arg(long, value_name = "XX")]
    pub region: Option<String>,
    /// Price of a kilowatt-hour; without it no cost is stated
    #[arg(long, value_name = "F")]
    pub price_per_kwh: Option<f64>,
    /// Its currency
    #[arg(long, value_name = "XXX", default_value = "EUR")]
    pub currency: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// A measured step on many GPUs.
    #[command(flatten)]
    pub scaling: ScalingArgs,
}

/// A measured step on many GPUs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Scaling a run's measured step")]
pub struct ScalingArgs {
    /// A run on one GPU, whose step is scaled to --gpus
    #[arg(long, value_name = "RUN", requires = "network",
        conflicts_with_all = ["params", "tokens", "gpu", "mfu", "pue", "region", "price_per_kwh", "currency"])]
    pub run: Option<PathBuf>,
    /// Bandwidth of the network between machines, in Gbit/s
    #[arg(long, value_name = "GBPS", requires = "run")]
    pub network: Option<f64>,
    /// Whether that is each GPU's or each machine's
    #[arg(long, value_enum, value_name = "WHAT", default_value = "gpu", requires = "run")]
    pub network_per: NetworkPer,
    /// GPUs that NVLink connects
    #[arg(long, value_name = "N", default_value_t = 8, requires = "run")]
    pub gpus_per_machine: u64,
    /// Bandwidth of NVLink for each GPU, in GB/s
    #[arg(long, value_name = "F", default_value_t = network::NVLINK_GBYTES, requires = "run")]
    pub nvlink: f64,
    /// Latency of a hop over NVLink, in microseconds
    #[arg(long, value_name = "F", default_value_t = network::NVLINK_HOP_US, requires = "run")]
    pub nvlink_hop_us: f64,
    /// Latency of a hop over the network, in microseconds
    #[arg(long, value_name = "F", default_value_t = network::NETWORK_HOP_US, requires = "run")]
    pub network_hop_us: f64,
    /// Rings within machines, then between them, instead of one ring through all GPUs
    #[arg(long, requires = "run")]
    pub two_level: bool,
    /// Bytes a parameter that are reduce-scattered: 4 for f32 gradients
    #[arg(long, value_name = "F", default_value_t = 4.0, requires = "run")]
    pub gradient_bytes: f64,
    /// Bytes a parameter that are gathered: 2 for bf16 weights
    #[arg(long, value_name = "F", default_value_t = 2.0, requires = "run")]
    pub weight_bytes: f64,
    /// GPUs among which the optimizer's state is sharded; default all
    #[arg(long, value_name = "N", requires = "run")]
    pub shard: Option<u64>,
    /// Megabytes of gradients that are reduced together
    #[arg(long, value_name = "F", default_value_t = 1000.0, requires = "run")]
    pub bucket_mb: f64,
    /// Share of the step that is its backward pass; default 2/3
    #[arg(long, value_name = "F", requires = "run")]
    pub backward_share: Option<f64>,
    /// Share of the backward pass beside which gradients are reduced
    #[arg(long, value_name = "F", default_value_t = 1.0, requires = "run")]
    pub overlap: f64,
    /// Gather weights during the next forward pass
    #[arg(long, requires = "run")]
    pub gather_under_forward: bool,
    /// Power of a GPU that waits, over that of one that computes
    #[arg(long, value_name = "F", default_value_t = WAITING_SHARE, requires = "run")]
    pub waiting_share: f64,
}

/// What has a network bandwidth of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkPer {
    /// Each GPU has a network card
    Gpu,
    /// The GPUs of a machine share one bandwidth
    Machine,
}

/// Arguments of `calibrate`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  wattle meter --trace steps.trace -- ./steps.sh
      minutes of load and rest in turn, while a wall meter is logged
  wattle calibrate steps.trace plug.log --psu-efficiency 0.92
      each board's gain with its interval, kept and applied from now on
  wattle calibrate runs/mine pdu.json --column 'outlet=\"3\"' --watts-per-unit 10 --dry-run
      a PDU's outlet from Prometheus, in hundredths of a kilowatt; nothing is kept

A log is CSV with a heading, lines of JSON of a Shelly or a Tasmota plug, or Prometheus's answer to
query_range. The meter sees the whole machine behind its power supply: a gain needs load steps, and
the share of a watt more at the wall that the supply passes on. docs/calibrate.md has more.")]
pub struct CalibrateArgs {
    /// A run directory, or a trace of wattle meter --trace
    pub run: PathBuf,
    /// The wall meter's log of that time
    pub log: PathBuf,
    /// Share of a watt more at the wall that the power supply passes on; without it nothing is kept
    #[arg(long, value_name = "F")]
    pub psu_efficiency: Option<f64>,
    /// 95 % half-width of that
    #[arg(long, value_name = "F", default_value_t = 0.02)]
    pub psu_uncertainty: f64,
    /// Bound on the wall meter's own error, as a share
    #[arg(long, value_name = "F", default_value_t = 0.02)]
    pub meter_accuracy: f64,
    /// The column, JSON key or series that holds the machine's power
    #[arg(long, value_name = "NAME")]
    pub column: Option<String>,
    /// What a value of the log is multiplied by to be watts
    #[arg(long, value_name = "F")]
    pub watts_per_unit: Option<f64>,
    /// How far times without a zone are ahead of UTC, such as +02:00
    #[arg(long, value_name = "HH:MM", value_parser = utc_offset, allow_hyphen_values = true)]
    pub utc_offset: Option<i32>,
    /// Seconds by which the log's clock is ahead of this machine's
    #[arg(long, value_name = "S", default_value_t = 0.0, allow_hyphen_values = true)]
    pub clock_offset: f64,
    /// Lags are looked for up to so many seconds
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    pub max_lag: f64,
    /// Where calibrations are kept; default $XDG_DATA_HOME/wattle/calibrations.json
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Keep nothing
    #[arg(long)]
    pub dry_run: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
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
