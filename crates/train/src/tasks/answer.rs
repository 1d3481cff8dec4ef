//! What a model makes of items.

use serde::Serialize;
use wattle_data::task::{Completion, Items};
use wattle_data::{TextStream, Tokenizer};
use wattle_model::generate::{Asked, Decoder, likelihoods};
use wattle_model::{GenerateOptions, Sampling, Share, Texts};

use super::exam::{Exam, ExamTask, ItemTokens};
use crate::error::TrainError;
use crate::ranks::Ranks;

/// What a model made of one item.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// How likely it found each of the continuations.
    Likelihoods {
        /// Sum of the logarithms of the probabilities of each continuation's tokens, in nats.
        log_likelihoods: Vec<f64>,
        /// Whether each is what greedy decoding says.
        is_greedy: Vec<bool>,
        /// Tokens of each.
        tokens: Vec<usize>,
    },
    /// What it said.
    Said {
        /// The text, up to what stops it; `None` on a rank that did not hear it.
        text: Option<String>,
        /// Whether that is an answer.
        is_right: bool,
    },
}

/// What a model makes of each item of each task. `progress` is told how many items are done.
///
/// # Errors
/// If the device or a tensor operation fails, or a prediction is not finite.
pub fn answers(
    exam: &Exam,
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Answer>>, TrainError> {
    let mut all = Vec::with_capacity(exam.tasks.len());
    let mut done = 0;
    for task in &exam.tasks {
        let indices: Vec<usize> = (0..task.tokens.len()).collect();
        all.push(of_items(task, &indices, exam.context, decoder, tokenizer, &mut |n| progress(done + n))?);
        done += task.tokens.len();
    }
    Ok(all)
}

/// [`answers`] of ranks that take turns in items. All of them learn all likelihoods, and which texts were right.
///
/// # Errors
/// As for [`answers`], or if the ranks have parted.
pub(crate) fn answers_of_ranks(
    exam: &Exam,
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    ranks: &Ranks,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Answer>>, TrainError> {
    if !ranks.are_several() {
        return answers(exam, decoder, tokenizer, progress);
    }
    let Share { rank, world } = ranks.share();
    let mut own = || {
        let mut own = Vec::new();
        let mut done = 0;
        for task in &exam.tasks {
            let n_items = task.tokens.len();
            let indices: Vec<usize> = (rank..n_items).step_by(world).collect();
            let progress = &mut |n: usize| progress(done + (n * world).min(n_items));
            own.push(of_items(task, &indices, exam.context, decoder, tokenizer, progress)?);
            done += n_items;
        }
        Ok(own)
    };
    let own = ranks.all_or_none(own())?;
    let mut all = Vec::with_capacity(exam.tasks.len());
    for (task, own) in exam.tasks.iter().zip(own) {
        // Every rank sends as many numbers: those of items that it did not have are zero.
        let mut numbers = vec![0.0; task.tokens.iter().map(ItemTokens::n_numbers).sum()];
        let mut own = own.into_iter();
        let mut place = 0;
        for (idx, item) in task.tokens.iter().enumerate() {
            if idx % world == rank {
                own.next().expect("an answer to each item of its own").write(&mut numbers[place..]);
            }
            place += item.n_numbers();
        }
        let n_numbers = numbers.len();
        let gathered = ranks.all_gather(&numbers, ranks.between_steps())?;
        let mut place = 0;
        let mut answers = Vec::with_capacity(task.tokens.len());
        for (idx, item) in task.tokens.iter().enumerate() {
            answers.push(Answer::read(item, &gathered[idx % world * n_numbers + place..]));
            place += item.n_numbers();
        }
        all.push(answers);
    }
    Ok(all)
}

impl ItemTokens {
    /// Numbers that an answer is between ranks.
    fn n_numbers(&self) -> usize {
        (2 * self.continuations.len()).max(1)
    }
}

impl Answer {
    fn write(&self, numbers: &mut [f64]) {
        match self {
            Self::Likelihoods { log_likelihoods, is_greedy, .. } => {
                for (pair, (ll, greedy)) in numbers.chunks_mut(2).zip(log_likelihoods.iter().zip(is_greedy)) {
                    pair.copy_from_slice(&[*ll, f64::from(u8::from(*greedy))]);
                }
            }
            Self::Said { is_right, .. } => numbers[0] = f64::from(u8::from(*is_right)),
        }
    }

    fn read(item: &ItemTokens, numbers: &[f64]) -> Self {
        if item.continuations.is_empty() {
            return Self::Said { text: None, is_right: numbers[0] == 1.0 };
        }
        let pairs = || numbers.chunks(2).take(item.continuations.len());
        Self::Likelihoods {
            log_likelihoods: pairs().map(|pair| pair[0]).collect(),
            is_greedy: pairs().map(|pair| pair[1] == 1.0).collect(),
            tokens: item.continuations.iter().map(Vec::len).collect(),
        }
    }
}

/// What a model makes of these items of a task, in their order.
fn of_items(
    task: &ExamTask,
    indices: &[usize],
    context: usize,
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Answer>, TrainError> {
    let items: Vec<&ItemTokens> = indices.iter().map(|&idx| &task.tokens[idx]).collect();
    if let Items::Generate(completions) = &task.task.items {
        let completions: Vec<&Completion> = indices.iter().map(|&idx| &completions[idx]).collect();
        return said(&completions, &items, decoder, tokenizer, progress);
    }
    let asked: Vec<_> = items
        .iter()
        .map(|item| Asked {
            context: &item.context,
            continuations: item.continuations.iter().map(Vec::as_slice).collect(),
        })
        .collect();
    let found = likelihoods(decoder, context, &asked, progress)?;
    let answer =
        |(item, found): (&&ItemTokens, Vec<wattle_model::generate::Likelihood>)| Answer::Likelihoods {
            log_likelihoods: found.iter().map(|found| found.log_likelihood).collect(),
            is_greedy: found.iter().map(|found| found.is_greedy).collect(),
            tokens: item.continuations.iter().map(Vec::len).collect(),
        };
    Ok(items.iter().zip(found).map(answer).collect())
}

/// A text in the making.
struct Saying<'t> {
    stream: TextStream<'t>,
    text: String,
    n_tokens: usize,
}

/// What a model says after each prompt, by greedy decoding.
fn said(
    completions: &[&Completion],
    items: &[&ItemTokens],
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Answer>, TrainError> {
    let options = GenerateOptions {
        sampling: Sampling::greedy(),
        max_tokens: completions.iter().map(|item| item.max_tokens).max().unwrap_or(0),
        end_of_text: tokenizer.end_of_text(),
        n_allowed: tokenizer.vocab_size(),
        n_likeliest: 0,
    };
    let prompts: Vec<Vec<u32>> = items.iter().map(|item| item.context.clone()).collect();
    let mut texts = Texts::new(Box::new(decoder), &prompts, options)?;
    let new = || Saying { stream: tokenizer.stream(), text: String::new(), n_tokens: 0 };
    let mut sayings: Vec<Saying<'_>> = completions.iter().map(|_| new()).collect();
    let mut done = 0;
    while let Some(steps) = texts.next() {
        for (idx, step) in steps? {
            let (saying, item) = (&mut sayings[idx], completions[idx]);
            saying.n_tokens += 1;
            let ends = tokenizer.end_of_text() == Some(step.token);
            if !ends {
                saying.text += &saying.stream.push(step.token)?;
            }
            let is_stopped = item.until_stop(&saying.text).len() < saying.text.len();
            if ends || is_stopped || saying.n_tokens == item.max_tokens {
                texts.end(idx);
                done += 1;
            }
        }
        progress(done);
    }
    let answer = |(saying, item): (Saying<'_>, &&Completion)| {
        let text = saying.text + &saying.stream.finish()?;
        let said = item.until_stop(&text);
        Ok(Answer::Said { is_right: item.is_right(said), text: Some(said.to_owned()) })
    };
    sayings.into_iter().zip(completions).map(answer).collect()
}
