//! `wattle prepare`: text to tokens, once and for any number of runs.

use std::path::Path;

use indicatif::MultiProgress;
use wattle_data::{
    DataConfig, DataError, Dataset, Mixture, StepManifest, TokenizerConfig, TokenizerKind, catalog, fetch,
    prepare_into,
};
use wattle_report::words::quantity::{count, si};
use wattle_session::data_notes;

use crate::args::{PrepareArgs, TokenizerChoice};
use crate::config::{data_with, mixture_in};
use crate::display::Display;
use crate::exit::{BadUsage, Exit};
use crate::terminal::is_drawn_on;
use crate::threads::set_threads;

/// Prepares a folder of tokens.
pub fn run(args: &PrepareArgs, bars: &MultiProgress, quiet: bool) -> anyhow::Result<Exit> {
    set_threads(0);
    let tokenizer = tokenizer(args);
    let mut display = Display::new(bars.clone(), is_drawn_on() && !quiet);
    let data = data(args, &mut display)?;
    let faults: Vec<String> = [data.faults(), tokenizer.faults()].concat().into_iter().map(by_flag).collect();
    if !faults.is_empty() {
        return Err(BadUsage { faults }.into());
    }
    let dataset = prepare_into(&args.out, &data, &tokenizer, &mut |progress| display.prepare(progress));
    display.end_preparation();
    let dataset = dataset.map_err(by_flag_of_error)?;
    describe(&dataset);
    data_notes::say(&dataset);
    Ok(Exit::Done)
}

fn tokenizer(args: &PrepareArgs) -> TokenizerConfig {
    let default = TokenizerConfig::default();
    match &args.tokenizer {
        TokenizerChoice::Bytes => TokenizerConfig { kind: TokenizerKind::Bytes, ..default },
        TokenizerChoice::Chars => TokenizerConfig { kind: TokenizerKind::Chars, ..default },
        TokenizerChoice::Bpe(vocab_size) => {
            TokenizerConfig { kind: TokenizerKind::Bpe, vocab_size: *vocab_size, ..default }
        }
        TokenizerChoice::File(file) => {
            TokenizerConfig { kind: TokenizerKind::File, file: Some(file.clone()), ..default }
        }
    }
}

/// A fault by the name that the command line has for a key.
fn by_flag(fault: String) -> String {
    const FLAGS: [(&str, &str); 10] = [
        ("data.input", "INPUT"),
        ("data.format = ", "--format "),
        ("data.format", "--format"),
        ("data.bad_records = ", "--bad-records "),
        ("data.chat_template = ", "--chat-template "),
        ("data.chat_template", "--chat-template"),
        ("data.val_fraction", "--val-fraction"),
        ("data.text_field", "--text-field"),
        ("tokenizer.file", "--tokenizer"),
        ("tokenizer.vocab_size", "--tokenizer bpe:VOCAB"),
    ];
    FLAGS.iter().fold(fault, |fault, (key, flag)| fault.replace(key, flag))
}

fn by_flag_of_error(error: DataError) -> anyhow::Error {
    anyhow::anyhow!(by_flag(error.to_string()))
}

fn describe(dataset: &Dataset) {
    let split = &dataset.manifest.split;
    let val = split.val.as_ref().map_or(0, |val| val.tokens);
    let bytes = split.train.bytes + split.val.as_ref().map_or(0, |val| val.bytes);
    tracing::info!(
        "{} of text · {} training tokens · {} validation tokens · vocabulary {}",
        si(bytes as f64, "B"),
        count(split.train.tokens),
        count(val),
        count(dataset.vocab_size() as u64)
    );
    if let Some(documents) = &dataset.manifest.documents {
        let (train, val) = (count(documents.train), count(documents.val));
        tracing::info!("{train} documents to train on · {val} to validate on");
        documents.steps.iter().for_each(|step| tracing::info!("{}", describe_step(step)));
    }
    for source in &dataset.manifest.mixture {
        let val = source.val.as_ref().map_or(0, |val| val.tokens);
        let (name, train) = (&source.name, count(source.train.tokens));
        tracing::info!("{name}: {train} training tokens · {} validation tokens", count(val));
    }
    if let (Some(chat), Some(learnt)) = (&dataset.chat, split.train.learnt) {
        let share = 100.0 * learnt as f64 / (split.train.tokens as f64).max(1.0);
        tracing::info!(
            "chat template {} · {} training tokens learnt ({share:.0} %)",
            chat.name(),
            count(learnt)
        );
    }
    tracing::info!("{}", dataset.dir.display());
}

/// The mixture that a configuration describes.
fn mixture(path: &Path) -> anyhow::Result<Mixture> {
    let mixture = mixture_in(path).map_err(|faults| BadUsage { faults })?;
    if mixture.is_empty() {
        let said = format!(
            "--mixture {}: has no [[data.mixture]]; give each source one, with name and path",
            path.display()
        );
        return Err(BadUsage::new(said).into());
    }
    Ok(mixture)
}

/// What a step took in and let out.
fn describe_step(step: &StepManifest) -> String {
    let StepManifest { name, rule, documents_in, documents_out, bytes_in, bytes_out, found } = step;
    let found: Vec<String> = found.iter().map(|(kind, n)| format!("{} {kind}", count(*n))).collect();
    let found = if found.is_empty() { String::new() } else { format!(" · found: {}", found.join(", ")) };
    format!(
        "{name} ({rule}): {} of {} documents · {} of {}{found}",
        count(*documents_out),
        count(*documents_in),
        si(*bytes_out as f64, "B"),
        si(*bytes_in as f64, "B")
    )
}

/// What to prepare: the files named, or those of a corpus that is fetched.
fn data(args: &PrepareArgs, display: &mut Display) -> anyhow::Result<DataConfig> {
    let named = DataConfig {
        input: args.input.clone(),
        mixture: args.mixture.as_deref().map(mixture).transpose()?.unwrap_or_default(),
        val_fraction: args.val_fraction,
        text_field: args.text_field.clone(),
        format: args.format,
        bad_records: args.bad_records,
        chat_template: args.chat_template.clone(),
        ..DataConfig::default()
    };
    let given = data_with(named, &args.set).map_err(|faults| BadUsage { faults })?;
    let Some(name) = &args.dataset else { return Ok(given) };
    let known = catalog::dataset(name).map_err(|error| BadUsage::new(error.to_string()))?;
    tracing::info!("{} · licence {} · {}", known.title, known.licence, known.homepage);
    let fetched = fetch(name, &given.cache_root()?, &mut |progress| display.fetch(&progress));
    display.end_preparation();
    Ok(fetched?.data_config(&given))
}
