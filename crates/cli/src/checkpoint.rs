//! A checkpoint as the command line names one: a checkpoint, a run, or any Hugging Face directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use wattle_data::Tokenizer;
use wattle_model::LanguageModel;
use wattle_model::hugging_face::Directory;
use wattle_train::device::ChosenDevice;

/// A model and its tokenizer.
pub struct OpenCheckpoint {
    /// The directory that they were read from.
    pub dir: PathBuf,
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
    pub fn open(path: &Path, device: &ChosenDevice) -> anyhow::Result<Self> {
        let dir = locate(path)?;
        let directory = Directory::open(&dir)?;
        let tokenizer = tokenizer_of(&directory)?;
        Ok(Self { model: directory.load(&device.device)?, dir, tokenizer })
    }
}

/// The tokenizer beside a model.
///
/// # Errors
/// If there is none, or it has tokens that the model does not know.
pub fn tokenizer_of(directory: &Directory) -> anyhow::Result<Tokenizer> {
    let dir = directory.dir();
    let tokenizer = Tokenizer::load_from_dir(dir)?;
    let (has, knows) = (tokenizer.vocab_size(), directory.vocab_size());
    if has > knows {
        bail!(
            "{}: the tokenizer has {has} entries, but the model predicts {knows} (vocab_size in config.json): \
             they do not belong together; put the model's own tokenizer.json there",
            dir.display()
        );
    }
    Ok(tokenizer)
}

/// The directory with a model's files that `path` means: itself, or a run's latest checkpoint.
///
/// # Errors
/// If there is none.
pub fn locate(path: &Path) -> anyhow::Result<PathBuf> {
    if path.join("config.json").is_file() {
        return Ok(path.to_owned());
    }
    let latest = path.join("checkpoints/latest");
    if path.join("config.toml").is_file() || latest.exists() {
        let dir = latest.canonicalize().with_context(|| {
            format!(
                "{}: this run has no checkpoint yet; go on with it by wattle train --resume --out {}",
                path.display(),
                path.display()
            )
        })?;
        return Ok(dir);
    }
    match path.exists() {
        true => bail!(
            "{}: no checkpoint here; expected a run directory, a checkpoint of one, or a Hugging Face directory \
             with config.json and model.safetensors",
            path.display()
        ),
        false => bail!("{}: there is nothing here; name a run directory or a checkpoint", path.display()),
    }
}
