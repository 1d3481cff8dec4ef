//! The header of a GGUF file, walked through before candle reads it.
//!
//! candle divides by the file's alignment, multiplies dimensions without a look at the product, and takes 32 bytes for
//! each element of an array, however small: a damaged length can claim all of a large file.

use std::io::{BufReader, Read, Seek};

/// Most values and elements of arrays. A vocabulary of a quarter of a million tokens comes to about 1.3 million.
const MAX_VALUES: u64 = 1 << 23;

/// Longest text in bytes: a whole `tokenizer.json` is one.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Longest name of a key or tensor in bytes: messages have them.
const MAX_NAME_BYTES: u64 = 1024;

/// Most arrays within each other.
const MAX_DEPTH: u32 = 8;

/// Types of values, by the specification.
const STRING: u32 = 8;
const ARRAY: u32 = 9;

const ALIGNMENT: &str = "general.alignment";

/// A header that is being walked through.
struct Header<R> {
    source: BufReader<R>,
    /// Bytes that follow.
    left: u64,
    /// Values and elements that may follow.
    values_left: u64,
    /// Whether lengths have 4 bytes.
    is_v1: bool,
}

/// Checks the header of a file of `len_bytes`.
///
/// # Errors
/// What is wrong, with the key or tensor.
pub(super) fn check(file: impl Read + Seek, len_bytes: u64) -> Result<(), String> {
    let source = BufReader::new(file);
    let mut header = Header { source, left: len_bytes, values_left: MAX_VALUES, is_v1: false };
    let magic = header.bytes()?;
    if !matches!(&magic, b"GGUF" | b"FUGG") {
        return Err(format!("it begins with {:?}, expected \"GGUF\"", magic.escape_ascii().to_string()));
    }
    header.is_v1 = header.u32()? == 1;
    let (n_tensors, n_keys) = (header.len()?, header.len()?);
    for key_idx in 0..n_keys {
        let key = header.name().map_err(|fault| format!("key {key_idx}: {fault}"))?;
        header.entry(&key).map_err(|fault| format!("{key}: {fault}"))?;
    }
    for tensor_idx in 0..n_tensors {
        let name = header.name().map_err(|fault| format!("tensor {tensor_idx}: {fault}"))?;
        header.tensor(len_bytes).map_err(|fault| format!("{name}: {fault}"))?;
    }
    Ok(())
}

impl<R: Read + Seek> Header<R> {
    fn entry(&mut self, key: &str) -> Result<(), String> {
        let kind = self.u32()?;
        if key == ALIGNMENT && !matches!(kind, STRING | ARRAY) {
            let mut value = vec![0; size_of_kind(kind)? as usize];
            self.fill(&mut value)?;
            return match value.iter().all(|&byte| byte == 0) {
                true => Err("0, expected a multiple of 8".to_owned()),
                false => Ok(()),
            };
        }
        self.value(kind, 0)
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<(), String> {
        match kind {
            STRING => {
                self.spend(1)?;
                let len = self.len()?;
                self.skip(len)
            }
            ARRAY if depth == MAX_DEPTH => {
                Err(format!("expected at most {MAX_DEPTH} arrays within each other"))
            }
            ARRAY => {
                let (kind, len) = (self.u32()?, self.len()?);
                match kind {
                    STRING | ARRAY => (0..len).try_for_each(|_| self.value(kind, depth + 1)),
                    _ => {
                        self.spend(len)?;
                        self.skip(len.saturating_mul(size_of_kind(kind)?))
                    }
                }
            }
            _ => {
                self.spend(1)?;
                self.skip(size_of_kind(kind)?)
            }
        }
    }

    /// What stands after a tensor's name.
    fn tensor(&mut self, len_bytes: u64) -> Result<(), String> {
        let n_dims = self.u32()?;
        if n_dims > 4 {
            return Err(format!("{n_dims} dimensions, expected at most 4"));
        }
        let dims: Vec<u64> = (0..n_dims).map(|_| self.len()).collect::<Result<_, _>>()?;
        let count = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        // No type has less than a bit for an element.
        if !count.is_some_and(|count| (1..=len_bytes.saturating_mul(8)).contains(&count)) {
            return Err(format!("its shape is {dims:?}, of which the file holds nothing"));
        }
        self.skip(4 + 8)
    }

    /// The name of a key or tensor.
    fn name(&mut self) -> Result<String, String> {
        self.spend(1)?;
        let len = self.len()?;
        if len > MAX_NAME_BYTES {
            return Err(format!("its name has {len} bytes, expected at most {MAX_NAME_BYTES}"));
        }
        let mut name = vec![0; len as usize];
        self.fill(&mut name)?;
        Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
    }

    /// A length or dimension.
    fn len(&mut self) -> Result<u64, String> {
        match self.is_v1 {
            true => self.u32().map(u64::from),
            false => self.bytes().map(u64::from_le_bytes),
        }
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes).map(|()| bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.need(bytes.len() as u64)?;
        self.source.read_exact(bytes).map_err(|error| error.to_string())
    }

    fn skip(&mut self, len: u64) -> Result<(), String> {
        if len > MAX_TEXT_BYTES {
            return Err(format!("it has {len} bytes, expected at most {MAX_TEXT_BYTES}"));
        }
        self.need(len)?;
        self.source.seek_relative(len as i64).map_err(|error| error.to_string())
    }

    fn need(&mut self, len: u64) -> Result<(), String> {
        let left = self.left.checked_sub(len);
        self.left = left.ok_or_else(|| format!("it has {len} bytes, and {} follow", self.left))?;
        Ok(())
    }

    fn spend(&mut self, n_values: u64) -> Result<(), String> {
        let left = self.values_left.checked_sub(n_values);
        self.values_left = left.ok_or_else(|| format!("expected at most {MAX_VALUES} values in all keys"))?;
        Ok(())
    }
}

/// Bytes of a value of a type that has always as many.
fn size_of_kind(kind: u32) -> Result<u64, String> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(format!("its type is {kind}, which there is not")),
    }
}
