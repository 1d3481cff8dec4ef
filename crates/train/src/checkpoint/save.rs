//! Writing a checkpoint.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::json;
use wattle_model::hugging_face::write_safetensors;
use wattle_runlog::run_dir::{sync_dir, write_synced};

use super::{Checkpoints, FileSum, TEMPORARY, TrainState, dir_name};
use crate::engine::StepEngine;
use crate::error::TrainError;
use crate::observer::ExtraFile;

/// What goes into a checkpoint.
pub struct CheckpointContent<'a> {
    /// The engine, which has exported its weights to the model.
    pub engine: &'a dyn StepEngine,
    /// The trainer's state; its list of files is filled in.
    pub state: TrainState,
    /// The content of `tokenizer.json`.
    pub tokenizer_json: &'a str,
    /// The content of `tokenizer_config.json`.
    pub tokenizer_config_json: &'a str,
    /// The token that ends a text, if the tokenizer has one.
    pub end_of_text: Option<u32>,
}

impl Checkpoints {
    /// Writes a checkpoint, complete or not at all. Once its own files are written, `extra` is called with the
    /// directory they are in and says what else belongs beside them.
    ///
    /// # Errors
    /// If a file cannot be written; older checkpoints are as they were.
    pub fn save(
        &self,
        content: &CheckpointContent<'_>,
        is_best: bool,
        extra: impl FnOnce(&Path) -> Vec<ExtraFile>,
    ) -> Result<PathBuf, TrainError> {
        let step = content.state.step;
        let (path, temporary) = (self.path(step), self.dir.join(format!("{}{TEMPORARY}", dir_name(step))));
        let written = write_files(&temporary, content, extra);
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
    content: &CheckpointContent<'_>,
    extra: impl FnOnce(&Path) -> Vec<ExtraFile>,
) -> Result<(), TrainError> {
    fs::create_dir(dir).map_err(TrainError::io("create", dir))?;
    let CheckpointContent { engine, state, tokenizer_json, tokenizer_config_json, end_of_text } = content;
    let model = engine.model();
    let mut names = Vec::new();
    let (weights, moments) = (dir.join("model.safetensors"), dir.join("optimizer.safetensors"));
    write_safetensors(&weights, &model.weights()?)?;
    engine.write_moments(&moments)?;
    for (name, path) in [("model.safetensors", weights), ("optimizer.safetensors", moments)] {
        File::open(&path).and_then(|file| file.sync_all()).map_err(TrainError::io("sync", &path))?;
        names.push(name.to_owned());
    }
    let mut write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        names.push(name.to_owned());
        write_synced(&path, bytes).map_err(TrainError::io("write", &path))
    };
    let mut config = model.config_json();
    let mut generation = json!({ "do_sample": true });
    if let Some(token) = end_of_text {
        for file in [&mut config, &mut generation] {
            file["bos_token_id"] = json!(token);
            file["eos_token_id"] = json!(token);
        }
    }
    write("config.json", pretty(&config).as_bytes())?;
    write("generation_config.json", pretty(&generation).as_bytes())?;
    write("tokenizer.json", tokenizer_json.as_bytes())?;
    write("tokenizer_config.json", tokenizer_config_json.as_bytes())?;
    for file in extra(dir) {
        write(&file.name, &file.bytes)?;
    }
    let files = names.iter().map(|name| FileSum::of(dir, name)).collect::<Result<_, _>>()?;
    let state = TrainState { files, ..state.clone() }.seal();
    let path = dir.join("state.json");
    write_synced(&path, pretty(&state).as_bytes()).map_err(TrainError::io("write", &path))?;
    Ok(sync_dir(dir)?)
}

fn pretty(value: &impl serde::Serialize) -> String {
    let mut json = serde_json::to_string_pretty(value).expect("plain data");
    json.push('\n');
    json
}
