//! Folders of files in the layout of a dataset on the Hugging Face Hub.
//!
//! The files lie in the folder or below it, and their names tell the split: `data/train-00000-of-00003.parquet`,
//! `validation.jsonl`, `test/part-0.parquet`. Files without such a name are to learn from. Of several kinds of file the
//! first of Parquet, JSON and text counts, as a repository often has its corpus in several. Files are taken in the
//! order of their paths. A folder of the Hub's own cache (`datasets--OWNER--NAME`) stands for its newest snapshot.
//!
//! # References
//! "File names and splits" in the Hub's documentation of datasets.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;

/// How files are called that hold a split to measure on.
const VALIDATION: &[&str] = &["validation", "valid", "val", "dev"];
/// How files are called that hold a split to learn from.
const TRAINING: &[&str] = &["train", "training"];
/// How files are called that hold a split for the end, which is not read.
const TEST: &[&str] = &["test", "testing", "eval", "evaluation"];

/// Kinds of file by the end of their names, the first that a folder has being read.
const KINDS: &[&[&str]] = &[&["parquet"], &["jsonl", "ndjson", "json"], &["txt"]];

/// Files that describe a dataset and hold none of it.
const DESCRIPTIONS: &[&str] = &[
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
    "state.json",
    "requirements.txt",
    "license.txt",
];

/// Deepest folder below the one that is named.
const MAX_DEPTH: usize = 8;

/// The files of a dataset that are read, each split in order.
#[derive(Debug)]
pub(crate) struct HubFiles {
    pub train: Vec<PathBuf>,
    pub val: Vec<PathBuf>,
}

/// A split by the names that files have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Train,
    Validation,
    Test,
}

/// The files of the dataset in `dir`, by split.
///
/// # Errors
/// If it cannot be read, holds nothing to learn from, holds several corpora, or lacks a part of one.
pub(crate) fn files(dir: &Path) -> Result<HubFiles, DataError> {
    let root = snapshot(dir)?.unwrap_or_else(|| dir.to_owned());
    let mut all = Vec::new();
    collect(&root, 0, &mut all)?;
    all.sort();
    let fault = |reason: String| DataError::Folder { path: dir.to_owned(), reason };
    let is_kind = |path: &PathBuf, kind: &[&str]| extension(path).is_some_and(|e| kind.contains(&e.as_str()));
    let Some(kind) = KINDS.iter().find(|kind| all.iter().any(|path| is_kind(path, kind))) else {
        return Err(fault(without_data(&all)));
    };
    all.retain(|path| is_kind(path, kind));
    let named: Vec<(Option<Named>, &PathBuf)> =
        all.iter().map(|path| (split_of(path.strip_prefix(&root).unwrap_or(path)), path)).collect();
    let of = |wanted| -> Vec<PathBuf> {
        named.iter().filter(|(split, _)| *split == wanted).map(|(_, path)| (*path).clone()).collect()
    };
    let (mut train, val) = (of(Some(Named::Train)), of(Some(Named::Validation)));
    if train.is_empty() {
        train = of(None);
    }
    if train.is_empty() {
        return Err(fault(
            "has files to validate or test on and none to train on; name the files".to_owned(),
        ));
    }
    if let Some(several) =
        several_corpora(&train, &root).filter(|_| named.iter().any(|(split, _)| split.is_some()))
    {
        return Err(fault(format!("holds several corpora, {several}; name the folder or the files of one")));
    }
    match train.iter().chain(&val).find_map(|path| missing_part(path, &all)) {
        Some(missing) => Err(fault(format!(
            "lacks {missing:?}, which the names of its other files count; fetch it, or name the files that are to \
             be read, for example as {:?}",
            dir.join(format!("**/*.{}", kind[0]))
        ))),
        None => Ok(HubFiles { train, val }),
    }
}

/// The newest snapshot in a folder of the Hub's cache; `None` of another folder.
fn snapshot(dir: &Path) -> Result<Option<PathBuf>, DataError> {
    let main = dir.join("refs/main");
    if !main.is_file() || !dir.join("snapshots").is_dir() {
        return Ok(None);
    }
    let revision = wattle_files::read_text(&main, wattle_files::SMALL).map_err(DataError::read(&main))?;
    Ok(Some(dir.join("snapshots").join(revision.trim())))
}

/// Collects the files below `dir`, hidden ones and descriptions left out.
fn collect(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in fs::read_dir(dir).map_err(DataError::read(dir))? {
        let path = entry.map_err(DataError::read(dir))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.starts_with('.') || DESCRIPTIONS.contains(&name.as_str()) {
            continue;
        }
        let metadata = path.metadata().map_err(DataError::read(&path))?;
        if metadata.is_dir() && depth < MAX_DEPTH {
            collect(&path, depth + 1, files)?;
        } else if metadata.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// What a file's name ends with, beside what packs it.
fn extension(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
    name.rsplit_once('.').map(|(_, extension)| extension.to_owned())
}

/// The split that a path within its folder names: its file's name, or else the folder next above that names one.
fn split_of(path: &Path) -> Option<Named> {
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().to_lowercase()).collect();
    parts.iter().rev().find_map(|part| {
        let words: Vec<&str> = part.split(|c: char| !c.is_ascii_alphabetic()).collect();
        let has = |names: &[&str]| words.iter().any(|word| names.contains(word));
        match () {
            () if has(TRAINING) => Some(Named::Train),
            () if has(VALIDATION) => Some(Named::Validation),
            () if has(TEST) => Some(Named::Test),
            () => None,
        }
    })
}

/// The folders of `files`, if there is more than one, those left out that are called by a split.
fn several_corpora(files: &[PathBuf], root: &Path) -> Option<String> {
    let folder = |path: &PathBuf| -> PathBuf {
        let within = path.strip_prefix(root).unwrap_or(path);
        let folder = within.parent().unwrap_or(Path::new(""));
        folder.iter().filter(|part| split_of(Path::new(part)).is_none()).collect()
    };
    let folders: BTreeSet<PathBuf> = files.iter().map(folder).collect();
    let quoted: Vec<String> = folders.iter().map(|folder| format!("{:?}", root.join(folder))).collect();
    (folders.len() > 1).then(|| quoted.join(" and "))
}

/// Of a file `NAME-00001-of-00003.EXT`: the first of its series that is not in `all`.
fn missing_part(path: &Path, all: &[PathBuf]) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let (before, after) = name.rsplit_once("-of-")?;
    let (stem, number) = before.rsplit_once('-')?;
    let n_digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let (total, rest) = after.split_at(n_digits);
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let n_parts: usize = total.parse().ok().filter(|_| is_number(number))?;
    // No more are looked for than could be missing of so many files.
    (0..n_parts.min(all.len() + 1))
        .map(|i| path.with_file_name(format!("{stem}-{i:0width$}-of-{total}{rest}", width = number.len())))
        .find(|part| !all.contains(part))
}

/// Why a folder has nothing that can be read.
fn without_data(files: &[PathBuf]) -> String {
    let is_arrow = |path: &PathBuf| extension(path).is_some_and(|extension| extension == "arrow");
    if files.iter().any(is_arrow) {
        return "holds Arrow files, as `save_to_disk` writes them; write Parquet, in Python with \
                `load_from_disk(DIR).to_parquet(FILE)`"
            .to_owned();
    }
    "has no Parquet, JSON or text files; name the files that are to be read".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        dir
    }

    fn names(names: &[&str]) -> Result<(Vec<String>, Vec<String>), DataError> {
        let dir = folder(names);
        let inputs = files(dir.path())?;
        let names = |paths: Vec<PathBuf>| {
            paths.iter().map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string()).collect()
        };
        Ok((names(inputs.train), names(inputs.val)))
    }

    #[test]
    fn names_tell_splits_and_order() {
        let data = ["data/train-00001-of-00002.parquet", "data/train-00000-of-00002.parquet"];
        let more = ["data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"];
        let beside = ["README.md", ".gitattributes", "dataset_infos.json", "train.jsonl"];
        let (train, val) = names(&[&data[..], &more, &beside].concat()).unwrap();
        assert_eq!((train, val), (vec![data[1].into(), data[0].into()], vec![more[1].to_owned()]));
        let fineweb = ["data/CC-MAIN-2013-20/000_00001.parquet", "data/CC-MAIN-2013-48/000_00000.parquet"];
        assert_eq!(names(&fineweb).unwrap(), (fineweb.map(str::to_owned).to_vec(), vec![]));
        let folders = ["train/b.jsonl.gz", "train/a.jsonl.zst", "dev/c.json", "training-notes.md"];
        assert_eq!(
            names(&folders).unwrap(),
            (vec![folders[1].into(), folders[0].into()], vec![folders[2].to_owned()])
        );
    }

    #[test]
    fn what_is_not_one_whole_corpus_is_refused_with_its_remedy() {
        for (files, parts) in [
            (&["README.md"][..], ["no Parquet, JSON or text", "name the files"]),
            (&["train/data-00000-of-00001.arrow"], ["Arrow", "to_parquet"]),
            (
                &["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet"],
                ["several corpora", "name"],
            ),
            (
                &["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
                ["train-00001-of-00003", "fetch"],
            ),
            (&["test.jsonl"], ["none to train on", "name the files"]),
        ] {
            let said = names(files).unwrap_err().to_string();
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        }
    }

    #[test]
    fn a_folder_of_the_hubs_cache_stands_for_its_snapshot() {
        let dir = folder(&["refs/main", "snapshots/abc/data/train.jsonl", "snapshots/old/data/train.jsonl"]);
        fs::write(dir.path().join("refs/main"), "abc\n").unwrap();
        assert_eq!(files(dir.path()).unwrap().train, [dir.path().join("snapshots/abc/data/train.jsonl")]);
    }
}
