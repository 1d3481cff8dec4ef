//! Settings in a `tokenizer.json` that belong to one call and not to the vocabulary.
//!
//! Whoever saved the file may have left them on: truncation to a model's context, padding to a batch's length, the
//! dropout of merges that a training call wanted. A corpus must not be cut, padded or tokenized at random, so they
//! are switched off wherever a tokenizer is read, and the names of those that were on are kept to be reported.
//! (The special tokens that a post-processor adds belong to a call too; nothing here ever asks for them. The
//! library does not read sampling settings of Unigram from a file.)

use serde_json::Value;
use tokenizers::utils::padding::{PaddingParams, PaddingStrategy};
use tokenizers::{ModelWrapper, Tokenizer as Library};

/// Switches off what belongs to a call, and names each setting that was on.
pub(crate) fn switch_off(library: &mut Library) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(truncation) = library.get_truncation() {
        found.push(format!("truncation to {} tokens", truncation.max_length));
        library.with_truncation(None).expect("no truncation leaves nothing to fit");
    }
    if let Some(padding) = library.get_padding() {
        found.push(padding_name(padding));
        library.with_padding(None);
    }
    if let ModelWrapper::BPE(bpe) = library.get_model()
        && let Some(dropout) = bpe.dropout.filter(|&dropout| dropout > 0.0)
    {
        found.push(format!("dropout of merges at {dropout}"));
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        library.with_model(bpe);
    }
    found
}

fn padding_name(padding: &PaddingParams) -> String {
    match (&padding.strategy, padding.pad_to_multiple_of) {
        (PaddingStrategy::Fixed(length), _) => format!("padding to {length} tokens"),
        (PaddingStrategy::BatchLongest, Some(multiple)) => {
            format!("padding to a multiple of {multiple} tokens")
        }
        (PaddingStrategy::BatchLongest, None) => "padding to the longest of a batch".to_owned(),
    }
}

/// The content of a `tokenizer.json` without what [`switch_off`] switches off.
pub(crate) fn json_without(json: &str) -> serde_json::Result<String> {
    let mut value: Value = serde_json::from_str(json)?;
    for key in ["truncation", "padding"] {
        value[key] = Value::Null;
    }
    if value["model"]["dropout"].is_number() {
        value["model"]["dropout"] = Value::Null;
    }
    serde_json::to_string_pretty(&value)
}
