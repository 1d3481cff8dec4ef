//! Damage to the bytes of a file: what disks, editors and enemies do.

use std::ops::Range;

use fuzz::Draws;

/// What a number is replaced by.
const NUMBERS: [&str; 22] = [
    "-1",
    "0",
    "1",
    "-0.0",
    "0.5",
    "255",
    "65536",
    "1e9",
    "1000000000",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e400",
    "NaN",
    "inf",
    "null",
    "[]",
    "\"7\"",
];

/// What a text within quotes is replaced by.
const TEXTS: [&str; 14] = [
    "",
    "x",
    "..",
    "../x",
    "/dev/full",
    "NaN",
    "-1",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\\u001b[31m\\u001b]0;owned\\u0007",
    "\u{1b}[31m\u{1b}]0;owned\u{7}",
    "\u{202e}<script>alert(1)</script>",
    "%s%n{}$(touch owned)",
];

/// Random damage, always the same for the same seed.
pub struct Damage(Draws);

impl Damage {
    pub fn new(seed: u64) -> Self {
        Self(Draws::new(seed))
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len.max(1));
        // Most are short, so that what follows is still read.
        let longest = if self.below(4) == 0 { len } else { 16 };
        start..(start + 1 + self.below(longest.max(1))).min(len)
    }

    /// Damages `bytes` once, or sometimes a few times.
    pub fn of(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        for _ in 0..[1, 1, 1, 2, 5][self.below(5)] {
            self.once(&mut damaged);
        }
        damaged
    }

    fn once(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return bytes.push(self.below(256) as u8);
        }
        let (at, range) = (self.below(bytes.len()), self.range(bytes.len()));
        match self.below(12) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes.truncate(at),
            2 => bytes[range].fill(0),
            3 => drop(bytes.splice(at..at, bytes[range].to_vec())),
            4 => drop(bytes.drain(range)),
            5 => bytes.iter_mut().skip(at).take(8).zip(self.word()).for_each(|(byte, new)| *byte = new),
            6 => self.line(bytes),
            _ => self.literal(bytes),
        }
    }

    /// A number as it lies in a binary file.
    fn word(&mut self) -> [u8; 8] {
        let words = [0, 1, u64::from(u32::MAX), 1 << 31, 1 << 32, 1 << 47, 1 << 63, u64::MAX];
        words[self.below(words.len())].to_le_bytes()
    }

    /// Removes a line, or has it twice, or takes it elsewhere.
    fn line(&mut self, bytes: &mut Vec<u8>) {
        let mut lines: Vec<Vec<u8>> =
            bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let (from, to) = (self.below(lines.len()), self.below(lines.len()));
        match self.below(3) {
            0 => drop(lines.remove(from)),
            1 => lines.insert(to, lines[from].clone()),
            _ => lines.swap(from, to),
        }
        *bytes = lines.concat();
    }

    /// Replaces a number or a text within quotes, which may be a key, or removes it with what follows up to a comma.
    fn literal(&mut self, bytes: &mut Vec<u8>) {
        let literals = literals(bytes);
        if literals.is_empty() {
            return;
        }
        let (mut range, is_text) = literals[self.below(literals.len())].clone();
        let mut new = match is_text {
            true => TEXTS[self.below(TEXTS.len())].to_owned(),
            false => NUMBERS[self.below(NUMBERS.len())].to_owned(),
        };
        match self.below(16) {
            0 => {
                let rest = &bytes[range.end..];
                range.start -= usize::from(is_text);
                range.end += rest.iter().position(|byte| *byte == b',').map_or(rest.len(), |comma| comma + 1);
                new.clear();
            }
            1 => new = new.repeat(10_000),
            _ => {}
        }
        bytes.splice(range, new.into_bytes());
    }
}

/// Where numbers and texts within quotes are, and which of them are texts. A binary file has them in its head.
fn literals(bytes: &[u8]) -> Vec<(Range<usize>, bool)> {
    let head = &bytes[..bytes.len().min(1 << 16)];
    let is_number = |byte: u8| byte.is_ascii_digit() || b"+-.".contains(&byte);
    let (mut literals, mut at) = (Vec::new(), 0);
    while at < head.len() {
        let len = match head[at] {
            b'"' => match head[at + 1..].iter().position(|byte| *byte == b'"') {
                Some(len) => {
                    literals.push((at + 1..at + 1 + len, true));
                    len + 2
                }
                None => 1,
            },
            byte if is_number(byte) => {
                let len = head[at..].iter().position(|byte| !is_number(*byte)).unwrap_or(head.len() - at);
                literals.push((at..at + len, false));
                len
            }
            _ => 1,
        };
        at += len;
    }
    literals
}
