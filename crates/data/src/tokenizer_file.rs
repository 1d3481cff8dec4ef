//! The content of a `tokenizer.json`, checked before the library sees it.
//!
//! The library was written for files that it saved itself. On others it panics, and worse: it allocates what a table's
//! header claims, recurses as deep as a token is long, and lets each step of a normalizer lengthen the text of the one
//! before. A panic can be caught ([`wattle_guard`]); what would exhaust the memory, the stack or a lifetime is
//! refused here, with the field.

use std::collections::VecDeque;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::utils::padding::PaddingParams;
use tokenizers::utils::truncation::TruncationParams;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as Library,
};
use wattle_guard::guard;

/// Largest file in bytes. Vocabularies of a quarter of a million entries take about 40 MB.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// Ids are below this: the largest published vocabularies have about 2¹⁸ entries.
const MAX_ID: u64 = 1 << 24;

/// Longest entry in bytes. The library copies an entry for each token of a text.
pub(crate) const MAX_TOKEN_BYTES: usize = 4096;

/// Longest entry of a Unigram vocabulary: the library keeps them in a tree and recurses to its depth. SentencePiece
/// makes none of more than 16 characters unless told to.
const MAX_UNIGRAM_TOKEN_BYTES: usize = 1024;

/// Longest prefix or suffix, in bytes, that is put to every character that is looked up; there is `##` and `</w>`.
const MAX_AFFIX_BYTES: usize = 64;

/// Most characters of a word that WordPiece takes apart, in a time that grows with the cube of it. Its default is 100.
const MAX_WORD_CHARS: u64 = 1000;

/// Longest pattern in bytes.
const MAX_PATTERN_BYTES: usize = 16 << 10;

/// Most steps of a normalizer, pre-tokenizer or decoder.
const MAX_STEPS: usize = 1024;

/// Most sequences of steps within each other.
const MAX_DEPTH: usize = 8;

/// How many times as long all steps together may make a text. The tables of T5 and its kin get to 11, and the spaces
/// put before their words to 44.
const MAX_GROWTH: f64 = 256.0;

/// The library's tokenizer for the content of a `tokenizer.json`.
///
/// # Errors
/// The field and what is wrong with it.
pub(crate) fn open(json: &str) -> Result<Library, String> {
    if json.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("has {} bytes: expected at most {MAX_FILE_BYTES}", json.len()));
    }
    let file: Value = serde_json::from_str(json).map_err(|error| format!("is not JSON: {error}"))?;
    check(&file)?;
    // From the value, not from the text, where a key may be there twice and only the last was checked.
    read(&file).map_err(|reason| match field_at_fault(&file) {
        Some((field, reason)) => format!("{field}: {reason}"),
        None => reason,
    })
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    guard(|| T::deserialize(value))?.map_err(|error| error.to_string())
}

/// The first field that the library cannot read, and what it says of it.
fn field_at_fault(file: &Value) -> Option<(&'static str, String)> {
    fn fault<T: DeserializeOwned>(value: &Value) -> Option<String> {
        read::<Option<T>>(value).err()
    }
    type Fault = fn(&Value) -> Option<String>;
    let readers: [(&str, Fault); 8] = [
        ("truncation", fault::<TruncationParams>),
        ("padding", fault::<PaddingParams>),
        ("added_tokens", fault::<Vec<AddedToken>>),
        ("normalizer", fault::<NormalizerWrapper>),
        ("pre_tokenizer", fault::<PreTokenizerWrapper>),
        ("post_processor", fault::<PostProcessorWrapper>),
        ("decoder", fault::<DecoderWrapper>),
        ("model", fault::<ModelWrapper>),
    ];
    readers.into_iter().find_map(|(field, fault)| Some((field, fault(file.get(field)?)?)))
}

fn check(file: &Value) -> Result<(), String> {
    check_model(&file["model"]).map_err(|fault| format!("model.{fault}"))?;
    for (i, token) in file["added_tokens"].as_array().into_iter().flatten().enumerate() {
        let content = token["content"].as_str().unwrap_or_default();
        check_entry(content, &token["id"], MAX_TOKEN_BYTES)
            .map_err(|fault| format!("added_tokens[{i}]: {fault}"))?;
    }
    check_growth(&[("normalizer", &file["normalizer"]), ("pre_tokenizer", &file["pre_tokenizer"])])?;
    check_growth(&[("decoder", &file["decoder"])])?;
    Steps::default().add("post_processor", &file["post_processor"], 0)
}

/// Checks a model. A fault begins with the field in it.
pub(crate) fn check_model(model: &Value) -> Result<(), String> {
    for (key, most) in [
        ("unk_token", MAX_TOKEN_BYTES),
        ("continuing_subword_prefix", MAX_AFFIX_BYTES),
        ("end_of_word_suffix", MAX_AFFIX_BYTES),
    ] {
        check_len(model[key].as_str().unwrap_or_default(), most).map_err(|fault| format!("{key} {fault}"))?;
    }
    if let Some(most) = model["max_input_chars_per_word"].as_u64().filter(|&most| most > MAX_WORD_CHARS) {
        return Err(format!("max_input_chars_per_word = {most}: expected at most {MAX_WORD_CHARS}"));
    }
    let mut longest = 0;
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        check_entry(token, id, MAX_TOKEN_BYTES).map_err(|fault| format!("vocab: {fault}"))?;
        longest = longest.max(token.len());
    }
    for (i, entry) in model["vocab"].as_array().into_iter().flatten().enumerate() {
        check_len(entry[0].as_str().unwrap_or_default(), MAX_UNIGRAM_TOKEN_BYTES)
            .map_err(|fault| format!("vocab[{i}] {fault}"))?;
    }
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default();
    for (i, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        check_merge(merge, prefix, longest).map_err(|fault| format!("merges[{i}] = {merge}: {fault}"))?;
    }
    Ok(())
}

fn check_entry(token: &str, id: &Value, most_bytes: usize) -> Result<(), String> {
    check_len(token, most_bytes).map_err(|fault| format!("an entry {fault}"))?;
    match id.as_u64() {
        Some(id) if id >= MAX_ID => Err(format!("{token:?} has the id {id}: expected one below {MAX_ID}")),
        _ => Ok(()),
    }
}

fn check_len(text: &str, most_bytes: usize) -> Result<(), String> {
    match text.len() {
        len if len > most_bytes => Err(format!("has {len} bytes: expected at most {most_bytes}")),
        _ => Ok(()),
    }
}

/// That a merge can join into an entry of at most `longest` bytes, the second token without the prefix.
fn check_merge(merge: &Value, prefix: &str, longest: usize) -> Result<(), String> {
    let pair = match merge {
        Value::String(pair) => pair.split_once(' '),
        pair => pair[0].as_str().zip(pair[1].as_str()),
    };
    let Some((left, right)) = pair else { return Err("expected two tokens".to_owned()) };
    let Some(right) = right.get(prefix.len()..) else {
        return Err(format!("the second token does not begin with continuing_subword_prefix {prefix:?}"));
    };
    match left.len() + right.len() <= longest {
        true => Ok(()),
        false => Err("the two are no entry of vocab".to_owned()),
    }
}

/// That the steps of `parts`, one after another, do not lengthen a text beyond measure.
fn check_growth(parts: &[(&str, &Value)]) -> Result<(), String> {
    let mut steps = Steps::default();
    parts.iter().try_for_each(|(field, part)| steps.add(field, part, 0))?;
    // What a step adds is lengthened again by those after it that may change it.
    let mut grown: Vec<f64> = Vec::new();
    for (i, step) in steps.0.iter().enumerate() {
        let fed = steps.0[..i].iter().zip(&grown).filter(|(before, _)| before.feeds(step));
        let growth = step.growth * fed.map(|(_, &grown)| grown).fold(1.0, f64::max);
        if growth > MAX_GROWTH {
            return Err(format!(
                "{}: it and the steps before it may make a text {growth:.0} times as long: expected at most \
                 {MAX_GROWTH}; shorten what they put in",
                step.field
            ));
        }
        grown.push(growth);
    }
    Ok(())
}

/// The steps of a normalizer, pre-tokenizer, post-processor or decoder.
#[derive(Default)]
struct Steps<'a>(Vec<Step<'a>>);

struct Step<'a> {
    /// Where it is in the file.
    field: String,
    /// How many times as long it may make a text, at most; what follows from Unicode alone is left out.
    growth: f64,
    /// Of the replacement of a text by another, the two.
    replaced: Option<(&'a str, &'a str)>,
}

impl<'a> Steps<'a> {
    fn add(&mut self, field: &str, value: &'a Value, depth: usize) -> Result<(), String> {
        if self.0.len() == MAX_STEPS {
            return Err(format!("{field}: expected at most {MAX_STEPS} steps"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("{field}: expected at most {MAX_DEPTH} sequences within each other"));
        }
        // By its fields: files without types are read too.
        let growth = growth(value).map_err(|fault| format!("{field}.{fault}"))?;
        let replaced = value["pattern"]["String"].as_str().zip(value["content"].as_str());
        self.0.push(Step { field: field.to_owned(), growth, replaced });
        for key in ["normalizers", "pretokenizers", "processors", "decoders"] {
            for (i, step) in value[key].as_array().into_iter().flatten().enumerate() {
                self.add(&format!("{field}.{key}[{i}]"), step, depth + 1)?;
            }
        }
        Ok(())
    }
}

impl Step<'_> {
    /// Whether `later` may lengthen what this one puts in.
    fn feeds(&self, later: &Self) -> bool {
        match (self.replaced, later.replaced) {
            (Some((_, content)), Some((pattern, _))) if !pattern.is_empty() => {
                content.contains(|c| pattern.contains(c))
            }
            _ => true,
        }
    }
}

/// How many times as long a step makes a text, at most. A fault begins with the field in it.
fn growth(step: &Value) -> Result<f64, String> {
    let len = |key: &str| step[key].as_str().map(|text| text.len() as f64);
    if step["type"] == "FixedLength" && step["length"] == 0 {
        return Err("length = 0: expected at least 1".to_owned());
    }
    let pattern = ["String", "Regex"].into_iter().find_map(|kind| step["pattern"][kind].as_str());
    if let Some(pattern) = pattern {
        check_len(pattern, MAX_PATTERN_BYTES).map_err(|fault| format!("pattern {fault}"))?;
    }
    if let Some(table) = step["precompiled_charsmap"].as_str() {
        return charsmap_growth(table)
            .map_err(|fault| format!("precompiled_charsmap {fault}; save the tokenizer again"));
    }
    if let (Some(content), Some(pattern)) = (len("content"), pattern) {
        let fewest = if step["pattern"]["Regex"].is_string() { fewest_bytes(pattern) } else { pattern.len() };
        return Ok(if fewest == 0 { 1.0 + content } else { (content / fewest as f64).max(1.0) });
    }
    Ok(match step["type"].as_str() {
        Some("ByteLevel" | "BPEDecoder" | "WordPiece" | "CTC") => 2.0,
        _ => 1.0 + len("prepend").or(len("replacement")).unwrap_or(0.0),
    })
}

/// Bytes that a pattern matches at least; 0 where that is not known.
fn fewest_bytes(pattern: &str) -> usize {
    regex_syntax::parse(pattern).ok().and_then(|parsed| parsed.properties().minimum_len()).unwrap_or(0)
}

/// How many times as long SentencePiece's table makes a text, at most: a double array of the texts that are replaced,
/// and the replacements one after another, each with a zero behind it.
///
/// # References
/// `normalizer.cc` of SentencePiece and `darts.h` of darts-clone.
fn charsmap_growth(base64: &str) -> Result<f64, String> {
    let bytes = BASE64_STANDARD.decode(base64).map_err(|error| format!("is not Base64: {error}"))?;
    let (size, rest) = bytes.split_first_chunk().ok_or("is cut short")?;
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    let (units, texts) = rest.split_at_checked(size).ok_or("is cut short")?;
    let units: Vec<usize> =
        units.as_chunks().0.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    let texts =
        std::str::from_utf8(texts).map_err(|error| format!("has replacements that are not text: {error}"))?;
    let offset = |unit: usize| (unit >> 10) << ((unit & (1 << 9)) >> 6);
    let root = offset(*units.first().ok_or("has no entry")?);
    let mut growth = 1.0f64;
    let mut seen = vec![false; units.len()];
    // Breadth first: the shortest way to a node tells how short a text it stands for.
    let mut nodes = VecDeque::from([(root, 0)]);
    while let Some((node, depth)) = nodes.pop_front() {
        for byte in 1..=usize::from(u8::MAX) {
            let at = node ^ byte;
            let is_child = |unit: &&usize| **unit & (1 << 31 | 0xff) == byte;
            let Some(&unit) = units.get(at).filter(is_child).filter(|_| !seen[at]) else { continue };
            seen[at] = true;
            let child = at ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let leaf = units.get(child).ok_or("points beyond its end")? & ((1 << 31) - 1);
                let text = texts.get(leaf..).ok_or("points beyond its replacements")?;
                let len = text.find('\0').unwrap_or(text.len());
                growth = growth.max(len as f64 / f64::from(depth + 1));
            }
            nodes.push_back((child, depth + 1));
        }
    }
    Ok(growth)
}
