//! Corpora over the network: fetched once, verified, and kept in the cache.
//!
//! A file is downloaded to `downloads/NAME/FILE.part` in the cache folder and renamed when all of it is there and
//! its hash is right; what has its name is whole. A transfer that broke off is taken up where it stopped, also by
//! a later process, if the server still has the same file. One process at a time fetches a corpus; others wait.
//!
//! Proxies are taken from `http_proxy`, `https_proxy` and `no_proxy`, but not for this machine's own addresses.

mod download;
mod part;
mod pins;
mod token;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::catalog::{DatasetManifest, RemoteFile, dataset};
use crate::config::DataConfig;
use crate::digest::sha256_hex;
use crate::error::DataError;
use crate::format::Format;
use crate::written;

use download::Download;
use part::Part;
use pins::{Pin, Pins};

pub use token::Token;

/// How far a fetch has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchProgress<'a> {
    /// The file that is fetched.
    pub file: &'a str,
    /// Bytes that are there.
    pub done: u64,
    /// Bytes of the file, where they are known.
    pub total: Option<u64>,
}

/// A corpus in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its name.
    pub name: String,
    /// Its files, in order.
    pub files: Vec<FetchedFile>,
    /// What they hold.
    pub format: Format,
    /// Of JSONL: the field with the text.
    pub text_field: Option<String>,
}

/// A file in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Fetched {
    /// `data` with these files as its input: what [`crate::prepare_into`] and [`crate::prepare()`] take.
    pub fn data_config(&self, data: &DataConfig) -> DataConfig {
        DataConfig {
            input: self.files.iter().map(|file| file.path.clone()).collect(),
            text_field: self.text_field.clone().unwrap_or_else(|| data.text_field.clone()),
            known_format: Some(self.format.clone()),
            dir: None,
            ..data.clone()
        }
    }
}

/// Fetches the corpus of this name into `cache_dir`, or finds it there. Hugging Face gets to see the token in
/// `HF_TOKEN`, if there is one.
///
/// # Errors
/// If there is no such corpus, the network or the disk fails for good, or a file is not what it should be.
pub fn fetch(
    name: &str,
    cache_dir: &Path,
    progress: &mut dyn FnMut(FetchProgress<'_>),
) -> Result<Fetched, DataError> {
    Fetcher { token: Token::from_env(), ..Fetcher::default() }.fetch(dataset(name)?, cache_dir, progress)
}

/// How to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetcher {
    /// Attempts without a byte of progress before a transfer is given up. Default 5.
    pub attempts: u32,
    /// Pause after the first failed attempt; it doubles with each. Default half a second.
    pub backoff: Duration,
    /// Longest wait for a connection. Default 20 s.
    pub connect_timeout: Duration,
    /// Longest wait for the next bytes. Default 60 s; the whole transfer may take as long as it takes.
    pub idle_timeout: Duration,
    /// What a server that asks who is there gets to see. Default none.
    pub token: Option<Token>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
            token: None,
        }
    }
}

impl Fetcher {
    /// Fetches the corpus of `manifest` into `cache_dir`, or finds it there; one that a grammar writes is written there.
    ///
    /// # Errors
    /// As [`fetch`].
    pub fn fetch(
        &self,
        manifest: &DatasetManifest,
        cache_dir: &Path,
        progress: &mut dyn FnMut(FetchProgress<'_>),
    ) -> Result<Fetched, DataError> {
        let dir = cache_dir.join("downloads").join(&manifest.name);
        fs::create_dir_all(&dir).map_err(DataError::write(&dir))?;
        let _lock = lock(&dir.join(".lock"))?;
        if let Some(written) = &manifest.written {
            let (path, text) = written::write(written, manifest.text_field.as_deref(), &dir)?;
            let (bytes, sha256) = (text.len() as u64, sha256_hex(text.as_bytes()));
            return Ok(Fetched {
                name: manifest.name.clone(),
                files: vec![FetchedFile { path, bytes, sha256 }],
                format: manifest.input_format(),
                text_field: manifest.text_field.clone(),
            });
        }
        let pins = Pins::in_cache(cache_dir);
        let fetch = |file: &RemoteFile| self.fetch_file(manifest, file, &dir, &pins, progress);
        Ok(Fetched {
            name: manifest.name.clone(),
            files: manifest.files.iter().map(fetch).collect::<Result<_, _>>()?,
            format: manifest.input_format(),
            text_field: manifest.text_field.clone(),
        })
    }

    fn fetch_file(
        &self,
        manifest: &DatasetManifest,
        file: &RemoteFile,
        dir: &Path,
        pins: &Pins,
        progress: &mut dyn FnMut(FetchProgress<'_>),
    ) -> Result<FetchedFile, DataError> {
        let path = dir.join(file.name());
        let pin = pins.read(&manifest.name, file.name())?;
        let expected = Expected::of(file, pin.as_ref(), pins.path());
        if let (Ok(metadata), Some(pin)) = (path.metadata(), &pin)
            && metadata.len() == pin.bytes
            && expected.sha256.as_ref() == Some(&pin.sha256)
        {
            progress(FetchProgress { file: file.name(), done: pin.bytes, total: Some(pin.bytes) });
            return Ok(FetchedFile { path, bytes: pin.bytes, sha256: pin.sha256.clone() });
        }
        let part = Part::beside(&path);
        if path.exists() {
            // Not what was noted down, or not noted down: it is looked at as if it had just come.
            fs::rename(&path, part.path()).map_err(DataError::write(&path))?;
            part.forget()?;
            if let Some(fetched) = Self::adopt(&part, file, &path, &expected)? {
                return self.keep(fetched, manifest, file, pins);
            }
        }
        Download { fetcher: self, manifest, file, part: &part, expected: &expected }.run(progress)?;
        let fetched = part.complete(file, &path, &expected)?;
        self.keep(fetched, manifest, file, pins)
    }

    /// A file that lay there already, if it is the right one; else it is removed.
    fn adopt(
        part: &Part,
        file: &RemoteFile,
        path: &Path,
        expected: &Expected,
    ) -> Result<Option<FetchedFile>, DataError> {
        match part.complete(file, path, expected) {
            Ok(fetched) => Ok(Some(fetched)),
            Err(DataError::FetchHash { .. } | DataError::FetchLength { .. }) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn keep(
        &self,
        fetched: FetchedFile,
        manifest: &DatasetManifest,
        file: &RemoteFile,
        pins: &Pins,
    ) -> Result<FetchedFile, DataError> {
        pins.write(Pin {
            dataset: manifest.name.clone(),
            file: file.name().to_owned(),
            url: file.url.clone(),
            bytes: fetched.bytes,
            sha256: fetched.sha256.clone(),
        })?;
        Ok(fetched)
    }
}

/// What a file should be, as far as it is known, and who says so.
pub(crate) struct Expected {
    bytes: Option<u64>,
    sha256: Option<String>,
    /// What mends a hash that is not this one.
    remedy: String,
}

impl Expected {
    fn of(file: &RemoteFile, pin: Option<&Pin>, lock: &Path) -> Self {
        let (bytes, sha256) = (pin.map(|pin| pin.bytes), pin.map(|pin| pin.sha256.clone()));
        if let Some(sha256) = &file.sha256 {
            let remedy =
                "the manifest in datasets/ names the hash; if the corpus has changed for good, name the \
                          new one there"
                    .to_owned();
            return Self { bytes: file.bytes, sha256: Some(sha256.clone()), remedy };
        }
        let remedy =
            format!("to accept the new file on purpose, delete its entry in {lock:?} and fetch again");
        Self { bytes: file.bytes.or(bytes), sha256, remedy }
    }
}

/// Waits until no other process has the lock of `path`; it is given back with the file.
fn lock(path: &Path) -> Result<File, DataError> {
    let file = File::options().create(true).append(true).open(path).map_err(DataError::write(path))?;
    file.lock().map_err(DataError::write(path))?;
    Ok(file)
}
