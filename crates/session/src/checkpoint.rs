//! A checkpoint by its path: a checkpoint, a run, any Hugging Face directory, or a GGUF file.

use std::path::{Path, PathBuf};

use wattle_data::Tokenizer;
use wattle_model::hugging_face::{Directory, stand_in};
use wattle_model::{GgufFile, LanguageModel, ModelConfig};
use wattle_train::device::ChosenDevice;

use crate::data_notes;
use crate::error::SessionError;
use crate::need;

/// A model and its tokenizer.
pub struct OpenCheckpoint {
    /// The directory or file that they were read from.
    pub path: PathBuf,
    /// Its configuration, with `vocab_size` given.
    pub config: ModelConfig,
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// The tokenizer, all of whose tokens the model knows.
    pub tokenizer: Tokenizer,
}

impl OpenCheckpoint {
    /// Opens what `path` names.
    ///
    /// # Errors
    /// If there is no checkpoint, it is not whole, or its tokenizer is not the model's.
    pub fn open(path: &Path, device: &ChosenDevice) -> Result<Self, SessionError> {
        if is_gguf(path) {
            return Self::open_gguf(path, device);
        }
        let dir = locate(path)?;
        let directory = Directory::open(&dir)?;
        let tokenizer = without_call_state(tokenizer_of(&directory)?);
        let config = directory.model_config().clone();
        check_memory(path, &config, device, 1)?;
        Ok(Self { model: directory.load(&device.device)?, config, path: dir, tokenizer })
    }

    fn open_gguf(path: &Path, device: &ChosenDevice) -> Result<Self, SessionError> {
        let file = GgufFile::open(path)?;
        let tokenizer = Tokenizer::from_json(file.tokenizer_json().to_owned(), path)?;
        let config = file.model_config().clone();
        check_vocabulary(path, &tokenizer, config.vocab_size)?;
        let tokenizer = without_call_state(tokenizer);
        // All tensors are multiplied out before the model takes them over.
        check_memory(path, &config, device, 2)?;
        Ok(Self { model: file.load(&device.device)?, config, path: path.to_owned(), tokenizer })
    }
}

/// Checks that `copies` of a model fit in the available memory.
fn check_memory(
    path: &Path,
    config: &ModelConfig,
    device: &ChosenDevice,
    copies: u64,
) -> Result<(), SessionError> {
    match device.device.is_cpu() {
        true => need::loading(&path.display().to_string(), config, config.vocab_size, copies).check(),
        false => Ok(()),
    }
}

/// The tokenizer beside a model.
///
/// # Errors
/// If there is none, or it has tokens that the model does not know.
pub fn tokenizer_of(directory: &Directory) -> Result<Tokenizer, SessionError> {
    let dir = directory.dir();
    for name in ["tokenizer.json", "vocab.json", "merges.txt"] {
        let file = dir.join(name);
        if let Some(reason) = stand_in(&file) {
            return Err(SessionError::Checkpoint { path: file, reason });
        }
    }
    let tokenizer = Tokenizer::load_from_dir(dir)?;
    check_vocabulary(dir, &tokenizer, directory.vocab_size())?;
    Ok(tokenizer)
}

/// Says what the tokenizer's file asks for and does not get, and leaves it out.
fn without_call_state(tokenizer: Tokenizer) -> Tokenizer {
    data_notes::say_switched_off(tokenizer.switched_off());
    tokenizer.with_own_json()
}

fn check_vocabulary(path: &Path, tokenizer: &Tokenizer, knows: usize) -> Result<(), SessionError> {
    let has = tokenizer.vocab_size();
    if has > knows {
        return Err(no_checkpoint(
            path,
            format!(
                "the tokenizer has {has} entries, but the model predicts {knows} (vocab_size in config.json): they do \
                 not belong together; put the model's own tokenizer.json there"
            ),
        ));
    }
    Ok(())
}

/// Whether `path` is a GGUF file, by its name.
pub fn is_gguf(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension == "gguf")
}

/// The directory with a model's files that `path` means: itself, or a run's latest checkpoint.
///
/// # Errors
/// If there is none.
pub fn locate(path: &Path) -> Result<PathBuf, SessionError> {
    if path.join("config.json").is_file() {
        return Ok(path.to_owned());
    }
    let latest = path.join("checkpoints/latest");
    if path.join("config.toml").is_file() || latest.exists() {
        return latest.canonicalize().map_err(|source| {
            let remedy = format!("go on with it by wattle train --resume --out {}", path.display());
            no_checkpoint(path, format!("this run has no checkpoint yet; {remedy}: {source}"))
        });
    }
    Err(no_checkpoint(
        path,
        match path.exists() {
            true => {
                "no checkpoint here; expected a run directory, a checkpoint of one, or a Hugging Face directory with \
                 config.json and model.safetensors"
            }
            false => "there is nothing here; name a run directory or a checkpoint",
        },
    ))
}

fn no_checkpoint(path: &Path, reason: impl Into<String>) -> SessionError {
    SessionError::Checkpoint { path: path.to_owned(), reason: reason.into() }
}
