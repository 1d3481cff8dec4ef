//! Encoding by the library, with an eye on what gets lost.
//!
//! A byte-pair encoding without a token for the unknown drops what it does not know without a word. Here it gets
//! such a token, [`DROPPED`], so that the first character that would be dropped is found and named.

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{
    DecoderWrapper, Model, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer as Library,
};

use crate::bpe::byte_chars;
use crate::encode_error::EncodeError;
use crate::fidelity::lost_chars;
use crate::passage::{Encoded, Passage};

/// The id of what a vocabulary drops.
const DROPPED: u32 = u32::MAX;

/// Its spelling, which no text has: it is made of characters that Unicode keeps from being any.
const DROPPED_TOKEN: &str = "\u{10ffff}\u{10fffe}dropped";

/// What is known of a vocabulary that the library encodes with.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    /// The token for what it lacks.
    unknown: Option<u32>,
    /// Whether every text comes back from its tokens, by the way these are made.
    is_lossless: bool,
}

impl Vocabulary {
    /// The vocabulary of `library`, whose file is `json`. From here on the library shows what it drops.
    pub(crate) fn of(library: &mut Library, json: &str) -> Self {
        let is_lossless = is_lossless(library);
        let ModelHead { unk_token, unk_id } =
            serde_json::from_str::<FileHead>(json).unwrap_or_default().model;
        let by_name = unk_token.and_then(|token| library.get_model().token_to_id(&token));
        let unknown = by_name.or(unk_id);
        if unknown.is_none() && !is_lossless {
            show_dropped(library, json);
        }
        // It only moves the offsets of tokens, since no special token is asked for.
        library.with_post_processor(None::<PostProcessorWrapper>);
        Self { unknown, is_lossless }
    }

    /// Appends the tokens of a passage.
    pub(crate) fn encode(
        &self,
        library: &Library,
        passage: Passage<'_>,
        out: &mut Encoded,
    ) -> Result<(), EncodeError> {
        if self.is_lossless && passage.is_whole() {
            out.ids.extend_from_slice(library.encode_fast(passage.text, false)?.get_ids());
            return Ok(());
        }
        let window = passage.window();
        let encoding = library.encode(&*window, false)?;
        let (inside, overlap) = (passage.inside(), passage.overlap());
        let mut tokens = Vec::with_capacity(if self.is_lossless { 0 } else { encoding.len() });
        for (&id, &(start, end)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            if inside.contains(&start) {
                if id == DROPPED {
                    return Err(dropped(&window[inside.start..], start - inside.start));
                }
                out.ids.push(id);
                out.unknown_tokens += u64::from(self.unknown == Some(id));
            } else if overlap.contains(&start) {
                out.overlap.push(id);
            }
            if !self.is_lossless && id != DROPPED {
                tokens.push((id, start..end));
            }
        }
        if !self.is_lossless {
            out.lost_chars += lost_chars(library, &window, &tokens, self.unknown, inside)?;
        }
        Ok(())
    }
}

/// That the character at byte `at` of `text` would be dropped.
fn dropped(text: &str, at: usize) -> EncodeError {
    let at = text.floor_char_boundary(at);
    let character = text[at..].chars().next().unwrap_or_default();
    EncodeError::Unknown { character, position: text[..at].chars().count() as u64 }
}

/// What a `tokenizer.json` says of the unknown.
#[derive(Default, Deserialize)]
struct FileHead {
    model: ModelHead,
}

#[derive(Default, Deserialize)]
struct ModelHead {
    unk_token: Option<String>,
    unk_id: Option<u32>,
}

/// Gives a byte-pair encoding that drops the unknown a token for it.
fn show_dropped(library: &mut Library, json: &str) {
    let ModelWrapper::BPE(_) = library.get_model() else { return };
    let Ok(Value::Object(mut file)) = serde_json::from_str::<Value>(json) else { return };
    let mut model = file.remove("model").unwrap_or_default();
    model["vocab"][DROPPED_TOKEN] = DROPPED.into();
    model["unk_token"] = DROPPED_TOKEN.into();
    model["fuse_unk"] = false.into();
    model["dropout"] = Value::Null;
    // The library reads models from text alone.
    if let Ok(bpe) = serde_json::from_str::<BPE>(&model.to_string()) {
        library.with_model(bpe);
    }
}

/// Whether a byte-level encoding knows every byte, so that it knows every text.
pub(crate) fn covers_bytes(bpe: &BPE) -> bool {
    byte_chars().iter().all(|c| bpe.token_to_id(c.encode_utf8(&mut [0; 4])).is_some())
}

/// Whether tokens are looked up with something before or after them.
pub(crate) fn has_affix(bpe: &BPE) -> bool {
    [&bpe.continuing_subword_prefix, &bpe.end_of_word_suffix]
        .into_iter()
        .any(|affix| affix.as_ref().is_some_and(|affix| !affix.is_empty()))
}

/// Whether `library` is a byte-level encoding that changes nothing and drops nothing: what GPT-2, Llama 3 and
/// Qwen (without its normalizer) have.
fn is_lossless(library: &Library) -> bool {
    let ModelWrapper::BPE(bpe) = library.get_model() else { return false };
    let is_byte_level = |step: &PreTokenizerWrapper| matches!(step, PreTokenizerWrapper::ByteLevel(_));
    let steps = match library.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::Sequence(steps)) => steps.as_ref(),
        Some(step) => std::slice::from_ref(step),
        None => &[],
    };
    let normalizer = library.get_normalizer();
    let is_normalized_to_bytes = matches!(normalizer, Some(NormalizerWrapper::ByteLevel(_)));
    (is_normalized_to_bytes || normalizer.is_none() && steps.iter().any(is_byte_level))
        && steps.iter().all(keeps_all)
        && matches!(library.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
        && covers_bytes(bpe)
        && !has_affix(bpe)
        && library.get_added_tokens_decoder().values().all(|token| token.content.is_ascii())
}

/// Whether a pre-tokenizer cuts a text without taking or adding anything.
fn keeps_all(step: &PreTokenizerWrapper) -> bool {
    match step {
        PreTokenizerWrapper::ByteLevel(bytes) => !bytes.add_prefix_space,
        PreTokenizerWrapper::Split(split) => split.behavior != SplitDelimiterBehavior::Removed,
        PreTokenizerWrapper::Punctuation(punctuation) => {
            punctuation.behavior != SplitDelimiterBehavior::Removed
        }
        PreTokenizerWrapper::Digits(_) | PreTokenizerWrapper::UnicodeScripts(_) => true,
        _ => false,
    }
}
