//! `wattle show`: what a model sees of its data, and what of it is learnt.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use unicode_width::UnicodeWidthChar;
use wattle_data::{Dataset, EvalBatches, Split, TokenStore, Tokenizer};
use wattle_report::words::quantity::count;

use crate::args::ShowArgs;
use crate::config::{Sources, resolve_quietly};
use crate::exit::{BadUsage, Exit};
use crate::terminal::{escaped, is_coloured, print_line, print_raw};
use crate::threads::set_threads;

/// Tokens of an example of a prepared folder.
const CONTEXT: usize = 128;

/// Columns of a line of text, beside the sign of a line end.
const WIDTH: usize = 79;

/// Stand around what is learnt where there are no colours.
const BRACKETS: [&str; 2] = ["⟦", "⟧"];

/// Stands between packed documents.
const BOUND: &str = "┃";

/// A window of a split.
struct Example {
    /// Which window it is.
    idx: u64,
    /// What the model reads.
    inputs: Vec<u32>,
    /// What it is to predict.
    targets: Vec<u32>,
    /// Whether each target is learnt.
    mask: Vec<bool>,
    /// Of packed documents: where that of each token starts.
    documents: Option<Vec<u32>>,
    /// Tokens before the padding.
    filled: usize,
}

/// Shows examples.
pub fn run(args: &ShowArgs) -> anyhow::Result<Exit> {
    if args.context == Some(0) {
        return Err(BadUsage::new("--context 0: expected at least 1").into());
    }
    set_threads(0);
    let (dataset, own_context) = open(&args.dir)?;
    let split = Split::from(args.split);
    let store = match split {
        Split::Train => &dataset.train,
        Split::Val => dataset
            .val
            .as_ref()
            .with_context(|| format!("{} has no validation split; use --split train", args.dir.display()))?,
    };
    let context = store.evaluation_context(args.context.or(own_context).unwrap_or(CONTEXT))?;
    let n_windows = match store.is_packed() {
        true => EvalBatches::new(store, context, 1, 0)?.len() as u64,
        false => store.windows(context)?,
    };
    if !args.json {
        print_line(&head(&dataset, store, n_windows, context))?;
    }
    for idx in 0..n_windows.min(args.first) {
        let example = Example::read(store, context, idx)?;
        match args.json {
            true => print_line(&example.json(&dataset.tokenizer)?)?,
            false => print_raw(&example.drawn(&dataset.tokenizer, n_windows, is_coloured())?)?,
        }
    }
    Ok(Exit::Done)
}

/// The data of a prepared folder or of a run, and the run's context.
fn open(dir: &Path) -> anyhow::Result<(Dataset, Option<usize>)> {
    let config = dir.join("config.toml");
    if dir.join("dataset.json").is_file() || !config.is_file() {
        let dataset = Dataset::open(dir)
            .with_context(|| format!("{} is neither a prepared folder nor a run", dir.display()))?;
        return Ok((dataset, None));
    }
    let sources = Sources { file: Some(config), ..Sources::default() };
    let (config, _) = resolve_quietly(None, &sources).map_err(|faults| BadUsage { faults })?;
    let dataset = wattle_session::data::of_run(dir, &config, &mut ())?;
    Ok((dataset, Some(config.model.context)))
}

/// What all examples are of.
fn head(dataset: &Dataset, store: &TokenStore, n_windows: u64, context: usize) -> String {
    let template = dataset.chat.as_ref().map(|chat| format!(" · chat template {}", chat.name()));
    let learnt = if store.has_mask() { "" } else { ", all learnt" };
    let packed = if store.is_packed() { ", documents kept apart" } else { "" };
    format!(
        "{} · {} tokens{learnt} · {} windows of {context}{packed}{}",
        store.split(),
        count(store.len()),
        count(n_windows),
        template.unwrap_or_default()
    )
}

/// An example as `--json` writes it.
#[derive(Serialize)]
struct Line<'e> {
    tokens: &'e [u32],
    targets: &'e [u32],
    /// Of the targets: 1 where one is learnt.
    mask: Vec<u8>,
    /// Where the document of each token starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    documents: Option<&'e [u32]>,
    /// Tokens at the end that fill the window up.
    #[serde(skip_serializing_if = "Option::is_none")]
    padding: Option<usize>,
    text: String,
}

impl Example {
    fn read(store: &TokenStore, context: usize, idx: u64) -> anyhow::Result<Self> {
        if store.is_packed() {
            return Self::read_packed(store, context, idx);
        }
        let start = idx * context as u64;
        let (mut ids, mut mask) = (vec![0; context + 1], vec![false; context]);
        store.read(start, &mut ids)?;
        store.read_mask(start + 1, &mut mask);
        let targets = ids[1..].to_vec();
        ids.truncate(context);
        Ok(Self { idx, inputs: ids, targets, mask, documents: None, filled: context })
    }

    fn read_packed(store: &TokenStore, context: usize, idx: u64) -> anyhow::Result<Self> {
        let mut windows = EvalBatches::new(store, context, 1, 0)?;
        let window = windows.nth(usize::try_from(idx)?).context("there are fewer windows")??;
        let (filled, weights) = (window.filled(0), window.weights.unwrap_or_default());
        let mask = weights.iter().map(|&weight| weight > 0.0).collect();
        let (inputs, targets, documents) = (window.inputs, window.targets, window.documents);
        Ok(Self { idx, inputs, targets, mask, documents, filled })
    }

    fn json(&self, tokenizer: &Tokenizer) -> anyhow::Result<String> {
        let Self { inputs: tokens, targets, .. } = self;
        let line = Line {
            tokens,
            targets,
            mask: self.mask.iter().map(|&is_learnt| u8::from(is_learnt)).collect(),
            documents: self.documents.as_deref(),
            padding: self.documents.as_ref().map(|_| tokens.len() - self.filled),
            text: tokenizer.decode(&tokens[..self.filled])?,
        };
        Ok(serde_json::to_string(&line)?)
    }

    fn drawn(&self, tokenizer: &Tokenizer, n_windows: u64, colours: bool) -> anyhow::Result<String> {
        let n_learnt = self.mask.iter().filter(|&&is_learnt| is_learnt).count() as u64;
        let what = match n_learnt {
            0 => "nothing learnt, so left out of training".to_owned(),
            n => format!("{} of {} targets learnt", count(n), count(self.mask.len() as u64)),
        };
        let (n_documents, n_padding) = (self.starts().len() as u64, (self.mask.len() - self.filled) as u64);
        let packed = match self.documents {
            None => String::new(),
            Some(_) => format!(" · {} documents, {} tokens of padding", count(n_documents), count(n_padding)),
        };
        let drawn = drawn(&self.pieces(tokenizer)?, colours);
        Ok(format!("\n— {} of {} · {what}{packed}\n{drawn}\n", self.idx + 1, count(n_windows)))
    }

    /// Where its documents start, of one that is not packed the only one.
    fn starts(&self) -> Vec<usize> {
        match &self.documents {
            None => vec![0],
            Some(documents) => (0..self.filled).filter(|&row| documents[row] as usize == row).collect(),
        }
    }

    /// The text of each token, and whether that is learnt: of each document what the model reads first, then targets.
    fn pieces(&self, tokenizer: &Tokenizer) -> anyhow::Result<Vec<(String, bool)>> {
        let mut pieces = Vec::with_capacity(self.inputs.len() + 1);
        let starts = self.starts();
        let ends = starts.iter().skip(1).copied().chain([self.filled]);
        for (&start, end) in starts.iter().zip(ends) {
            if start > 0 {
                pieces.push((BOUND.to_owned(), false));
            }
            let mut stream = tokenizer.stream();
            pieces.push((escaped(&stream.push(self.inputs[start])?).into_owned(), false));
            for (&id, &is_learnt) in self.targets[start..end].iter().zip(&self.mask[start..end]) {
                pieces.push((escaped(&stream.push(id)?).into_owned(), is_learnt));
            }
            let last = pieces.last().is_some_and(|(_, is_learnt)| *is_learnt);
            pieces.push((escaped(&stream.finish()?).into_owned(), last));
        }
        Ok(pieces)
    }
}

/// Text on lines of [`WIDTH`] columns: tokens that are learnt in two colours in turn and others dimmed, or what is learnt
/// in brackets.
fn drawn(pieces: &[(String, bool)], colours: bool) -> String {
    let mut lines = Lines::default();
    let (mut is_second, mut was_learnt) = (false, false);
    for (text, is_learnt) in pieces.iter().filter(|(text, _)| !text.is_empty()) {
        if colours {
            is_second = *is_learnt && !is_second;
            let code = match (is_learnt, is_second) {
                (false, _) => "\x1b[2m",
                (true, true) => "\x1b[32m",
                (true, false) => "\x1b[36m",
            };
            lines.add(text, Some(code));
            continue;
        }
        if *is_learnt != was_learnt {
            lines.add(BRACKETS[usize::from(was_learnt)], None);
            was_learnt = *is_learnt;
        }
        lines.add(text, None);
    }
    if was_learnt {
        lines.add(BRACKETS[1], None);
    }
    lines.text
}

/// Lines in the making.
#[derive(Default)]
struct Lines {
    text: String,
    column: usize,
}

impl Lines {
    /// Adds text in the colour of an escape code; a line end in it is shown as one.
    fn add(&mut self, text: &str, code: Option<&str>) {
        let (code, end) = (code.unwrap_or_default(), if code.is_some() { "\x1b[0m" } else { "" });
        self.text += code;
        for c in text.chars() {
            let width = if c == '\n' { 0 } else { c.width().unwrap_or(1) };
            if self.column + width > WIDTH {
                // A colour ends with its line, so that a pager which starts within shows it.
                self.text += &format!("{end}\n{code}");
                self.column = 0;
            }
            match c {
                '\n' => {
                    self.text += &format!("⏎{end}\n{code}");
                    self.column = 0;
                }
                c => {
                    self.text.push(if c == '\t' { '⇥' } else { c });
                    self.column += width;
                }
            }
        }
        self.text += end;
    }
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr;

    use super::*;

    fn pieces(of: &[(&str, bool)]) -> Vec<(String, bool)> {
        of.iter().map(|&(text, is_learnt)| (text.to_owned(), is_learnt)).collect()
    }

    #[test]
    fn what_is_learnt_is_in_brackets_or_in_colours_in_turn() {
        let of =
            pieces(&[("User:", false), (" hi\n", false), ("a", true), ("", true), ("b", true), ("c", false)]);
        assert_eq!(drawn(&of, false), "User: hi⏎\n⟦ab⟧c");
        assert_eq!(
            drawn(&of, true),
            "\x1b[2mUser:\x1b[0m\x1b[2m hi⏎\x1b[0m\n\x1b[2m\x1b[0m\x1b[32ma\x1b[0m\x1b[36mb\x1b[0m\x1b[2mc\x1b[0m"
        );
        assert_eq!(drawn(&pieces(&[("x", true)]), false), "⟦x⟧");
    }

    #[test]
    fn lines_are_no_longer_than_the_terminal() {
        let of = pieces(&[(&"a".repeat(200), false), (&"é\t".repeat(30), true), ("end\n\n", false)]);
        let text = drawn(&of, false);
        assert!(text.lines().all(|line| line.width() <= 80), "{text}");
        let wide = drawn(&pieces(&[(&"日本".repeat(50), true)]), false);
        assert!(wide.lines().all(|line| line.width() <= 80) && wide.lines().count() == 3, "{wide}");
        let joined: String = text.lines().collect();
        assert_eq!(joined.chars().filter(|&c| c == 'a').count(), 200);
    }
}
