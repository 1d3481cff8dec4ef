//! `wattle generate`: text from a checkpoint.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};
use wattle_data::{TextStream, Tokenizer};
use wattle_meter::WindowEnergy;
use wattle_model::generate::{ByModel, Decoder, GenerateOptions, Sampling, Step, Texts};
use wattle_model::{DecoderOptions, ModelError};
use wattle_ops::board::{Board, Elem};
use wattle_report::words::describe::describe_window;
use wattle_report::words::quantity::{count, duration, si};
use wattle_runlog::Seconds;
use wattle_session::checkpoint::OpenCheckpoint;
use wattle_session::memory::Need;
use wattle_session::metered::Metered;
use wattle_session::need;
use wattle_train::device::ChosenDevice;

use crate::args::GenerateArgs;
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_line, print_raw};
use crate::threads::set_threads;

/// How many tokens `--explain` shows a step.
const N_EXPLAINED: usize = 5;
/// Most tokens of prompts that go through a board's engine in one pass.
const ROWS_AT_ONCE: usize = 128;
/// Stands between one text and the next.
const BETWEEN_TEXTS: &str = "\n---\n";

/// Generates text.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let sampling =
        Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut faults = sampling.faults();
    faults.extend(faults_of(args));
    if !faults.is_empty() {
        return Err(BadUsage { faults }.into());
    }
    set_threads(0);
    let device = args.device.open()?;
    let board = device.board()?;
    let home = device.home_of_parameters(board.as_ref());
    let (home, adapter) = (home.as_ref().unwrap_or(&device), args.adapter.as_deref());
    let checkpoint = OpenCheckpoint::open(&args.checkpoint, adapter, home)?;
    let tokenizer = &checkpoint.tokenizer;
    let options = GenerateOptions {
        sampling,
        max_tokens: args.max_tokens,
        end_of_text: tokenizer.end_of_text(),
        n_allowed: tokenizer.vocab_size(),
        n_likeliest: if args.explain { N_EXPLAINED } else { 0 },
    };
    let prompts = prompts(args, tokenizer);
    let ids = prompts.iter().map(|prompt| tokenizer.encode(prompt)).collect::<Result<Vec<_>, _>>();
    let ids = ids.context("--prompt")?;
    let decoder = decoder(args, &checkpoint, &device, board, &ids)?;
    let metered = Metered::start(&device.compute);
    let mut texts = Timed::start(Texts::new(decoder, &ids, options).map_err(bad_usage)?);
    if args.json {
        let written = collect(&mut texts, tokenizer, &prompts, args.max_tokens)?;
        print_line(&format!("{:#}", report(args, &prompts, &written, &texts, metered.finish().as_ref())))?;
        return Ok(Exit::Done);
    }
    match args.explain {
        true => explain(&mut texts, tokenizer)?,
        false => write(&mut texts, tokenizer, &prompts, args)?,
    }
    let mut parts = vec![
        format!("{} tokens", count(texts.n_tokens)),
        duration(texts.time()),
        si(texts.n_tokens as f64 / texts.time().get(), "tokens/s"),
    ];
    let window = metered.finish().filter(|_| texts.n_tokens > 0);
    parts.extend(window.map(|window| describe_window(&window, texts.n_tokens)));
    tracing::info!("{}", parts.join(" · "));
    tracing::info!("{}{}", texts.texts.describe(), texts.after_the_first());
    Ok(Exit::Done)
}

/// What is wrong with flags, a sentence each.
fn faults_of(args: &GenerateArgs) -> Vec<String> {
    let mut faults = Vec::new();
    if args.batch == Some(0) {
        faults.push("--batch 0: expected at least 1; leave it out to generate all texts at once".to_owned());
    }
    if args.explain && args.prompt.len() > 1 {
        faults.push(format!("--explain shows one text: give one --prompt, not {}", args.prompt.len()));
    }
    faults
}

/// What predicts one text of at most `n_tokens`.
pub(super) fn decoder_of_one<'a>(
    args: &GenerateArgs,
    checkpoint: &'a OpenCheckpoint,
    device: &ChosenDevice,
    board: Option<Arc<dyn Board>>,
    n_tokens: usize,
) -> anyhow::Result<Box<dyn Decoder + 'a>> {
    decoder(args, checkpoint, device, board, &[vec![0; n_tokens]])
}

/// What predicts: the board's explicit engine where there is a board, else the model's own operations.
fn decoder<'a>(
    args: &GenerateArgs,
    checkpoint: &'a OpenCheckpoint,
    device: &ChosenDevice,
    board: Option<Arc<dyn Board>>,
    prompts: &[Vec<u32>],
) -> anyhow::Result<Box<dyn Decoder + 'a>> {
    let OpenCheckpoint { model, config, .. } = checkpoint;
    let n_slots = args.batch.unwrap_or(prompts.len()).min(prompts.len());
    let n_prompt = prompts.iter().map(Vec::len).max().unwrap_or_default();
    let dtype = args.dtype.into();
    if let (Some(board), Some(elem)) = (board, Elem::of(dtype)) {
        let room = n_prompt.max(1).saturating_add(args.max_tokens);
        let options = DecoderOptions { n_slots, room, most_rows: ROWS_AT_ONCE, elem };
        if let Some(decoder) = model.decoder(board, options)? {
            return Ok(Box::new(decoder));
        }
    }
    if device.device.is_cpu() {
        let of_one = need::generation(config, config.vocab_size, n_prompt, args.max_tokens);
        of_all(of_one, n_slots).check()?;
    }
    Ok(Box::new(ByModel::new(model.as_ref(), n_slots, dtype)))
}

/// What `n` texts at once need, each as much as one.
fn of_all(of_one: Need, n: usize) -> Need {
    if n == 1 {
        return of_one;
    }
    let Need { what, bytes, parts, remedy } = of_one;
    Need {
        what,
        bytes: bytes.saturating_mul(n as u64),
        parts: format!("{n} texts at once, of each {parts}"),
        remedy: format!("lower --batch {n}, or {remedy}"),
    }
}

/// What the flags ask for and the model cannot do is bad usage; anything else is an error.
pub(super) fn bad_usage(error: ModelError) -> anyhow::Error {
    match error {
        ModelError::Generate { faults } => BadUsage { faults }.into(),
        error => error.into(),
    }
}

/// The texts to go on from. Without one: nothing, if the tokenizer has a token that texts begin after; else a
/// line end, as nanoGPT's sampling.
fn prompts(args: &GenerateArgs, tokenizer: &Tokenizer) -> Vec<String> {
    match args.prompt.as_slice() {
        [] if tokenizer.end_of_text().is_some() => vec![String::new()],
        [] => vec!["\n".to_owned()],
        prompts => prompts.to_vec(),
    }
}

/// Texts in the making, and when their tokens came.
struct Timed<'a> {
    texts: Texts<'a>,
    started: Instant,
    n_tokens: u64,
    /// When the first tokens of the first texts were there, and how many.
    first: Option<(Seconds, u64)>,
    /// When the last were.
    last: Seconds,
}

impl<'a> Timed<'a> {
    fn start(texts: Texts<'a>) -> Self {
        Self { texts, started: Instant::now(), n_tokens: 0, first: None, last: Seconds(0.0) }
    }

    /// Until the last tokens, or until now if there were none.
    fn time(&self) -> Seconds {
        if self.first.is_some() { self.last } else { Seconds(self.started.elapsed().as_secs_f64()) }
    }

    /// Tokens a second after the first, which wait for the prompts and for what is loaded on first use.
    fn rate_after_the_first(&self) -> Option<f64> {
        let (first, n_first) = self.first.filter(|(_, n_first)| self.n_tokens > *n_first)?;
        Some((self.n_tokens - n_first) as f64 / (self.last.get() - first.get()))
    }

    fn after_the_first(&self) -> String {
        match self.first.zip(self.rate_after_the_first()) {
            Some(((first, _), rate)) => {
                format!(" · first token after {}, then {}", duration(first), si(rate, "tokens/s"))
            }
            None => String::new(),
        }
    }
}

impl Iterator for Timed<'_> {
    type Item = Result<Vec<(usize, Step)>, ModelError>;

    fn next(&mut self) -> Option<Self::Item> {
        let steps = self.texts.next()?;
        let n = steps.as_ref().map_or(0, |steps| steps.len() as u64);
        self.last = Seconds(self.started.elapsed().as_secs_f64());
        self.n_tokens += n;
        self.first.get_or_insert((self.last, n));
        Some(steps)
    }
}

/// A text that is written, or waits for the one before it to end.
struct Written<'t> {
    /// What its tokens stand for; `None` once it is over.
    stream: Option<TextStream<'t>>,
    n_tokens: usize,
    waiting: String,
}

/// All texts, without their prompts.
fn collect(
    texts: &mut Timed<'_>,
    tokenizer: &Tokenizer,
    prompts: &[String],
    max_tokens: usize,
) -> anyhow::Result<Vec<String>> {
    let mut written: Vec<_> = prompts.iter().map(|_| Written::new(tokenizer, String::new())).collect();
    for steps in texts {
        for (text_idx, Step { token, .. }) in steps? {
            written[text_idx].add(token, tokenizer.end_of_text() == Some(token), max_tokens)?;
        }
    }
    Ok(written.into_iter().map(|text| text.waiting).collect())
}

fn report(
    args: &GenerateArgs,
    prompts: &[String],
    written: &[String],
    texts: &Timed<'_>,
    energy: Option<&WindowEnergy>,
) -> Value {
    let of = |(prompt, text): (&String, &String)| json!({ "prompt": prompt, "text": text });
    json!({
        "schema": "wattle.generation/1",
        "checkpoint": args.checkpoint,
        "texts": prompts.iter().zip(written).map(of).collect::<Vec<_>>(),
        "tokens": texts.n_tokens,
        "seconds": texts.time(),
        "first_token_s": texts.first.map(|(first, _)| first),
        "tokens_per_s": texts.rate_after_the_first(),
        "engine": texts.texts.describe(),
        "energy_j": energy.map(|window| window.energy),
        "energy_uncertainty_j": energy.map(|window| window.uncertainty),
        "measured_fraction": energy.map(|window| window.measured_fraction),
        "unmetered_devices": energy.map(|window| &window.unmetered_devices),
    })
}

/// Writes prompts and texts one after the other, each as it becomes certain and the ones before it have ended.
fn write(
    texts: &mut Timed<'_>,
    tokenizer: &Tokenizer,
    prompts: &[String],
    args: &GenerateArgs,
) -> anyhow::Result<()> {
    let print = if args.raw { print_raw } else { print };
    let mut written: Vec<_> = prompts.iter().map(|prompt| Written::new(tokenizer, prompt.clone())).collect();
    let mut current = 0;
    print(&std::mem::take(&mut written[0].waiting))?;
    for steps in texts {
        for (text_idx, Step { token, .. }) in steps? {
            let ends = tokenizer.end_of_text() == Some(token);
            written[text_idx].add(token, ends, args.max_tokens)?;
        }
        while let Some(text) = written.get_mut(current) {
            print(&std::mem::take(&mut text.waiting))?;
            if text.stream.is_some() {
                break;
            }
            current += 1;
            print(if current < prompts.len() { BETWEEN_TEXTS } else { "\n" })?;
        }
    }
    // Without tokens, texts are their prompts.
    if args.max_tokens == 0 {
        let rest: Vec<_> = written.into_iter().map(|text| text.waiting).collect();
        print(&(rest.join(BETWEEN_TEXTS) + "\n"))?;
    }
    Ok(())
}

impl<'t> Written<'t> {
    /// A text that begins with `prompt`.
    fn new(tokenizer: &'t Tokenizer, prompt: String) -> Self {
        Self { stream: Some(tokenizer.stream()), n_tokens: 0, waiting: prompt }
    }

    fn add(&mut self, token: u32, ends: bool, max_tokens: usize) -> anyhow::Result<()> {
        let mut stream = self.stream.take().expect("a text that is over has no more tokens");
        self.n_tokens += 1;
        if !ends {
            self.waiting += &stream.push(token)?;
        }
        if ends || self.n_tokens == max_tokens {
            self.waiting += &stream.finish()?;
        } else {
            self.stream = Some(stream);
        }
        Ok(())
    }
}

/// Writes a line a token: the one taken, its probability, and the likeliest ones.
fn explain(texts: &mut Timed<'_>, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    print_line(&format!("{:<16} {:>6}  likeliest, as the model predicts them", "token", "p"))?;
    for steps in texts {
        let Some((_, Step { token, probability: Some(probability), likeliest })) = steps?.pop() else {
            unreachable!("one text is explained, whose probabilities were asked for");
        };
        let others: Vec<String> = likeliest
            .iter()
            .map(|&(other, p)| Ok(format!("{} {}", quoted(tokenizer, other)?, percent(p))))
            .collect::<anyhow::Result<_>>()?;
        let line = others.join("  ");
        print_line(&format!("{:<16} {:>6}  {line}", quoted(tokenizer, token)?, percent(probability)))?;
    }
    Ok(())
}

fn quoted(tokenizer: &Tokenizer, token: u32) -> anyhow::Result<String> {
    Ok(format!("{:?}", tokenizer.decode(&[token])?))
}

fn percent(probability: f64) -> String {
    format!("{:.1} %", probability * 100.0)
}
