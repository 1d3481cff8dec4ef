//! What is packed, by its first bytes, and its unpacking.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

use crate::zstd::{Frames, is_zstd};

/// The first bytes of gzip.
pub(crate) const GZIP: &[u8] = &[0x1f, 0x8b];

/// A reader of what `source` holds, unpacked where it is gzip or zstd.
pub(crate) enum Unpacked<R: Read> {
    Plain(BufReader<R>),
    Gzip(Members<R>),
    Zstd(Frames<R>),
}

impl<R: Read> Unpacked<R> {
    /// Looks at the first bytes of `source`.
    pub(crate) fn open(source: R) -> io::Result<Self> {
        let mut source = BufReader::with_capacity(1 << 16, source);
        let head = source.fill_buf()?;
        let (is_gzip, is_zstd) = (head.starts_with(GZIP), is_zstd(head));
        Ok(match (is_gzip, is_zstd) {
            (true, _) => Self::Gzip(Members(Member::Open(Box::new(GzDecoder::new(source))))),
            (_, true) => Self::Zstd(Frames::new(source)),
            _ => Self::Plain(source),
        })
    }

    /// By what it is packed.
    pub(crate) fn packer(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Gzip(_) => Some("gzip"),
            Self::Zstd(_) => Some("zstd"),
        }
    }

    /// What is unpacked.
    pub(crate) fn source(&self) -> &R {
        match self {
            Self::Plain(source) | Self::Gzip(Members(Member::Over(source))) => source.get_ref(),
            Self::Gzip(Members(Member::Open(decoder))) => decoder.get_ref().get_ref(),
            Self::Gzip(Members(Member::Between)) => unreachable!("it is so only within a read"),
            Self::Zstd(frames) => frames.source(),
        }
    }

    pub(crate) fn into_source(self) -> R {
        match self {
            Self::Plain(source) | Self::Gzip(Members(Member::Over(source))) => source.into_inner(),
            Self::Gzip(Members(Member::Open(decoder))) => decoder.into_inner().into_inner(),
            Self::Gzip(Members(Member::Between)) => unreachable!("it is so only within a read"),
            Self::Zstd(frames) => frames.into_source(),
        }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buffer),
            Self::Gzip(members) => members.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// The members of a gzip file, one after another. Zeros after the last are passed over, as gzip does: tapes and
/// some tools pad files with them. Anything else there is an error.
pub(crate) struct Members<R: Read>(Member<R>);

enum Member<R: Read> {
    Open(Box<GzDecoder<BufReader<R>>>),
    /// There is none left.
    Over(BufReader<R>),
    Between,
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Member::Open(decoder) = &mut self.0 else { return Ok(0) };
            let got = decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            let Member::Open(decoder) = std::mem::replace(&mut self.0, Member::Between) else { return Ok(0) };
            let mut source = decoder.into_inner();
            let next = next_member(&mut source);
            self.0 = match next {
                Ok(true) => Member::Open(Box::new(GzDecoder::new(source))),
                _ => Member::Over(source),
            };
            next?;
        }
    }
}

/// Whether another member begins here, or there are only zeros up to the end.
fn next_member(source: &mut impl BufRead) -> io::Result<bool> {
    if source.fill_buf()?.starts_with(GZIP) {
        return Ok(true);
    }
    let mut passed = 0u64;
    loop {
        let bytes = source.fill_buf()?;
        if bytes.is_empty() {
            return Ok(false);
        }
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        if zeros < bytes.len() {
            let after = if passed + zeros as u64 > 0 { "zeros and then something else" } else { "something" };
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{after} follows its last member"),
            ));
        }
        passed += zeros as u64;
        source.consume(zeros);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn member(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Unpacked::open(bytes)?.read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn members_follow_each_other_and_zeros_the_last() {
        let one = member(b"one ");
        for zeros in [0, 1, 512, 1 << 17] {
            let packed = [one.as_slice(), &member(b"two"), &vec![0; zeros]].concat();
            assert_eq!(unpack(&packed).unwrap(), b"one two", "{zeros}");
        }
        assert_eq!(unpack(b"plain").unwrap(), b"plain");
        assert_eq!(unpack(b"").unwrap(), b"");
    }

    #[test]
    fn anything_else_after_the_last_member_is_an_error() {
        let one = member(b"one");
        for rest in [&b"x"[..], b"\0\0x", b"\x1f", b"\x1f\x8c", b"\0\x1f\x8b\x08"] {
            assert!(unpack(&[&one, rest].concat()).is_err(), "{rest:?}");
        }
        for cut in 2..one.len() {
            assert!(unpack(&one[..cut]).is_err(), "{cut}");
        }
    }
}
