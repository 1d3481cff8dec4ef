//! A download that is not complete: its bytes so far, and by what the server knows the file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Expected, FetchedFile};
use crate::catalog::RemoteFile;
use crate::digest::to_hex;
use crate::error::DataError;

/// Bytes that are hashed at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// `FILE.part`, and `FILE.part.toml` beside it.
pub(super) struct Part {
    path: PathBuf,
}

/// Of what file a part is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// Where it comes from.
    pub url: String,
    /// Its strong `ETag`, or else its `Last-Modified`: a server resumes the same file alone.
    pub validator: Option<String>,
}

impl Part {
    /// The part of the file that will be at `destination`.
    pub(super) fn beside(destination: &Path) -> Self {
        let mut name = destination.as_os_str().to_owned();
        name.push(".part");
        Self { path: name.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.path.metadata().map_or(0, |metadata| metadata.len())
    }

    /// Of what file it is, as far as that was noted down whole.
    pub(super) fn origin(&self) -> Origin {
        let toml = fs::read_to_string(self.origin_path()).unwrap_or_default();
        toml::from_str(&toml).unwrap_or_default()
    }

    /// A new part, of `origin`.
    pub(super) fn begin(&self, origin: &Origin) -> Result<File, DataError> {
        // The part is empty before its origin is another.
        let file = File::create(&self.path).map_err(DataError::write(&self.path))?;
        let path = self.origin_path();
        let toml = toml::to_string(origin).expect("strings can be written as TOML");
        fs::write(&path, toml).map_err(DataError::write(&path))?;
        Ok(file)
    }

    /// The part, to be written on at its end.
    pub(super) fn go_on(&self) -> Result<File, DataError> {
        File::options().append(true).open(&self.path).map_err(DataError::write(&self.path))
    }

    /// Removes what is there.
    pub(super) fn discard(&self) -> Result<(), DataError> {
        remove(&self.path)?;
        self.forget()
    }

    /// Removes the note of what file it is.
    pub(super) fn forget(&self) -> Result<(), DataError> {
        remove(&self.origin_path())
    }

    /// Verifies the part and makes it the file at `destination`. A part that is not `expected` is removed.
    pub(super) fn complete(
        &self,
        file: &RemoteFile,
        destination: &Path,
        expected: &Expected,
    ) -> Result<FetchedFile, DataError> {
        let bytes = self.len();
        if let Some(length) = expected.bytes.filter(|&length| length != bytes) {
            self.discard()?;
            return Err(DataError::FetchLength { url: file.url.clone(), expected: length, got: bytes });
        }
        let sha256 = self.sha256()?;
        if let Some(hash) = expected.sha256.as_ref().filter(|&hash| *hash != sha256) {
            self.discard()?;
            let (url, expected_hash) = (file.url.clone(), hash.clone());
            let remedy = expected.remedy.clone();
            return Err(DataError::FetchHash { url, expected: expected_hash, got: sha256, remedy });
        }
        let finish = || {
            File::open(&self.path)?.sync_all()?;
            fs::rename(&self.path, destination)?;
            destination.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        finish().map_err(DataError::write(destination))?;
        self.forget()?;
        Ok(FetchedFile { path: destination.to_owned(), bytes, sha256 })
    }

    fn sha256(&self) -> Result<String, DataError> {
        let hash = || {
            let (file, mut hasher) = (File::open(&self.path)?, Sha256::new());
            let mut buffer = vec![0; BUFFER_BYTES];
            loop {
                match wattle_files::read_some(&file, &mut buffer)? {
                    0 => return Ok(to_hex(&hasher.finalize())),
                    got => hasher.update(&buffer[..got]),
                }
            }
        };
        hash().map_err(DataError::read(&self.path))
    }

    fn origin_path(&self) -> PathBuf {
        self.path.with_added_extension("toml")
    }
}

fn remove(path: &Path) -> Result<(), DataError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DataError::write(path)(error)),
        _ => Ok(()),
    }
}
