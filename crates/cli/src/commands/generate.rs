//! `wattle generate`: text from a checkpoint.

use std::time::Instant;

use anyhow::Context;
use candle_core::DType;
use wattle_data::Tokenizer;
use wattle_model::ModelError;
use wattle_model::generate::{GenerateOptions, Generator, Sampling, Step};
use wattle_report::words::describe::describe_window;
use wattle_report::words::quantity::{count, duration, si};
use wattle_runlog::Seconds;
use wattle_session::checkpoint::OpenCheckpoint;
use wattle_session::metered::Metered;
use wattle_session::need;

use crate::args::GenerateArgs;
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_line, print_raw};
use crate::threads::set_threads;

/// How many tokens `--explain` shows a step.
const N_EXPLAINED: usize = 5;

/// Generates text.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let sampling =
        Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let faults = sampling.faults();
    if !faults.is_empty() {
        return Err(BadUsage { faults }.into());
    }
    set_threads(0);
    let device = args.device.open()?;
    let checkpoint = OpenCheckpoint::open(&args.checkpoint, &device)?;
    let OpenCheckpoint { model, tokenizer, .. } = &checkpoint;
    let options = GenerateOptions {
        sampling,
        max_tokens: args.max_tokens,
        end_of_text: tokenizer.end_of_text(),
        n_allowed: tokenizer.vocab_size(),
        n_likeliest: if args.explain { N_EXPLAINED } else { 0 },
        dtype: DType::F32,
    };
    let prompt = prompt(args, tokenizer);
    let prompt_ids = tokenizer.encode(prompt).context("--prompt")?;
    if device.device.is_cpu() {
        let config = &checkpoint.config;
        need::generation(config, config.vocab_size, prompt_ids.len(), args.max_tokens).check()?;
    }
    let metered = Metered::start(&device.compute);
    let started = Instant::now();
    let mut generator = Generator::new(model.as_ref(), &prompt_ids, options).map_err(bad_usage)?;
    let written = match args.explain {
        true => explain(&mut generator, tokenizer),
        false => stream(&mut generator, tokenizer, prompt, args.raw),
    };
    let n_tokens = written?;
    let time = Seconds(started.elapsed().as_secs_f64());
    let mut parts = vec![
        format!("{} tokens", count(n_tokens)),
        duration(time),
        si(n_tokens as f64 / time.get(), "tokens/s"),
    ];
    let window = metered.finish().filter(|_| n_tokens > 0);
    parts.extend(window.map(|window| describe_window(&window, n_tokens)));
    tracing::info!("{}", parts.join(" · "));
    Ok(Exit::Done)
}

/// What the flags ask for and the model cannot do is bad usage; anything else is an error.
fn bad_usage(error: ModelError) -> anyhow::Error {
    match error {
        ModelError::Generate { faults } => BadUsage { faults }.into(),
        error => error.into(),
    }
}

/// The text to go on from. Without one: nothing, if the tokenizer has a token that texts begin after; else a
/// line end, as nanoGPT's sampling.
fn prompt<'a>(args: &'a GenerateArgs, tokenizer: &Tokenizer) -> &'a str {
    match &args.prompt {
        Some(prompt) => prompt,
        None if tokenizer.end_of_text().is_some() => "",
        None => "\n",
    }
}

/// Writes the prompt, then text as it becomes certain. Returns the number of tokens.
fn stream(
    generator: &mut Generator<'_>,
    tokenizer: &Tokenizer,
    prompt: &str,
    is_raw: bool,
) -> anyhow::Result<u64> {
    let print = if is_raw { print_raw } else { print };
    print(prompt)?;
    let mut text = tokenizer.stream();
    let mut n_tokens = 0;
    for step in generator {
        let Step { token, .. } = step?;
        n_tokens += 1;
        if tokenizer.end_of_text() == Some(token) {
            break;
        }
        print(&text.push(token)?)?;
    }
    print(&(text.finish()? + "\n"))?;
    Ok(n_tokens)
}

/// Writes a line a token: the one taken, its probability, and the likeliest ones.
fn explain(generator: &mut Generator<'_>, tokenizer: &Tokenizer) -> anyhow::Result<u64> {
    print_line(&format!("{:<16} {:>6}  likeliest, as the model predicts them", "token", "p"))?;
    let mut n_tokens = 0;
    for step in generator {
        let Step { token, probability, likeliest } = step?;
        n_tokens += 1;
        let others: Vec<String> = likeliest
            .iter()
            .map(|&(other, p)| Ok(format!("{} {}", quoted(tokenizer, other)?, percent(p))))
            .collect::<anyhow::Result<_>>()?;
        let line = others.join("  ");
        print_line(&format!("{:<16} {:>6}  {line}", quoted(tokenizer, token)?, percent(probability)))?;
    }
    Ok(n_tokens)
}

fn quoted(tokenizer: &Tokenizer, token: u32) -> anyhow::Result<String> {
    Ok(format!("{:?}", tokenizer.decode(&[token])?))
}

fn percent(probability: f64) -> String {
    format!("{:.1} %", probability * 100.0)
}
