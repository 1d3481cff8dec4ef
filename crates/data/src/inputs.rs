//! What `data.input` names: files, patterns of files, folders.

use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::hub_folder::{self, HubFiles};

/// Files in the order in which they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// Files to learn from.
    pub train: Vec<PathBuf>,
    /// Files to measure on, from folders that have some. Where no folder has, a share of the others is held out.
    pub val: Vec<PathBuf>,
}

impl Inputs {
    /// What `paths` name. A pattern (`corpus/*.parquet`, `**` for any folders) stands for the files that it matches, in
    /// the order of their paths; a folder for the dataset in it, see [`hub_folder`].
    ///
    /// # Errors
    /// If a pattern matches no file or is not one, or a folder is not a dataset.
    pub(crate) fn of(paths: &[PathBuf]) -> Result<Self, DataError> {
        let mut inputs = Self::default();
        for path in paths {
            let found = Self::at(path)?;
            inputs.train.extend(found.train);
            inputs.val.extend(found.val);
        }
        Ok(inputs)
    }

    fn at(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            let HubFiles { train, val } = hub_folder::files(path)?;
            return Ok(Self { train, val });
        }
        let train = match pattern_of(path) {
            Some(pattern) => matches(path, pattern)?,
            None => vec![path.to_owned()],
        };
        Ok(Self { train, val: Vec::new() })
    }

    /// How many files there are.
    pub(crate) fn len(&self) -> usize {
        self.train.len() + self.val.len()
    }

    /// All files, those to learn from first.
    pub(crate) fn all(&self) -> Vec<PathBuf> {
        [self.train.as_slice(), &self.val].concat()
    }
}

/// A path as a pattern, if it has a sign of one and is not the name of a file.
pub(crate) fn pattern_of(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists())
}

fn matches(path: &Path, pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let fault = |reason: String| DataError::Pattern { path: path.to_owned(), reason };
    let found = glob::glob(pattern).map_err(|error| fault(error.to_string()))?;
    let mut files = Vec::new();
    for path in found {
        let path =
            path.map_err(|error| DataError::read(error.path())(std::io::Error::other(error.to_string())))?;
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(fault("matches no file".to_owned())) } else { Ok(files) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_sorted_files_and_a_name_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", "c.md", "a[1].txt", "deep/er/d.txt"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let names = |pattern: &str| -> Result<Vec<String>, DataError> {
            let files = Inputs::of(&[dir.path().join(pattern)])?.train;
            Ok(files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect())
        };
        assert_eq!(names("*.txt").unwrap(), ["a.txt", "a[1].txt", "b.txt"]);
        assert_eq!(names("[ab].txt").unwrap(), ["a.txt", "b.txt"]);
        assert_eq!(names("a[1].txt").unwrap(), ["a[1].txt"]);
        assert_eq!(names("**/d.*").unwrap(), ["d.txt"]);
        assert_eq!(names("absent.txt").unwrap(), ["absent.txt"]);
        for (pattern, needle) in [("*.parquet", "matches no file"), ("x[", "range"), ("a***", "wildcard")] {
            let said = names(pattern).unwrap_err().to_string();
            assert!(said.contains(needle) && said.contains("data.input"), "{said}");
        }
    }
}
