//! Whether the tokens of a dataset are those that were written.
//!
//! Shards are hashed when they are first used, all at once on all cores. What was found whole is noted in the dataset's
//! folder by size, times and inode, so that the next start need not read it again: whatever changes a file's content
//! changes its time of change, which no program can set.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::progress::{Progress, Stage};
use crate::shard::Shard;

/// Name of the note in a dataset's folder.
const FILE_NAME: &str = "verified.json";
/// Schema and version of the note.
const SCHEMA: &str = "wattle.verified/1";
/// Whether the tokens of a dataset are compared with their hashes before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// At first use, and again whenever a file has changed.
    FirstUse,
    /// Never: a damaged shard goes unnoticed unless it holds an id beyond the vocabulary.
    Never,
}

/// A file as it was when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    sha256: String,
    bytes: u64,
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    schema: String,
    shards: BTreeMap<String, Mark>,
}

impl Mark {
    fn of(shard: &Shard) -> Self {
        let file = shard.metadata();
        Self {
            sha256: shard.sha256(),
            bytes: file.len(),
            device: file.dev(),
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Hashes the shards of the dataset in `dir` that have not been since they last changed, and notes those that are whole.
pub(crate) fn verify(
    dir: &Path,
    shards: &[&Shard],
    progress: &mut dyn FnMut(Progress),
) -> Result<(), DataError> {
    let noted = noted(dir);
    let doubtful: Vec<&Shard> =
        shards.iter().copied().filter(|shard| noted.get(&name(shard)) != Some(&Mark::of(shard))).collect();
    if doubtful.is_empty() {
        return Ok(());
    }
    hash(&doubtful, progress)?;
    // Marks are of the files as they were opened: one that changed while it was read is read again next time. Where the
    // folder cannot be written to, its tokens are hashed at every start.
    let _ = note(dir, shards.iter().map(|shard| (name(shard), Mark::of(shard))).collect());
    Ok(())
}

fn name(shard: &Shard) -> String {
    shard.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Hashes `shards` on all cores, while this thread says how far that is.
fn hash(shards: &[&Shard], progress: &mut dyn FnMut(Progress)) -> Result<(), DataError> {
    let total = shards.iter().map(|shard| shard.payload_bytes()).sum();
    let (hashed, signs) = channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            let verify = |hashed: &mut Sender<u64>, shard: &&Shard| {
                shard.verify(&mut |bytes| hashed.send(bytes).unwrap_or_default())
            };
            shards.par_iter().try_for_each_with(hashed, verify)
        });
        let mut done = 0;
        for bytes in signs {
            done += bytes;
            progress(Progress { stage: Stage::Verifying, done, total, unit: "bytes" });
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What was noted before; nothing if there is no note that can be read.
fn noted(dir: &Path) -> BTreeMap<String, Mark> {
    let json = wattle_files::read(&dir.join(FILE_NAME), wattle_files::SMALL).unwrap_or_default();
    let note = serde_json::from_slice::<Note>(&json).ok();
    note.filter(|note| note.schema == SCHEMA).map(|note| note.shards).unwrap_or_default()
}

fn note(dir: &Path, shards: BTreeMap<String, Mark>) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(&format!("{FILE_NAME}.partial-")).tempfile_in(dir)?;
    serde_json::to_writer_pretty(&mut file, &Note { schema: SCHEMA.to_owned(), shards })?;
    file.write_all(b"\n")?;
    file.persist(dir.join(FILE_NAME))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use super::*;
    use crate::config::{DataConfig, TokenizerConfig};
    use crate::dataset::Dataset;
    use crate::prepare::prepare_into;
    use crate::tokenizer_kind::TokenizerKind;

    fn dataset() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let text = root.path().join("text.txt");
        fs::write(&text, "all work and no play ".repeat(500)).unwrap();
        let data = DataConfig { input: vec![text], ..DataConfig::default() };
        let bytes = TokenizerConfig { kind: TokenizerKind::Bytes, ..TokenizerConfig::default() };
        let dir = root.path().join("data");
        prepare_into(&dir, &data, &bytes, &mut |_| {}).unwrap();
        (root, dir)
    }

    /// Bytes that were hashed to find the dataset whole.
    fn hashed(dir: &Path) -> Result<u64, DataError> {
        let mut last = 0;
        Dataset::open(dir)?.verify(&mut |progress| last = progress.done)?;
        Ok(last)
    }

    fn change(path: &Path) {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(b"z", 100).unwrap();
    }

    #[test]
    fn what_is_whole_is_hashed_once() {
        let (_root, dir) = dataset();
        assert_eq!(hashed(&dir).unwrap(), 2 * 21 * 500);
        assert_eq!(hashed(&dir).unwrap(), 0);
        // A copy has files of its own.
        fs::copy(dir.join("val-00000.bin"), dir.join("copy")).unwrap();
        fs::rename(dir.join("copy"), dir.join("val-00000.bin")).unwrap();
        assert!(hashed(&dir).unwrap() > 0);
        fs::write(dir.join(FILE_NAME), "{}").unwrap();
        assert_eq!(hashed(&dir).unwrap(), 2 * 21 * 500);
    }

    #[test]
    fn a_change_is_found_though_the_time_of_writing_is_put_back() {
        let (_root, dir) = dataset();
        hashed(&dir).unwrap();
        let shard = dir.join("train-00000.bin");
        let modified = shard.metadata().unwrap().modified().unwrap();
        change(&shard);
        fs::File::options().write(true).open(&shard).unwrap().set_modified(modified).unwrap();
        let error = hashed(&dir).unwrap_err();
        assert!(matches!(&error, DataError::ShardHash { path, .. } if *path == shard), "{error}");
        assert!(hashed(&dir).is_err(), "a damaged shard was noted as whole");
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_verified_every_time() {
        let (_root, dir) = dataset();
        // Root may write anywhere: a folder in the note's place stops it too.
        fs::create_dir(dir.join(FILE_NAME)).unwrap();
        assert_eq!(hashed(&dir).unwrap(), hashed(&dir).unwrap());
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().contains(".partial-")), "{names:?}");
    }
}
