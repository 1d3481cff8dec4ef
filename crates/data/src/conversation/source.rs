//! Whether a configuration's files hold conversations, and by what template they are rendered.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Value;

use super::record::{Conversations, is_conversation};
use super::template::ChatTemplate;
use crate::config::{DataConfig, TokenizerConfig};
use crate::error::DataError;
use crate::format::Format;
use crate::input::Input;
use crate::json_scan::values;
use crate::parquet_rows;
use crate::pii_choice::PiiChoice;
use crate::records::Records;
use crate::tokenizer::{END_OF_TEXT, Tokenizer};
use crate::tokenizer_kind::TokenizerKind;

/// Bytes that are read of a file at a time to find its first record.
const BLOCK_BYTES: usize = 64 << 10;

/// How `files`, of these `formats`, are read if they hold conversations: where `data.chat_template` is set, or where the
/// first record has messages and no text.
///
/// # Errors
/// If they do and no template is known, or it cannot be read.
pub(crate) fn conversations(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    files: &[PathBuf],
    formats: &[Format],
) -> Result<Option<Conversations>, DataError> {
    let chosen = &data.chat_template;
    let (Some(path), Some(format)) = (files.first(), formats.first()) else { return Ok(None) };
    let is_record = matches!(format, Format::Jsonl | Format::Json | Format::Parquet);
    if chosen.is_none() && (!is_record || !begins_with_conversation(path, format, &data.text_field)?) {
        return Ok(None);
    }
    if !is_record {
        let expected =
            "JSON or Parquet with conversations in data.input, as data.chat_template is set".to_owned();
        return Err(DataError::Argument { name: "data.input", expected, got: format!("{path:?}") });
    }
    refuse_what_keeps_no_masks(data)?;
    let template = match chosen {
        Some(choice) => Some(ChatTemplate::of_choice(choice)?),
        None => beside(tokenizer)?,
    };
    let template = template.ok_or_else(|| DataError::NoChatTemplate { path: path.clone() })?;
    let template = match (&tokenizer.file, tokenizer.kind) {
        _ if template.has_token("eos_token") => template,
        (Some(file), TokenizerKind::File) => {
            let tokenizer = Tokenizer::load_at(file)?;
            let end = tokenizer.end_of_text().and_then(|id| tokenizer.token(id));
            template.with_end_of_text(end)
        }
        _ => template.with_end_of_text(Some(END_OF_TEXT.to_owned())),
    };
    Ok(Some(Conversations { template: Arc::new(template) }))
}

/// Refuses what would lose which part of a conversation is learnt.
fn refuse_what_keeps_no_masks(data: &DataConfig) -> Result<(), DataError> {
    let refused = |name, expected: &str, got: String| {
        Err(DataError::Argument { name, expected: expected.to_owned(), got })
    };
    if !data.mixture.is_empty() {
        let expected =
            "sources of plain text: conversations are read from data.input alone, and are not mixed";
        return refused("data.mixture", expected, format!("{} sources", data.mixture.0.len()));
    }
    match data.pii {
        PiiChoice::Replace => {
            refused("data.pii", "\"drop\" or \"keep\" for conversations", "\"replace\"".to_owned())
        }
        PiiChoice::Keep | PiiChoice::Drop => Ok(()),
    }
}

/// The template beside the tokenizer's file.
fn beside(tokenizer: &TokenizerConfig) -> Result<Option<ChatTemplate>, DataError> {
    let file = tokenizer.file.as_deref().filter(|_| tokenizer.kind == TokenizerKind::File);
    match file {
        Some(dir) if dir.is_dir() => ChatTemplate::of_dir(dir),
        Some(file) => ChatTemplate::of_dir(file.parent().unwrap_or(Path::new("."))),
        None => Ok(None),
    }
}

/// Whether the first record of a file is a conversation without a text of its own.
fn begins_with_conversation(path: &Path, format: &Format, text_field: &str) -> Result<bool, DataError> {
    if *format == Format::Parquet {
        let (columns, has_text) = parquet_rows::columns(path, text_field)?;
        let has = |name: &str| columns.iter().any(|column| column == name);
        return Ok(!has_text && (has("messages") || has("prompt") && has("completion")));
    }
    let mut records = Records::new(Input::open(path, false)?, format.clone(), BLOCK_BYTES);
    while let Some(block) = records.next_block()? {
        let found = match format {
            Format::Json => values(&block.bytes, block.scanner),
            _ => block.bytes.split(|&byte| byte == b'\n').collect(),
        };
        let first = found.into_iter().find(|record| !record.trim_ascii().is_empty());
        if let Some(record) = first {
            let value: Option<Value> = serde_json::from_slice(record).ok();
            let has_text =
                |value: &Value| value.get_attr(text_field).is_ok_and(|text| text.as_str().is_some());
            return Ok(value.is_some_and(|value| is_conversation(&value) && !has_text(&value)));
        }
    }
    Ok(false)
}
