//! Tasks: items with a right answer, on which a model is scored.
//!
//! A task is a file of JSON lines, an item a line, all of one kind. `docs/evaluation.md` describes the format.
//!
//! - `item`: what an item is
//! - `read`: reads a file, and says which field of which line is wrong
//! - `encode`: tokens of a context and of what follows it, cut at the border between them

mod encode;
mod item;
mod read;

use std::path::{Path, PathBuf};

pub use encode::{ReadItem, encode_continuation, encode_prompt};
pub use item::{Choice, Cloze, Completion, Ignore, Items};

use crate::digest::sha256_hex;
use crate::error::DataError;

/// A file of items.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name: that of the file, without its extension.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// The items, in the order of the file.
    pub items: Items,
}

/// The largest file of items that is read.
const MAX_BYTES: u64 = 1 << 30;

impl Task {
    /// Reads a file of items.
    ///
    /// # Errors
    /// If it cannot be read, or a line is not an item; the error names file, line and field.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = wattle_files::read_text(path, MAX_BYTES)
            .map_err(|source| DataError::ReadTask { path: path.to_owned(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let items = read::items(path, &text)?;
        Ok(Self { name, path: path.to_owned(), sha256: sha256_hex(text.as_bytes()), items })
    }

    /// Reads several files of items.
    ///
    /// # Errors
    /// As [`Task::read`], or if two files have the same name.
    pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Self>, DataError> {
        let mut tasks: Vec<Self> = Vec::with_capacity(paths.len());
        for path in paths {
            let task = Self::read(path)?;
            if let Some(other) = tasks.iter().find(|other| other.name == task.name) {
                return Err(DataError::SameTask {
                    name: task.name,
                    first: other.path.clone(),
                    second: path.clone(),
                });
            }
            tasks.push(task);
        }
        Ok(tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_called_as_its_file_and_no_two_are_called_alike() {
        let dir = tempfile::tempdir().unwrap();
        let line = "{\"kind\": \"cloze\", \"prompt\": \"One two\", \"answer\": \" three\"}\n";
        let paths = ["a/count.jsonl", "b/count.jsonl", "b/other.jsonl"].map(|name| dir.path().join(name));
        for path in &paths {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, line).unwrap();
        }
        let tasks = Task::read_all(&paths[1..]).unwrap();
        assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["count", "other"]);
        assert_eq!(tasks[0].sha256, tasks[1].sha256);
        assert_eq!(tasks[0].items.len(), 1);
        let error = Task::read_all(&paths).unwrap_err().to_string();
        assert!(error.contains("count") && error.contains("a/count.jsonl"), "{error}");
        let error = Task::read(&dir.path().join("none.jsonl")).unwrap_err().to_string();
        assert!(error.contains("none.jsonl") && error.contains("evaluate.tasks"), "{error}");
    }
}
