//! `wattle evaluate`: loss on a text, exactly; scores on tasks are `tasks`'.

use std::path::Path;

use anyhow::{Context, bail};
use candle_core::DType;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use wattle_data::{
    DataConfig, Dataset, Manifest, Split, SplitManifest, TokenStore, Tokenizer, TokenizerConfig,
    TokenizerKind, prepare_into,
};
use wattle_meter::WindowEnergy;
use wattle_model::LanguageModel;
use wattle_report::words::describe::describe_window;
use wattle_report::words::quantity::count;
use wattle_runlog::event::SourceEvaluation;
use wattle_session::checkpoint::OpenCheckpoint;
use wattle_session::data_notes;
use wattle_session::metered::Metered;
use wattle_session::need;
use wattle_train::evaluate::{EvaluateOptions, Evaluation, evaluate_by_best};

use crate::args::EvaluateArgs;
use crate::commands::tasks;
use crate::exit::Exit;
use crate::terminal::{print, print_line};
use crate::threads::set_threads;

/// A batch is as many windows as come to so many tokens. Without an explicit engine, it is also how many rows of
/// logits are in memory at once.
const TOKENS_AT_ONCE: usize = 4096;

/// What is evaluated on.
struct Held {
    dataset: Dataset,
    split: Split,
    /// The folder that a text was prepared into, which goes when this does.
    _scratch: Option<tempfile::TempDir>,
}

/// Evaluates a checkpoint.
pub fn run(args: &EvaluateArgs, bars: &MultiProgress) -> anyhow::Result<Exit> {
    set_threads(0);
    if !args.tasks.is_empty() {
        return tasks::run(args, &bars.add(ProgressBar::new(0).with_style(bar_style())));
    }
    let device = args.device.open()?;
    let board = device.board()?;
    let metered = Metered::start(&device.compute);
    let home = device.home_of_parameters(board.as_ref());
    let (home, adapter) = (home.as_ref().unwrap_or(&device), args.adapter.as_deref());
    let checkpoint = OpenCheckpoint::open(&args.checkpoint, adapter, home)?;
    let held = match (&args.data, &args.text) {
        (Some(dir), _) => prepared(dir, args, &checkpoint.tokenizer)?,
        (None, Some(text)) => tokenized(text, &checkpoint.tokenizer)?,
        (None, None) => unreachable!("the command line asks for one of them"),
    };
    data_notes::say(&held.dataset);
    let stores = held.stores()?;
    let contexts = stores.iter().map(|store| store.evaluation_context(checkpoint.model.context()));
    let context = contexts.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(1);
    let batch_size = (TOKENS_AT_ONCE / context).max(1);
    let options = EvaluateOptions { batch_size, max_batches: 0, dtype: args.dtype.into() };
    if device.device.is_cpu() {
        let config = &checkpoint.config;
        need::evaluation(config, config.vocab_size, options.batch_size, context).check()?;
    }
    let bar = bars.add(ProgressBar::new(0).with_style(bar_style()));
    let mut progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let model = checkpoint.model.as_ref();
    let (mut evaluations, mut engine) = (Vec::new(), String::new());
    for store in stores {
        let (evaluation, by) =
            evaluate_by_best(model, store, options, &device.device, board.clone(), &mut progress)?;
        evaluations.push(evaluation);
        engine = by;
    }
    let evaluation = Evaluation::of_parts(&evaluations);
    let sources = held.sources(&evaluations);
    bar.finish_and_clear();
    if !evaluation.loss.is_finite() {
        bail!("{}: the loss is not finite: {}", args.checkpoint.display(), why_not_finite(model)?);
    }
    let energy = metered.finish();
    match args.json {
        true => {
            let mut report = report(args, &checkpoint, &held, context, &evaluation, &engine, energy.as_ref());
            if !sources.is_empty() {
                report["sources"] = json!(sources);
            }
            print_line(&format!("{report:#}"))?;
        }
        false => {
            print(&describe(&evaluation, held.manifest(), &engine, energy.as_ref()))?;
            print(&describe_sources(&sources))?;
        }
    }
    Ok(Exit::Done)
}

/// What makes a model's loss infinite or NaN, and what to do.
fn why_not_finite(model: &dyn LanguageModel) -> anyhow::Result<String> {
    for (name, weight) in model.weights()? {
        let values: Vec<f32> = weight.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        let not_finite = values.iter().filter(|value| !value.is_finite()).count();
        if not_finite > 0 {
            let n = values.len();
            return Ok(format!(
                "{not_finite} of {n} weights in {name} are NaN or infinite; use another checkpoint"
            ));
        }
    }
    Ok("its weights are finite, so its activations overflow; use another checkpoint".to_owned())
}

impl Held {
    /// The split, of a mixture each source's part.
    fn stores(&self) -> anyhow::Result<Vec<&TokenStore>> {
        let Dataset { train, val, mixture, .. } = &self.dataset;
        match self.split {
            Split::Train if mixture.is_empty() => Ok(vec![train]),
            Split::Train => Ok(mixture.iter().map(|source| &source.train).collect()),
            Split::Val if val.is_none() => bail!(no_validation(&self.dataset)),
            Split::Val => Ok(self.dataset.val_stores().collect()),
        }
    }

    /// Of a mixture: what was found of each source, in the order of [`Self::stores`].
    fn sources(&self, evaluations: &[Evaluation]) -> Vec<SourceEvaluation> {
        let is_train = self.split == Split::Train;
        let Manifest { mixture, .. } = &self.dataset.manifest;
        let parts = mixture.iter().filter_map(|source| match is_train {
            true => Some((&source.name, &source.train)),
            false => Some((&source.name, source.val.as_ref()?)),
        });
        parts
            .zip(evaluations)
            .map(|((name, split), evaluation)| evaluation.of_source(name, Some(split)))
            .collect()
    }

    fn manifest(&self) -> &SplitManifest {
        let Manifest { split, .. } = &self.dataset.manifest;
        match self.split {
            Split::Train => &split.train,
            Split::Val => split.val.as_ref().expect("its tokens have been read"),
        }
    }
}

fn no_validation(dataset: &Dataset) -> String {
    format!("--data {}: has no validation split; use --split train", dataset.dir.display())
}

/// A prepared folder, if it speaks the model's tokens.
fn prepared(dir: &Path, args: &EvaluateArgs, tokenizer: &Tokenizer) -> anyhow::Result<Held> {
    let mut dataset = Dataset::open(dir)?;
    if !dataset.tokenizer.encodes_as(tokenizer) {
        bail!(
            "--data {}: was prepared with another tokenizer (sha256 {}) than the checkpoint's ({}); \
             prepare it with the checkpoint's tokenizer.json by wattle prepare --tokenizer, or use --text",
            dir.display(),
            dataset.tokenizer.sha256(),
            tokenizer.sha256()
        );
    }
    if !args.no_verify {
        dataset.verify(&mut |_| {})?;
    }
    Ok(Held { dataset, split: args.split.into(), _scratch: None })
}

/// A text, tokenized into a folder of its own for as long as it takes.
fn tokenized(text: &Path, tokenizer: &Tokenizer) -> anyhow::Result<Held> {
    let scratch = tempfile::tempdir().context("no room for tokens; set TMPDIR to a folder that has some")?;
    let file = scratch.path().join("tokenizer.json");
    tokenizer.save(&file)?;
    let data = DataConfig { input: vec![text.to_owned()], val_fraction: 0.0, ..DataConfig::default() };
    let by = TokenizerConfig { kind: TokenizerKind::File, file: Some(file), ..TokenizerConfig::default() };
    let dataset = prepare_into(&scratch.path().join("data"), &data, &by, &mut |_| {})
        .with_context(|| format!("--text {}", text.display()))?;
    Ok(Held { dataset, split: Split::Train, _scratch: Some(scratch) })
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:12} {bar:30} {percent:>3} %  {eta} left")
        .expect("a template of our own")
        .progress_chars("━╸─")
}

fn report(
    args: &EvaluateArgs,
    checkpoint: &OpenCheckpoint,
    held: &Held,
    window: usize,
    evaluation: &Evaluation,
    engine: &str,
    energy: Option<&WindowEnergy>,
) -> Value {
    json!({
        "schema": "wattle.evaluation/1",
        "checkpoint": checkpoint.path,
        "data": args.data,
        "split": args.data.is_some().then(|| held.split.name()),
        "text": args.text,
        "loss": evaluation.loss,
        "perplexity": evaluation.perplexity(),
        "bits_per_byte": evaluation.bits_per_byte(held.manifest()),
        "accuracy": evaluation.accuracy,
        "tokens": evaluation.tokens,
        "chars": held.manifest().chars,
        "lost_chars": held.manifest().lost_chars,
        "lost_share": held.manifest().lost_share(),
        "unknown_tokens": held.manifest().unknown_tokens,
        "unknown_share": held.manifest().unknown_share(),
        "context": checkpoint.model.context(),
        "window": window,
        "engine": engine,
        "energy_j": energy.map(|window| window.energy),
        "energy_uncertainty_j": energy.map(|window| window.uncertainty),
        "measured_fraction": energy.map(|window| window.measured_fraction),
        "unmetered_devices": energy.map(|window| &window.unmetered_devices),
    })
}

fn describe(
    evaluation: &Evaluation,
    split: &SplitManifest,
    engine: &str,
    energy: Option<&WindowEnergy>,
) -> String {
    let mut lines = vec![
        ("loss", format!("{:.4} nats a token", evaluation.loss)),
        ("perplexity", format!("{:.3}", evaluation.perplexity())),
        ("bits/byte", bits_per_byte(evaluation, split)),
        ("accuracy", format!("{:.1} % of next tokens right", evaluation.accuracy * 100.0)),
        ("tokens", count(evaluation.tokens)),
        ("engine", engine.to_owned()),
    ];
    let loss = data_notes::loss_of(std::iter::once(split)).and_then(|loss| loss.shares());
    lines.extend(loss.map(|shares| ("text lost", shares)));
    lines.extend(energy.map(|window| ("energy", describe_window(window, evaluation.tokens))));
    lines.into_iter().map(|(key, value)| format!("{key:<12} {value}\n")).collect()
}

/// A line for each source of a mixture.
fn describe_sources(sources: &[SourceEvaluation]) -> String {
    let line = |source: &SourceEvaluation| {
        let bits = source.bits_per_byte.map_or(String::new(), |bits| format!(" · {bits:.4} bits/byte"));
        let (loss, right) = (source.loss, source.accuracy * 100.0);
        format!(
            "{:<12} {loss:.4} nats a token{bits} · {right:.1} % right · {} tokens\n",
            source.name,
            count(source.tokens)
        )
    };
    sources.iter().map(line).collect()
}

fn bits_per_byte(evaluation: &Evaluation, split: &SplitManifest) -> String {
    match evaluation.bits_per_byte(split) {
        Some(bits) => format!("{bits:.4}"),
        None => "not stated: the tokens do not stand for all of the text".to_owned(),
    }
}
