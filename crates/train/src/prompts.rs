//! The type of `evaluate.prompts`: texts, or a file that has one a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_data::DataError;
use wattle_settings::{Kind, SettingType};

/// The largest file of prompts that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Prompts, or where they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Prompts {
    /// The prompts themselves.
    Texts(Vec<String>),
    /// A file with one prompt a line; blank lines are skipped.
    File(PathBuf),
}

impl Default for Prompts {
    fn default() -> Self {
        Self::Texts(Vec::new())
    }
}

impl Prompts {
    /// The prompts.
    ///
    /// # Errors
    /// If their file cannot be read, or has none.
    pub fn read(&self) -> Result<Vec<String>, DataError> {
        let path = match self {
            Self::Texts(texts) => return Ok(texts.clone()),
            Self::File(path) => path,
        };
        let text = wattle_files::read_text(path, MAX_BYTES)
            .map_err(|source| DataError::ReadTask { path: path.clone(), source })?;
        let prompts: Vec<String> =
            text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
        match prompts.is_empty() {
            true => Err(DataError::Argument {
                name: "evaluate.prompts",
                expected: "a file with one prompt a line".to_owned(),
                got: format!("{} without a prompt", path.display()),
            }),
            false => Ok(prompts),
        }
    }
}

impl SettingType for Prompts {
    const KIND: Kind = Kind::Other("a list of texts, or the path of a file with one a line");

    fn is_unset(&self) -> bool {
        matches!(self, Self::Texts(texts) if texts.is_empty())
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Texts(_) => Vec::new(),
            Self::File(path) => vec![path],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_texts_or_the_lines_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts.txt");
        std::fs::write(&path, "Once\n\n One more \n").unwrap();
        assert_eq!(Prompts::File(path.clone()).read().unwrap(), ["Once", " One more "]);
        std::fs::write(&path, "\n").unwrap();
        let error = Prompts::File(path).read().unwrap_err().to_string();
        assert!(error.contains("evaluate.prompts") && error.contains("prompts.txt"), "{error}");
        let texts: Prompts = serde_json::from_str("[\"a\"]").unwrap();
        assert_eq!(texts.read().unwrap(), ["a"]);
        assert!(Prompts::default().is_unset() && !texts.is_unset());
        assert!(matches!(serde_json::from_str("\"a.txt\"").unwrap(), Prompts::File(_)));
    }
}
