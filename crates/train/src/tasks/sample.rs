//! Texts after prompts.

use wattle_data::Tokenizer;
use wattle_data::task::encode_prompt;
use wattle_model::generate::Decoder;
use wattle_model::{GenerateOptions, Sampling, Texts};
use wattle_runlog::Sample;

use crate::error::TrainError;

/// How samples are made.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of each.
    pub max_tokens: usize,
}

/// What a model writes after each prompt.
///
/// # Errors
/// If a prompt cannot be made tokens of, the device or a tensor operation fails, or a prediction is not finite.
pub fn samples(
    prompts: &[String],
    options: &SampleOptions,
    decoder: &mut dyn Decoder,
    tokenizer: &Tokenizer,
) -> Result<Vec<Sample>, TrainError> {
    let ids = prompts.iter().map(|prompt| encode_prompt(tokenizer, prompt));
    let ids = ids.collect::<Result<Vec<_>, _>>()?;
    let generate = GenerateOptions {
        sampling: options.sampling.clone(),
        max_tokens: options.max_tokens,
        end_of_text: tokenizer.end_of_text(),
        n_allowed: tokenizer.vocab_size(),
        n_likeliest: 0,
    };
    let mut written: Vec<_> = prompts.iter().map(|_| (tokenizer.stream(), String::new())).collect();
    for steps in Texts::new(Box::new(decoder), &ids, generate)? {
        for (idx, step) in steps? {
            if tokenizer.end_of_text() != Some(step.token) {
                let (stream, text) = &mut written[idx];
                *text += &stream.push(step.token)?;
            }
        }
    }
    let finish = |(prompt, (stream, text)): (&String, (wattle_data::TextStream<'_>, String))| {
        Ok(Sample { prompt: prompt.clone(), text: text + &stream.finish()? })
    };
    prompts.iter().zip(written).map(finish).collect()
}
