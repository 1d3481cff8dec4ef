//! `datasets.lock.toml`: the hash of every file that was downloaded, so that a later download is the same file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lock;
use crate::error::DataError;

/// Name of the lock file in the cache folder.
const FILE_NAME: &str = "datasets.lock.toml";

const HEADER: &str = "# Files as they were downloaded first. A later download with another hash is refused; to accept\n\
                      # one on purpose, delete its entry.\n";

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pin {
    pub dataset: String,
    pub file: String,
    pub url: String,
    pub bytes: u64,
    pub sha256: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    #[serde(default, rename = "file")]
    files: Vec<Pin>,
}

/// The lock file of a cache folder.
pub(super) struct Pins {
    path: PathBuf,
}

impl Pins {
    pub(super) fn in_cache(cache_dir: &Path) -> Self {
        Self { path: cache_dir.join(FILE_NAME) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was noted of a file.
    pub(super) fn read(&self, dataset: &str, file: &str) -> Result<Option<Pin>, DataError> {
        Ok(self.load()?.files.into_iter().find(|pin| pin.dataset == dataset && pin.file == file))
    }

    /// Notes a file, in the place of what was noted of it before.
    pub(super) fn write(&self, pin: Pin) -> Result<(), DataError> {
        // Another process may be noting a file of another corpus.
        let _lock = lock(&self.path.with_file_name(format!(".{FILE_NAME}.guard")))?;
        let mut content = self.load()?;
        content.files.retain(|other| (&other.dataset, &other.file) != (&pin.dataset, &pin.file));
        content.files.push(pin);
        content.files.sort_by(|a, b| (&a.dataset, &a.file).cmp(&(&b.dataset, &b.file)));
        let toml = toml::to_string(&content).expect("strings and numbers can be written as TOML");
        self.replace(&format!("{HEADER}\n{toml}")).map_err(DataError::write(&self.path))
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let partial = self.path.with_extension("toml.partial");
        let mut file = File::create(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &self.path)
    }

    fn load(&self) -> Result<Content, DataError> {
        let toml = match fs::read_to_string(&self.path) {
            Ok(toml) => toml,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
            Err(error) => return Err(DataError::read(&self.path)(error)),
        };
        toml::from_str(&toml).map_err(|error| DataError::DatasetManifest {
            path: self.path.clone(),
            reason: format!("{error}; mend it, or delete it to note all files anew"),
        })
    }
}
