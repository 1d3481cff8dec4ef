//! Input files: what they hold by their name, and their bytes, unpacked where they are gzip.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use crate::digest::to_hex;
use crate::error::DataError;

/// What input files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text, read one file after another as one.
    #[default]
    Text,
    /// Documents: a JSON object a line, the text in the field `data.text_field`.
    Jsonl,
    /// Documents, each ended by a line that is this and nothing else.
    Separated {
        /// The line, without its end.
        line: String,
    },
}

impl Format {
    /// What a file of this name holds: `.jsonl` and `.ndjson` are documents, anything else is text. `.gz` after
    /// that is gzip.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        if name.ends_with(".jsonl") || name.ends_with(".ndjson") { Self::Jsonl } else { Self::Text }
    }

    /// What all of `paths` hold, or the first two that differ.
    pub(crate) fn of_all(paths: &[PathBuf]) -> Result<Self, [PathBuf; 2]> {
        let Some(first) = paths.first() else { return Ok(Self::Text) };
        match paths.iter().find(|path| Self::of(path) != Self::of(first)) {
            None => Ok(Self::of(first)),
            Some(other) => Err([first.clone(), other.clone()]),
        }
    }

    /// Whether the input is documents.
    pub fn is_documents(&self) -> bool {
        *self != Self::Text
    }
}

/// An open input file.
pub(crate) struct Input {
    path: PathBuf,
    bytes: Bytes,
}

enum Bytes {
    Plain(Counted),
    Gzip(Box<MultiGzDecoder<Counted>>),
}

impl Input {
    /// Opens `path`; with `hashed`, what is on disk is hashed as it is read.
    pub(crate) fn open(path: &Path, hashed: bool) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let counted = Counted { file, read: 0, hasher: hashed.then(Sha256::new) };
        let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let bytes =
            if is_gzip { Bytes::Gzip(Box::new(MultiGzDecoder::new(counted))) } else { Bytes::Plain(counted) };
        Ok(Self { path: path.to_owned(), bytes })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends at most `wanted` bytes to `buffer`; `false` at the end of the file.
    pub(crate) fn append(&mut self, buffer: &mut Vec<u8>, wanted: usize) -> Result<bool, DataError> {
        buffer.reserve(wanted);
        let path = &self.path;
        match &mut self.bytes {
            Bytes::Plain(file) => {
                let got = file.take(wanted as u64).read_to_end(buffer).map_err(DataError::read(path))?;
                Ok(got == wanted)
            }
            Bytes::Gzip(file) => {
                let got = file.take(wanted as u64).read_to_end(buffer).map_err(gzip_fault(path))?;
                Ok(got == wanted)
            }
        }
    }

    /// Bytes read from the disk.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.counted().read
    }

    /// The hash of the file on disk, when all of it was read, in hexadecimal.
    pub(crate) fn sha256(self) -> String {
        let hasher = match self.bytes {
            Bytes::Plain(counted) => counted.hasher,
            Bytes::Gzip(decoder) => decoder.into_inner().hasher,
        };
        hasher.map(|hasher| to_hex(&hasher.finalize())).unwrap_or_default()
    }

    fn counted(&self) -> &Counted {
        match &self.bytes {
            Bytes::Plain(counted) => counted,
            Bytes::Gzip(decoder) => decoder.get_ref(),
        }
    }
}

/// What is not gzip, or not all of it, told as such; other faults are the disk's.
fn gzip_fault(path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            DataError::Gzip { path, source }
        }
        _ => DataError::Read { path, source },
    }
}

/// A file that counts what is read, and hashes it where that is wanted.
struct Counted {
    file: File,
    read: u64,
    hasher: Option<Sha256>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read(buffer)?;
        self.read += got as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
        }
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn names_tell_what_files_hold() {
        let of = |name: &str| Format::of(Path::new(name));
        for name in ["a.jsonl", "dir/A.JSONL.GZ", "x.ndjson", "x.y.ndjson.gz"] {
            assert_eq!(of(name), Format::Jsonl, "{name}");
        }
        for name in ["a.txt", "a.txt.gz", "jsonl", "a.jsonl.txt", "x.json"] {
            assert_eq!(of(name), Format::Text, "{name}");
        }
        let mixed = ["a.txt", "b.txt", "c.jsonl"].map(PathBuf::from);
        assert_eq!(Format::of_all(&mixed), Err(["a.txt", "c.jsonl"].map(PathBuf::from)));
        assert_eq!(Format::of_all(&mixed[..2]), Ok(Format::Text));
    }

    fn read(path: &Path) -> Result<(Vec<u8>, String), DataError> {
        let mut input = Input::open(path, true)?;
        let mut content = Vec::new();
        while input.append(&mut content, 1000)? {}
        Ok((content, input.sha256()))
    }

    #[test]
    fn gzip_is_unpacked_hashed_as_it_lies_and_not_believed_when_it_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.txt.gz");
        let text: Vec<u8> =
            (0..20_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        // Two members, as `cat a.gz b.gz` makes them.
        let mut packed = Vec::new();
        for part in text.chunks(50_000) {
            let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap();
        }
        std::fs::write(&path, &packed).unwrap();
        assert_eq!(read(&path).unwrap(), (text, crate::digest::sha256_hex(&packed)));
        for cut in [packed.len() - 1, packed.len() / 2, 5] {
            std::fs::write(&path, &packed[..cut]).unwrap();
            let error = read(&path).unwrap_err();
            assert!(matches!(error, DataError::Gzip { .. }), "{cut}: {error}");
            assert!(error.to_string().contains("text.txt.gz"), "{error}");
        }
        std::fs::write(&path, "not gzip at all").unwrap();
        assert!(matches!(read(&path), Err(DataError::Gzip { .. })));
    }
}
