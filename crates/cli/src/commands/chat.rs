//! `wattle generate --chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, stdin};
use std::time::Instant;

use anyhow::Context;
use wattle_data::{ChatTemplate, Message, Tokenizer};
use wattle_model::generate::{Dialogue, GenerateOptions, Sampling};
use wattle_report::words::describe::describe_window;
use wattle_report::words::quantity::{count, duration, si};
use wattle_runlog::Seconds;
use wattle_session::checkpoint::OpenCheckpoint;
use wattle_session::metered::Metered;

use super::generate::{bad_usage, decoder_of_one};
use crate::args::GenerateArgs;
use crate::exit::{BadUsage, Exit};
use crate::terminal::{print, print_raw};
use crate::threads::set_threads;

/// Stands before what is typed, on a terminal.
const PROMPT: &str = "> ";

/// Talks until standard input ends.
pub fn run(args: &GenerateArgs) -> anyhow::Result<Exit> {
    let sampling =
        Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    if !sampling.faults().is_empty() {
        return Err(BadUsage { faults: sampling.faults() }.into());
    }
    set_threads(0);
    let device = args.device.open()?;
    let board = device.board()?;
    let home = device.home_of_parameters(board.as_ref());
    let (home, adapter) = (home.as_ref().unwrap_or(&device), args.adapter.as_deref());
    let checkpoint = OpenCheckpoint::open(&args.checkpoint, adapter, home)?;
    let template = ChatTemplate::of_dir(&checkpoint.path)?.with_context(|| {
        format!(
            "{} has no chat template: neither chat_template.jinja nor one in tokenizer_config.json; put the model's \
             there, or train on conversations, whose checkpoints have one",
            checkpoint.path.display()
        )
    })?;
    let context = checkpoint.model.context();
    let decoder = decoder_of_one(args, &checkpoint, &device, board, context)?;
    let options = GenerateOptions {
        sampling,
        max_tokens: args.max_tokens,
        end_of_text: None,
        n_allowed: checkpoint.tokenizer.vocab_size(),
        n_likeliest: 0,
    };
    let metered = Metered::start(&device.compute);
    let mut chat = Chat {
        dialogue: Dialogue::new(decoder, options).map_err(bad_usage)?,
        ends: ends(&checkpoint, &template)?,
        tokenizer: &checkpoint.tokenizer,
        template,
        context,
        messages: Vec::new(),
        said: String::new(),
        n_tokens: 0,
        n_reused: 0,
    };
    chat.messages.extend(args.system.iter().map(|text| message("system", text)));
    let seconds = chat.talk(args)?;
    let mut parts = vec![
        format!("{} tokens", count(chat.n_tokens)),
        duration(seconds),
        si(chat.n_tokens as f64 / seconds.get().max(f64::MIN_POSITIVE), "tokens/s"),
        format!("{} tokens of the conversation not read again", count(chat.n_reused)),
    ];
    let window = metered.finish().filter(|_| chat.n_tokens > 0);
    parts.extend(window.map(|window| describe_window(&window, chat.n_tokens)));
    tracing::info!("{}", parts.join(" · "));
    tracing::info!("{}", chat.dialogue.describe());
    Ok(Exit::Done)
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// Tokens that end an answer: what the model's own files say, what the template puts after one, the end of text.
fn ends(checkpoint: &OpenCheckpoint, template: &ChatTemplate) -> anyhow::Result<Vec<u32>> {
    let tokenizer = &checkpoint.tokenizer;
    let mut ends: Vec<u32> = template.end_of_turn(tokenizer)?.into_iter().collect();
    ends.extend(tokenizer.end_of_text());
    let path = checkpoint.path.join("generation_config.json");
    if path.is_file() {
        let json = wattle_files::read(&path, wattle_files::SMALL)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let config: serde_json::Value =
            serde_json::from_slice(&json).with_context(|| format!("{} is not JSON", path.display()))?;
        let ids = &config["eos_token_id"];
        let listed = ids.as_array().into_iter().flatten().chain(Some(ids));
        ends.extend(listed.filter_map(|id| u32::try_from(id.as_u64()?).ok()));
    }
    Ok(ends)
}

/// A conversation under way.
struct Chat<'a> {
    dialogue: Dialogue<'a>,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    ends: Vec<u32>,
    context: usize,
    messages: Vec<Message>,
    /// The text of the tokens so far.
    said: String,
    n_tokens: u64,
    n_reused: u64,
}

impl Chat<'_> {
    /// Answers each line of standard input. Returns for how long it generated.
    fn talk(&mut self, args: &GenerateArgs) -> anyhow::Result<Seconds> {
        let is_typed = stdin().is_terminal();
        let mut seconds = 0.0;
        if is_typed {
            print(PROMPT)?;
        }
        for line in stdin().lock().lines() {
            let line = line.context("standard input is not text in UTF-8")?;
            if !line.trim().is_empty() {
                let began = Instant::now();
                self.answer(line.trim(), args)?;
                seconds += began.elapsed().as_secs_f64();
            }
            if is_typed {
                print(PROMPT)?;
            }
        }
        if is_typed {
            print("\n")?;
        }
        Ok(Seconds(seconds))
    }

    /// Answers a message, and remembers both.
    fn answer(&mut self, line: &str, args: &GenerateArgs) -> anyhow::Result<()> {
        self.messages.push(message("user", line));
        let tokens = self.prompt(args.max_tokens)?;
        self.n_reused += self.dialogue.go_on_from(&tokens).map_err(bad_usage)? as u64;
        let print = if args.raw { print_raw } else { print };
        let (mut stream, mut answer) = (self.tokenizer.stream(), String::new());
        for _ in 0..args.max_tokens {
            let token = self.dialogue.step()?.token;
            self.n_tokens += 1;
            if self.ends.contains(&token) {
                break;
            }
            let piece = stream.push(token)?;
            // Some templates have the space before an answer as its part.
            print(if answer.trim().is_empty() { piece.trim_start() } else { &piece })?;
            answer += &piece;
        }
        let rest = stream.finish()?;
        print(&(rest.clone() + "\n"))?;
        answer += &rest;
        self.said += &answer;
        self.messages.push(message("assistant", answer.strip_prefix(' ').unwrap_or(&answer)));
        Ok(())
    }

    /// The tokens of the conversation up to the answer. Where the text only grew, what was said is not cut into tokens
    /// anew, so that the model has seen it. The oldest exchanges are left out where the model's context does not hold all.
    fn prompt(&mut self, max_tokens: usize) -> anyhow::Result<Vec<u32>> {
        let room = self.context.saturating_sub(max_tokens.min(self.context / 2));
        loop {
            let text = self.template.prompt(&self.messages)?;
            let tokens = match text.strip_prefix(self.said.as_str()).filter(|_| !self.said.is_empty()) {
                Some(new) => self.grown(new)?,
                None => self.tokenizer.encode(&text)?,
            };
            let first = self.messages.iter().position(|message| message.role == "user").unwrap_or(0);
            if tokens.len() <= room || first + 2 >= self.messages.len() {
                self.said = text;
                return Ok(tokens);
            }
            tracing::info!("the oldest exchange is left out: the model's context is {} tokens", self.context);
            self.messages.drain(first..first + 2);
            self.said.clear();
        }
    }

    /// The tokens so far with those of `new`, which begins with what ended the last answer.
    fn grown(&self, new: &str) -> anyhow::Result<Vec<u32>> {
        let mut tokens = self.dialogue.tokens();
        // What ended the answer is a token already.
        if tokens.last().is_some_and(|last| self.ends.contains(last)) {
            tokens.pop();
        }
        tokens.extend(self.tokenizer.encode(new)?);
        Ok(tokens)
    }
}
