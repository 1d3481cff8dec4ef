//! A checkpoint by its path: a checkpoint, a run, any Hugging Face directory, or a GGUF file.

use std::path::{Path, PathBuf};

use wattle_data::Tokenizer;
use wattle_model::hugging_face::{Directory, stand_in};
use wattle_model::{GgufFile, LanguageModel, ModelConfig, PeftAdapter};
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
    /// Opens what `path` names, with the adapters in `adapter` added to its weights, or those that `path` itself is.
    ///
    /// # Errors
    /// If there is no checkpoint, it is not whole, its tokenizer is not the model's, or adapters are of another model.
    pub fn open(path: &Path, adapter: Option<&Path>, device: &ChosenDevice) -> Result<Self, SessionError> {
        if is_gguf(path) {
            return match adapter {
                None => Self::open_gguf(path, device),
                Some(_) => Err(no_checkpoint(
                    path,
                    "adapters belong to weights that are not quantized: name the checkpoint that the file was made of",
                )),
            };
        }
        let Located { dir, directory, adapter } = Located::find(path, adapter)?;
        let tokenizer = without_call_state(tokenizer_of(&directory)?);
        let config = directory.model_config().clone();
        check_memory(path, &config, device, 1)?;
        let model = directory.load(&device.device)?;
        if let Some(adapter) = adapter {
            adapter.merge_into(model.as_ref(), &config)?;
        }
        Ok(Self { model, config, path: dir, tokenizer })
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

/// A checkpoint's folder, the weights and, if they are beside those, the adapters.
pub struct Located {
    /// The folder that was named, or a run's latest checkpoint.
    pub dir: PathBuf,
    /// The weights: those of the folder, or those that its adapters belong to.
    pub directory: Directory,
    /// Adapters that are not part of the weights.
    pub adapter: Option<PeftAdapter>,
}

impl Located {
    /// Finds what `path` means, with the adapters in `adapter` if they are named apart.
    ///
    /// # Errors
    /// If something is not there, or is of a kind that is not supported.
    pub fn find(path: &Path, adapter: Option<&Path>) -> Result<Self, SessionError> {
        let dir = locate(path)?;
        if !PeftAdapter::is_in(&dir) {
            let adapter =
                adapter.map(|path| Ok::<_, SessionError>(PeftAdapter::open(&locate(path)?)?)).transpose()?;
            return Ok(Self { directory: Directory::open(&dir)?, dir, adapter });
        }
        if adapter.is_some() {
            return Err(no_checkpoint(
                path,
                "is an adapter itself: name the weights that --adapter belongs to",
            ));
        }
        let adapter = PeftAdapter::open(&dir)?;
        let base = adapter.base().map(PathBuf::from).filter(|base| base.is_dir());
        let base = base.ok_or_else(|| {
            let named = adapter.base().map_or_else(String::new, |base| format!(", {base:?},"));
            no_checkpoint(
                path,
                format!(
                    "is an adapter, and base_model_name_or_path{named} is no folder here: name the folder of the weights \
                     and give the adapter by --adapter {}",
                    path.display()
                ),
            )
        })?;
        Ok(Self { directory: Directory::open(&locate(&base)?)?, dir, adapter: Some(adapter) })
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
    if path.join("config.json").is_file() || PeftAdapter::is_in(path) {
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
