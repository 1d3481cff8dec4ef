//! Unpacking zstd: all frames of a file, with their checksums.

use std::io::{self, BufRead, BufReader, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Whether a file that begins so is zstd: a frame, or one that holds something else and is passed over.
pub(crate) fn is_zstd(head: &[u8]) -> bool {
    matches!(head, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The frames of a zstd file, one after another, as `zstd` and `pzstd` write them.
pub(crate) struct Frames<R: Read> {
    source: BufReader<R>,
    decoder: Box<FrameDecoder>,
    is_within: bool,
}

impl<R: Read> Frames<R> {
    pub(crate) fn new(source: BufReader<R>) -> Self {
        Self { source, decoder: Box::new(FrameDecoder::new()), is_within: false }
    }

    pub(crate) fn source(&self) -> &R {
        self.source.get_ref()
    }

    pub(crate) fn into_source(self) -> R {
        self.source.into_inner()
    }

    /// Begins the next frame; `false` at the end of the file.
    fn open_next(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let passed = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
                    if passed < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(false)
    }

    /// That the frame held what was packed.
    fn check(&self) -> io::Result<()> {
        match self.decoder.get_checksum_from_data() {
            Some(expected) if self.decoder.get_calculated_checksum() != Some(expected) => Err(
                io::Error::new(io::ErrorKind::InvalidData, "a frame's checksum is not that of its content"),
            ),
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_within {
                self.is_within = self.open_next()?;
            }
            if !self.is_within {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(damaged)?;
            }
            let got = self.decoder.read(buffer)?;
            if got > 0 || buffer.is_empty() {
                return Ok(got);
            }
            self.check()?;
            self.is_within = false;
        }
    }
}

fn damaged(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn unpack(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Frames::new(BufReader::with_capacity(7, bytes)).read_to_end(&mut content).map(|_| content)
    }

    #[test]
    fn frames_follow_each_other_and_damage_is_noticed() {
        let text: Vec<u8> = (0..300_000u32).flat_map(|i| (i % 1000 * (i % 77)).to_le_bytes()).collect();
        let frame = |text: &[u8]| compress_to_vec(text, CompressionLevel::Fastest);
        let (one, two) = (frame(&text), frame(b"and more"));
        let skippable = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        assert!(is_zstd(&one) && is_zstd(&skippable) && !is_zstd(b"PAR1"));
        let whole = [skippable.as_slice(), &one, &skippable, &two].concat();
        assert_eq!(unpack(&whole).unwrap(), [text.as_slice(), b"and more"].concat());
        for cut in [3, 9, one.len() / 2, one.len() - 1] {
            assert!(unpack(&one[..cut]).is_err(), "{cut}");
        }
        for rest in [&b"\0\0\0\0\0"[..], b"something", &skippable[..9]] {
            assert!(unpack(&[&one, rest].concat()).is_err(), "{rest:?}");
        }
        let mut damaged = one.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(unpack(&damaged).is_err(), "the checksum is the last of a frame");
    }
}
