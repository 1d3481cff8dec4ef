//! The bytes of input files, unpacked where they are gzip or zstd and without a byte order mark.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wattle_guard::guard;

use crate::digest::to_hex;
use crate::error::DataError;
use crate::unpack::Unpacked;

/// The byte order mark of UTF-8, which some editors put first.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How many times its size on disk a packed file may have when it is unpacked. Text packs 3 to 10 times, logs up to
/// about 50.
const MOST_UNPACKED: u64 = 200;

/// What any packed file may unpack to. Less in tests.
const ALWAYS_UNPACKED_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 1 << 30 };

/// An open input file.
pub(crate) struct Input {
    path: PathBuf,
    bytes: Unpacked<Counted>,
    /// Its size on disk.
    len_bytes: u64,
    /// Bytes unpacked.
    unpacked: u64,
    /// First bytes that were looked at and not given out.
    head: Vec<u8>,
    /// Bytes of a byte order mark that was passed over.
    skipped: u64,
}

impl Input {
    /// Opens `path`; with `hashed`, what is on disk is hashed as it is read.
    pub(crate) fn open(path: &Path, hashed: bool) -> Result<Self, DataError> {
        let file = wattle_files::open(path).map_err(DataError::read(path))?;
        let len_bytes = file.metadata().map_err(DataError::read(path))?.len();
        let counted = Counted { file, read: 0, hasher: hashed.then(Sha256::new) };
        let bytes = Unpacked::open(counted).map_err(DataError::read(path))?;
        let called = path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase);
        let claimed =
            [("gz", "gzip"), ("zst", "zstd")].into_iter().find(|(end, _)| called.as_deref() == Some(end));
        if let Some((_, packer)) = claimed.filter(|(_, packer)| bytes.packer() != Some(packer)) {
            let source =
                io::Error::new(io::ErrorKind::InvalidData, format!("it does not begin as {packer} does"));
            return Err(DataError::Packed { path: path.to_owned(), packer, source });
        }
        let mut input =
            Self { path: path.to_owned(), bytes, len_bytes, unpacked: 0, head: Vec::new(), skipped: 0 };
        let mut head = Vec::new();
        input.append(&mut head, BOM.len())?;
        match head == BOM {
            true => input.skipped = BOM.len() as u64,
            false => input.head = head,
        }
        Ok(input)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends at most `wanted` bytes to `buffer`; `false` at the end of the file.
    pub(crate) fn append(&mut self, buffer: &mut Vec<u8>, wanted: usize) -> Result<bool, DataError> {
        let from_head = self.head.len().min(wanted);
        buffer.reserve(wanted);
        buffer.extend(self.head.drain(..from_head));
        let rest = (wanted - from_head) as u64;
        let got = guard(|| (&mut self.bytes).take(rest).read_to_end(buffer))
            .unwrap_or_else(|panic| Err(io::Error::new(io::ErrorKind::InvalidData, panic)));
        let got = got.map_err(|error| fault(&self.path, error, self.bytes.packer()))? as u64;
        self.unpacked += got;
        match self.bytes.packer() {
            Some(packer) if self.unpacked > ALWAYS_UNPACKED_BYTES.max(MOST_UNPACKED * self.len_bytes) => {
                let (path, packed) = (self.path.clone(), self.len_bytes);
                Err(DataError::Unpacked { path, packer, packed, most: MOST_UNPACKED })
            }
            _ => Ok(got == rest),
        }
    }

    /// Bytes of a byte order mark at the beginning, which was passed over.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether there was one.
    pub(crate) fn has_bom(&self) -> bool {
        self.skipped > 0
    }

    /// Bytes read from the disk.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.bytes.source().read
    }

    /// Its size on disk, if it is packed.
    pub(crate) fn packed_bytes(&self) -> Option<u64> {
        self.bytes.packer().map(|_| self.len_bytes)
    }

    /// The hash of the file on disk, when all of it was read, in hexadecimal.
    pub(crate) fn sha256(self) -> String {
        let hasher = self.bytes.into_source().hasher;
        hasher.map(|hasher| to_hex(&hasher.finalize())).unwrap_or_default()
    }
}

/// What is not packed as it says, or not all of it, told as such; other faults are the disk's.
fn fault(path: &Path, source: io::Error, packer: Option<&'static str>) -> DataError {
    let path = path.to_owned();
    match (source.kind(), packer) {
        (
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData,
            Some(packer),
        ) => DataError::Packed { path, packer, source },
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
        // The buffered readers above do not all ask again where a signal interrupts.
        let got = wattle_files::read_some(&self.file, buffer)?;
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
            assert!(matches!(error, DataError::Packed { .. }), "{cut}: {error}");
            assert!(error.to_string().contains("text.txt.gz"), "{error}");
        }
        std::fs::write(&path, "not gzip at all").unwrap();
        assert!(matches!(read(&path), Err(DataError::Packed { .. })));
    }

    #[test]
    fn what_unpacks_without_measure_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.txt.gz");
        let pack = |text: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        // As much as any file may have, and a byte more.
        let text = vec![b'a'; ALWAYS_UNPACKED_BYTES as usize + 1];
        std::fs::write(&path, pack(&text[1..])).unwrap();
        assert_eq!(read(&path).unwrap().0.len() as u64, ALWAYS_UNPACKED_BYTES);
        let packed = pack(&text);
        std::fs::write(&path, &packed).unwrap();
        let error = read(&path).unwrap_err();
        assert!(
            matches!(error, DataError::Unpacked { packed: n, .. } if n == packed.len() as u64),
            "{error}"
        );
        assert!(
            error.to_string().contains("gzip -dc") && error.to_string().contains("text.txt.gz"),
            "{error}"
        );
        // A larger file may have more.
        std::fs::write(&path, [packed, vec![0; 1 << 14]].concat()).unwrap();
        assert_eq!(read(&path).unwrap().0, text);
    }

    #[test]
    fn a_byte_order_mark_is_passed_over_and_gzip_needs_no_ending() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text");
        for (content, expected) in
            [("\u{feff}ab", "ab"), ("\u{feff}", ""), ("a", "a"), ("", ""), ("a\u{feff}", "a\u{feff}")]
        {
            std::fs::write(&path, content).unwrap();
            let hash = crate::digest::sha256_hex(content.as_bytes());
            assert_eq!(read(&path).unwrap(), (expected.as_bytes().to_vec(), hash));
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(content.as_bytes()).unwrap();
            let packed = [encoder.finish().unwrap(), vec![0; 600]].concat();
            std::fs::write(&path, &packed).unwrap();
            assert_eq!(read(&path).unwrap().0, expected.as_bytes());
            assert_eq!(read(&path).unwrap().1, crate::digest::sha256_hex(&packed));
        }
    }
}
