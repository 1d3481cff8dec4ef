//! A run that starts from given weights takes their shape and their tokenizer.

use std::path::Path;

use wattle_data::{TokenizerConfig, TokenizerKind};
use wattle_model::PeftAdapter;
use wattle_model::hugging_face::Directory;
use wattle_session::Config;
use wattle_session::checkpoint::{locate, tokenizer_of};

/// The tokenizer's file in a Hugging Face directory.
const TOKENIZER_FILE: &str = "tokenizer.json";

/// Gives `config` the shape and the tokenizer of `model.init_from`, if that is set. `explicit_keys` are those
/// that the user wrote, as `section.key`.
///
/// # Errors
/// If there are no weights that can be read, or the user asks for another shape or tokenizer than theirs.
pub fn adopt(config: &mut Config, explicit_keys: &[String]) -> Result<(), Vec<String>> {
    let Some(init_from) = config.model.init_from.clone() else { return Ok(()) };
    let named = |fault: String| vec![format!("model.init_from = {}: {fault}", init_from.display())];
    let dir = locate(&init_from).map_err(|error| named(format!("{error:#}")))?;
    if PeftAdapter::is_in(&dir) {
        return Err(named(format!(
            "{} is an adapter and has no weights of its own; merge it by wattle export --merge --format safetensors",
            dir.display()
        )));
    }
    let directory = Directory::open(&dir).map_err(|error| named(error.to_string()))?;
    tokenizer_of(&directory).map_err(|error| named(format!("{error:#}")))?;

    let mut faults = Vec::new();
    let model_keys: Vec<&str> = explicit_keys.iter().filter_map(|key| key.strip_prefix("model.")).collect();
    match config.model.adopt(&directory, &model_keys) {
        Ok(model) => config.model = model,
        Err(contradictions) => faults.extend(contradictions),
    }
    // The directory itself, so that a run which leaves newer checkpoints does not change what this one is.
    config.model.init_from = Some(dir.clone());
    if config.data.dir.is_none() {
        match tokenizer(&config.tokenizer, &dir, explicit_keys) {
            Ok(tokenizer) => config.tokenizer = tokenizer,
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// The tokenizer beside the weights, unless the user asks for another.
fn tokenizer(
    asked: &TokenizerConfig,
    dir: &Path,
    explicit_keys: &[String],
) -> Result<TokenizerConfig, String> {
    let file = dir.join(TOKENIZER_FILE);
    let own = TokenizerConfig { kind: TokenizerKind::File, file: Some(file.clone()), ..asked.clone() };
    let is_explicit = |key: &str| explicit_keys.iter().any(|explicit| explicit == key);
    let is_other_kind = is_explicit("tokenizer.kind") && asked.kind != own.kind;
    let is_other_file = asked.file.as_ref().is_some_and(|asked| *asked != file);
    if is_other_kind || is_other_file {
        return Err(format!(
            "tokenizer.{}: a run from model.init_from uses the tokenizer of {}; leave it out",
            if is_other_kind { "kind" } else { "file" },
            dir.display()
        ));
    }
    if !file.is_file() {
        return Err(format!(
            "model.init_from: {} has no {TOKENIZER_FILE}; write one with transformers' \
             AutoTokenizer.from_pretrained(…).save_pretrained(…)",
            dir.display()
        ));
    }
    Ok(own)
}
