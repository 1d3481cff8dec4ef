//! What ranks say at the beginning of a fabric's call.

/// Bytes of a header.
pub(super) const BYTES: usize = 1024;
/// Where the text begins.
const TEXT: usize = 24;

/// What a rank says at the beginning of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Number of the call, from 1.
    pub(super) call: u64,
    /// Bytes that it is about to give.
    pub(super) len: u64,
    /// Whether it ends, for the reason in `text`.
    pub(super) parts: bool,
    /// The machine's identity in the first call, the reason of a rank that ends, else empty.
    pub(super) text: String,
}

impl Header {
    /// As bytes. A text that is too long is cut.
    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let end = self.text.floor_char_boundary(BYTES - TEXT);
        bytes[..8].copy_from_slice(&self.call.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16] = self.parts.into();
        bytes[20..TEXT].copy_from_slice(&u32::try_from(end).expect("below 1024").to_le_bytes());
        bytes[TEXT..][..end].copy_from_slice(&self.text.as_bytes()[..end]);
        bytes
    }

    /// From the bytes of one.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let len = u32::from_le_bytes(bytes[20..TEXT].try_into().expect("four bytes")) as usize;
        let text = &bytes[TEXT..][..len.min(BYTES - TEXT)];
        let text = String::from_utf8_lossy(text).into_owned();
        Self { call: word(0), len: word(8), parts: bytes[16] != 0, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_long_texts_are_cut() {
        let header = Header { call: 7, len: 1 << 40, parts: true, text: "the disk is full".to_owned() };
        assert_eq!(Header::decode(&header.encode()), header);
        let long = Header { text: "ä".repeat(BYTES), ..header };
        let read = Header::decode(&long.encode());
        assert!(long.text.starts_with(&read.text) && read.text.len() == BYTES - TEXT, "{}", read.text.len());
    }
}
