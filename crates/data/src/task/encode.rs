//! Tokens of a context and of what follows it.
//!
//! # References
//! EleutherAI's lm-evaluation-harness 0.4.13, `TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens`.

use crate::error::DataError;
use crate::tokenizer::Tokenizer;

/// A context and continuations of it, as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadItem {
    /// The context, at least one token.
    pub context: Vec<u32>,
    /// Each continuation, at least one token.
    pub continuation: Vec<u32>,
}

/// Tokens of `context` and of the `continuation` after it. Both are encoded as one text, which is cut after as many
/// tokens as the context has by itself; white space at the context's end belongs to the continuation. An empty context is
/// the token that ends a text.
///
/// # Errors
/// If a character is not in the vocabulary, the continuation has no token of its own, or the context is empty and no token
/// ends a text.
pub fn encode_continuation(
    tokenizer: &Tokenizer,
    context: &str,
    continuation: &str,
) -> Result<ReadItem, DataError> {
    let trimmed = context.trim_end();
    let continuation = format!("{}{continuation}", &context[trimmed.len()..]);
    let (context, rest) = if trimmed.is_empty() {
        let end = start_of_text(tokenizer)?;
        let mut rest = tokenizer.encode(&continuation)?;
        // A continuation that begins with that token is its own context.
        if rest.first() == Some(&end) {
            rest.remove(0);
        }
        (vec![end], rest)
    } else {
        let context = tokenizer.encode(trimmed)?;
        let mut whole = tokenizer.encode(&format!("{trimmed}{continuation}"))?;
        let rest = whole.split_off(context.len().min(whole.len()));
        (context, rest)
    };
    if rest.is_empty() {
        return Err(DataError::NoContinuation { continuation });
    }
    Ok(ReadItem { context, continuation: rest })
}

/// Tokens of a prompt to go on from; of an empty one, the token that ends a text.
///
/// # Errors
/// As for [`encode_continuation`].
pub fn encode_prompt(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>, DataError> {
    match prompt.is_empty() {
        true => Ok(vec![start_of_text(tokenizer)?]),
        false => tokenizer.encode(prompt),
    }
}

fn start_of_text(tokenizer: &Tokenizer) -> Result<u32, DataError> {
    tokenizer.end_of_text().ok_or(DataError::NoStartOfText)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpe::WordCounts;

    #[test]
    fn the_border_is_where_the_context_ends_and_spaces_go_over_it() {
        let bytes = Tokenizer::bytes();
        let ids = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        let read = encode_continuation(&bytes, "ab  ", "c").unwrap();
        assert_eq!((read.context, read.continuation), (ids("ab"), ids("  c")));
        let error = encode_continuation(&bytes, " ", "c").unwrap_err().to_string();
        assert!(error.contains("end of text"), "{error}");
        let ending = Tokenizer::bytes().with_end_of_text();
        let read = encode_continuation(&ending, "", "c").unwrap();
        assert_eq!((read.context, read.continuation), (vec![256], ids("c")));
        let read = encode_continuation(&ending, "", "<|endoftext|>c").unwrap();
        assert_eq!((read.context, read.continuation), (vec![256], ids("c")));
        assert_eq!(encode_prompt(&ending, "").unwrap(), [256]);
        assert_eq!(encode_prompt(&ending, "a ").unwrap(), ids("a "));
    }

    #[test]
    fn both_are_encoded_as_one_text() {
        let mut counts = WordCounts::new();
        counts.add("the cat the cats the cat");
        let tokenizer = Tokenizer::bpe(&counts, 270);
        let read = encode_continuation(&tokenizer, "the", " cat").unwrap();
        let whole = tokenizer.encode("the cat").unwrap();
        assert_eq!([read.context, read.continuation].concat(), whole);
    }
}
