//! The safetensors files of a directory: one, or shards and the index that lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use serde::Deserialize;

use super::json_file::read_json_text;
use super::safetensors::map;
use crate::error::ModelError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Which files a directory's weights are in.
#[derive(Clone, Debug)]
pub(super) struct WeightFiles {
    /// The single file, or the index of the shards.
    head: PathBuf,
    paths: Vec<PathBuf>,
    /// Of each tensor the shard that it should be in, a position in `paths`; empty without an index.
    shard_of: BTreeMap<String, usize>,
}

/// One file, mapped into memory.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) tensors: MmapedSafetensors,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Finds them. A single file is preferred to shards, as in `transformers`.
    pub(super) fn find(dir: &Path) -> Result<Self, ModelError> {
        let single = dir.join(SINGLE);
        if single.exists() {
            return Ok(Self { head: single.clone(), paths: vec![single], shard_of: BTreeMap::new() });
        }
        let index = dir.join(INDEX);
        if index.exists() {
            return Self::of_index(dir, index);
        }
        let has_pickle = PICKLES.iter().any(|name| dir.join(name).exists());
        let reason =
            if has_pickle { needs_conversion(dir) } else { format!("has neither {SINGLE} nor {INDEX}") };
        Err(ModelError::Directory { path: dir.to_owned(), reason })
    }

    /// The files.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The file that stands for all of them in messages.
    pub(super) fn head(&self) -> &Path {
        &self.head
    }

    /// Maps every file and checks that each tensor that is `needed` is where the index says.
    pub(super) fn open(&self, needed: impl Fn(&str) -> bool) -> Result<Vec<Shard>, ModelError> {
        let shards = self.paths.iter().map(|path| Shard::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut at = BTreeMap::new();
        for (shard_idx, shard) in shards.iter().enumerate() {
            at.extend(shard.tensors.tensors().into_iter().map(|(name, _)| (name, shard_idx)));
        }
        let name_of = |shard_idx: usize| file_name(&self.paths[shard_idx]);
        let is_misplaced = |name: &String, shard_idx: &usize| match at.get(name) {
            Some(found) => found != shard_idx,
            None => needed(name),
        };
        let misplaced = self.shard_of.iter().find(|(name, shard_idx)| is_misplaced(name, shard_idx));
        match misplaced {
            None => Ok(shards),
            Some((name, &shard_idx)) => {
                let found =
                    at.get(name).map_or("in no shard".to_owned(), |&idx| format!("in {}", name_of(idx)));
                Err(ModelError::Directory {
                    path: self.head.clone(),
                    reason: format!(
                        "says that {name} is in {}, but it is {found}: files of different models are mixed; \
                         save or download the directory again",
                        name_of(shard_idx)
                    ),
                })
            }
        }
    }

    fn of_index(dir: &Path, head: PathBuf) -> Result<Self, ModelError> {
        let fault = |reason: String| ModelError::Directory { path: head.clone(), reason };
        let json = read_json_text(&head, "an index of shards")?;
        let index: Index = serde_json::from_str(&json)
            .map_err(|e| fault(format!("not an index of shards ({e}); save or download it again")))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        for name in &names {
            // A name with a path in it could point at any file of the machine.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(fault(format!("names {name:?}: expected the name of a file beside it")));
            }
            if !dir.join(name).exists() {
                return Err(fault(format!(
                    "names {name}, which is not there: save or download the directory again"
                )));
            }
        }
        let shard_of = index.weight_map.iter().map(|(tensor, name)| {
            (tensor.clone(), names.iter().position(|n| *n == name).expect("it is among them"))
        });
        let shard_of = shard_of.collect();
        Ok(Self { paths: names.into_iter().map(|name| dir.join(name)).collect(), head, shard_of })
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, ModelError> {
        Ok(Self { path: path.to_owned(), tensors: map(path)? })
    }
}

fn needs_conversion(dir: &Path) -> String {
    format!(
        "has only pytorch_model.bin, a pickle, which can run code when it is read; convert it: python -c \
         \"from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained('{0}').save_pretrained('{0}')\"",
        dir.display()
    )
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
