//! Writing a checkpoint.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::json;
use wattle_data::conversation::template;
use wattle_data::{ChatTemplate, Tokenizer};
use wattle_model::adapter::{info, peft, weight_file};
use wattle_model::{AdapterInfo, LanguageModel};
use wattle_runlog::run_dir::{sync_dir, write_synced};

use super::{Checkpoints, FileSum, TrainState};
use crate::engine::snapshot::CheckpointTensors;
use crate::error::TrainError;
use crate::observer::ExtraFile;

/// The file that says how text is generated.
const GENERATION_CONFIG: &str = "generation_config.json";

/// What goes into a checkpoint beside weights and moments.
pub struct CheckpointContent {
    /// The trainer's state; its list of files is filled in.
    pub state: TrainState,
    /// Whether it is the best by validation loss.
    pub is_best: bool,
    /// What its file of weights is called.
    pub weights: &'static str,
    /// Its other files, in the order in which they are written.
    pub files: Vec<ExtraFile>,
}

impl CheckpointContent {
    /// The content of a checkpoint of `model` with the dataset's tokenizer. One of adapters is in PEFT's layout.
    pub fn new(state: TrainState, is_best: bool, model: &dyn LanguageModel, tokenizer: &Tokenizer) -> Self {
        let mut config = model.config_json();
        let mut generation = json!({ "do_sample": true });
        if let Some(token) = tokenizer.end_of_text() {
            for file in [&mut config, &mut generation] {
                file["bos_token_id"] = json!(token);
                file["eos_token_id"] = json!(token);
            }
        }
        let file = |name: &str, text: String| ExtraFile { name: name.to_owned(), bytes: text.into_bytes() };
        let mut files = match model.adapter() {
            None => vec![file("config.json", pretty(&config))],
            Some(AdapterInfo { config_json, base, .. }) => {
                vec![file(peft::CONFIG, pretty(config_json)), file(info::BASE, pretty(&base.to_json()))]
            }
        };
        files.extend([
            file(GENERATION_CONFIG, pretty(&generation)),
            file("tokenizer.json", tokenizer.to_json().to_owned()),
            file("tokenizer_config.json", tokenizer.tokenizer_config_json(model.context()).to_string()),
        ]);
        Self { state, is_best, weights: weight_file(model), files }
    }

    /// The same with the dataset's chat template, if there is one, as Hugging Face keeps it: in a file of its own, and its
    /// tokens with the tokenizer's.
    /// What ends a turn also ends what is generated.
    #[must_use]
    pub fn with_chat(mut self, chat: Option<&ChatTemplate>, tokenizer: &Tokenizer) -> Self {
        let Some(chat) = chat else { return self };
        self.end_generation_at(chat.end_of_turn(tokenizer).unwrap_or_default(), tokenizer);
        let config = self.files.iter().find(|file| file.name == template::TOKENIZER_CONFIG);
        let config = config.map(|file| String::from_utf8_lossy(&file.bytes).into_owned()).unwrap_or_default();
        for (name, text) in chat.files(&config) {
            self.files.retain(|file| file.name != name);
            self.files.push(ExtraFile { name: name.to_owned(), bytes: text.into_bytes() });
        }
        self
    }

    fn end_generation_at(&mut self, end_of_turn: Option<u32>, tokenizer: &Tokenizer) {
        let Some(end) = end_of_turn.filter(|&end| tokenizer.end_of_text() != Some(end)) else { return };
        let ends: Vec<u32> = tokenizer.end_of_text().into_iter().chain([end]).collect();
        for file in self.files.iter_mut().filter(|file| file.name == GENERATION_CONFIG) {
            let mut generation: serde_json::Value = serde_json::from_slice(&file.bytes).unwrap_or_default();
            generation["eos_token_id"] = json!(ends);
            file.bytes = pretty(&generation).into_bytes();
        }
    }

    /// The same with more files.
    #[must_use]
    pub fn with(mut self, extra: Vec<ExtraFile>) -> Self {
        self.files.extend(extra);
        self
    }
}

impl Checkpoints {
    /// Writes a checkpoint, complete or not at all. Once its own files are written, `extra` is called with the
    /// directory they are in and says what else belongs beside them.
    ///
    /// # Errors
    /// If a file cannot be written; older checkpoints are as they were.
    pub fn save(
        &self,
        tensors: &dyn CheckpointTensors,
        content: CheckpointContent,
        extra: impl FnOnce(&Path) -> Vec<ExtraFile>,
    ) -> Result<PathBuf, TrainError> {
        let (step, is_best) = (content.state.step, content.is_best);
        let (path, temporary) = (self.path(step), self.temporary_path(step));
        let written = write_files(&temporary, tensors, content, extra);
        if let Err(error) = written {
            // What was written of it takes space that may be just what is missing. The first error counts.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        if path.exists() {
            self.discard(&path)?;
        }
        fs::rename(&temporary, &path).map_err(TrainError::io("name", &path))?;
        sync_dir(&self.dir)?;
        self.publish(step, is_best)?;
        Ok(path)
    }
}

fn write_files(
    dir: &Path,
    tensors: &dyn CheckpointTensors,
    content: CheckpointContent,
    extra: impl FnOnce(&Path) -> Vec<ExtraFile>,
) -> Result<(), TrainError> {
    fs::create_dir(dir).map_err(TrainError::io("create", dir))?;
    let mut names = Vec::new();
    let (weights, moments) = (dir.join(content.weights), dir.join("optimizer.safetensors"));
    tensors.write_weights(&weights)?;
    tensors.write_moments(&moments)?;
    for (name, path) in [(content.weights, weights), ("optimizer.safetensors", moments)] {
        File::open(&path).and_then(|file| file.sync_all()).map_err(TrainError::io("sync", &path))?;
        names.push(name.to_owned());
    }
    let mut write = |file: ExtraFile| {
        let path = dir.join(&file.name);
        names.push(file.name);
        write_synced(&path, &file.bytes).map_err(TrainError::io("write", &path))
    };
    content.files.into_iter().try_for_each(&mut write)?;
    extra(dir).into_iter().try_for_each(&mut write)?;
    let files = names.iter().map(|name| FileSum::of(dir, name)).collect::<Result<_, _>>()?;
    let state = TrainState { files, ..content.state }.seal();
    let path = dir.join("state.json");
    write_synced(&path, pretty(&state).as_bytes()).map_err(TrainError::io("write", &path))?;
    Ok(sync_dir(dir)?)
}

fn pretty(value: &impl serde::Serialize) -> String {
    let mut json = serde_json::to_string_pretty(value).expect("plain data");
    json.push('\n');
    json
}
