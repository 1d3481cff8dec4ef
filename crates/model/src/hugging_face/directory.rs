//! A directory of weights.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::config_json::ConfigJson;
use super::load;
use super::weight_files::WeightFiles;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::families::ALL;
use crate::language_model::LanguageModel;

/// A directory in Hugging Face's layout, of a family that there is: a checkpoint of ours or another program's.
#[derive(Clone, Debug)]
pub struct Directory {
    dir: PathBuf,
    config: ModelConfig,
    files: WeightFiles,
}

impl Directory {
    /// Reads and checks a directory's `config.json` and finds its weights, without reading them.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the model is of another family or has a setting that is not
    /// supported; all faults of `config.json` are reported together.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let mut json = ConfigJson::read(dir)?;
        let model_type = json.text("model_type");
        let spec = ALL.iter().find(|spec| spec.model_types().any(|name| Some(name) == model_type.as_deref()));
        let config = match spec {
            Some(spec) => (spec.hugging_face.read_config)(&mut json),
            None => {
                let got =
                    model_type.map_or("is missing".to_owned(), |name| format!("= {name:?} is not supported"));
                let known: Vec<_> = ALL.iter().flat_map(|spec| spec.model_types()).collect();
                json.fault(format!("model_type {got}; supported: {}", known.join(", ")));
                ModelConfig::default()
            }
        };
        json.finish()?;
        Ok(Self { dir: dir.to_owned(), config, files: WeightFiles::find(dir)? })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its model, with `vocab_size` and `d_ff` given, never 0.
    pub fn model_config(&self) -> &ModelConfig {
        &self.config
    }

    /// Rows of its token table. A tokenizer may have fewer entries.
    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// Its files of weights.
    pub fn weight_files(&self) -> &[PathBuf] {
        self.files.paths()
    }

    /// Builds the model on `device`, with parameters in `f32` whatever the files hold.
    ///
    /// # Errors
    /// As [`Directory::load_as`].
    pub fn load(&self, device: &Device) -> Result<Box<dyn LanguageModel + Send + Sync>, ModelError> {
        self.load_as(&self.config, device)
    }

    /// Builds the model as [`ModelConfig::adopt`] made its configuration. With a context smaller than the
    /// directory's, it has the first rows of the table of positions.
    ///
    /// # Errors
    /// If a file is not whole, or tensors are missing, extra, or of another shape or type than `config.json`
    /// says; all are reported together.
    pub fn load_as(
        &self,
        config: &ModelConfig,
        device: &Device,
    ) -> Result<Box<dyn LanguageModel + Send + Sync>, ModelError> {
        load::load(&self.files, &self.config, config, device)
    }
}
