//! Files that are neither text nor JSON, told by their first bytes and not by their names.

use std::path::Path;

use crate::error::DataError;
use crate::unpack::GZIP;

/// A kind of file by how it begins: where its mark is, the mark, what it is, and how it becomes text.
struct Kind(usize, &'static [u8], &'static str, Remedy);

enum Remedy {
    /// A command that unpacks it.
    Unpack(&'static str),
    /// What to do.
    Do(&'static str),
}

use Remedy::{Do, Unpack};

const KINDS: &[Kind] = &[
    Kind(0, b"PARE", "encrypted Parquet", Do("decrypt it")),
    Kind(0, &[0x28, 0xb5, 0x2f, 0xfd], "compressed twice, the second time by zstd", Unpack("zstd -d")),
    Kind(0, b"BZh", "packed by bzip2", Unpack("bunzip2 -k")),
    Kind(0, &[0xfd, b'7', b'z', b'X', b'Z', 0], "packed by xz", Unpack("xz -dk")),
    Kind(0, &[0x04, 0x22, 0x4d, 0x18], "packed by lz4", Unpack("lz4 -d")),
    Kind(0, GZIP, "compressed twice, the second time by gzip", Unpack("gunzip -k")),
    Kind(0, b"PK\x03\x04", "a zip archive", Unpack("unzip")),
    Kind(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", Unpack("7z x")),
    Kind(257, b"ustar", "a tar archive", Unpack("tar -xf")),
    Kind(
        0,
        b"ARROW1",
        "an Arrow file",
        Do("convert it to JSON lines, in Python with `datasets` or `pyarrow`"),
    ),
    Kind(0, b"%PDF-", "a PDF", Do("extract its text, for example with `pdftotext`")),
    Kind(0, b"SQLite format 3\0", "an SQLite database", Do("export its texts as JSON lines")),
    Kind(0, b"\x93NUMPY", "a NumPy array", Do("name the text that it was made from")),
    Kind(0, b"\x89HDF\r\n", "HDF5", Do("export its texts as JSON lines")),
    Kind(0, b"WATTLTOK", "a shard of tokens", Do("name its folder as data.dir")),
    Kind(0, b"GGUF", "a model in GGUF", Do("name a text")),
    Kind(
        0,
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer and not the file",
        Do("run `git lfs pull`"),
    ),
];

/// Refuses what the first bytes of a file, `head`, tell to be something else than text in UTF-8.
pub(crate) fn refuse(path: &Path, head: &[u8]) -> Result<(), DataError> {
    let has = |kind: &&Kind| head.get(kind.0..).is_some_and(|rest| rest.starts_with(kind.1));
    if let Some(Kind(_, _, what, remedy)) = KINDS.iter().find(has) {
        let remedy = match remedy {
            Unpack(command) => {
                format!("unpack it with `{command} {}`, and name what comes out", path.display())
            }
            Do(remedy) => (*remedy).to_owned(),
        };
        return Err(DataError::Foreign { path: path.to_owned(), what: (*what).to_owned(), remedy });
    }
    match encoding(head) {
        None => Ok(()),
        Some(encoding) => Err(DataError::Encoding { path: path.to_owned(), encoding }),
    }
}

/// That a file called `.parquet` or `.bz2` begins as such a file does.
pub(crate) fn refuse_misnamed(path: &Path, name: &str) -> Result<(), DataError> {
    let Some(extension) =
        ["parquet", "bz2", "xz", "zip", "tar"].into_iter().find(|e| name.ends_with(&format!(".{e}")))
    else {
        return Ok(());
    };
    let what = format!("named .{extension} and does not begin as such a file does");
    let remedy = "fetch it again, or set data.format = \"text\" if it is text".to_owned();
    Err(DataError::Foreign { path: path.to_owned(), what, remedy })
}

/// The encoding of `head` if that is UTF-16 or UTF-32, with or without a byte order mark.
fn encoding(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xfe, 0, 0, ..] => return Some("UTF-32LE"),
        [0, 0, 0xfe, 0xff, ..] => return Some("UTF-32BE"),
        [0xff, 0xfe, ..] => return Some("UTF-16LE"),
        [0xfe, 0xff, ..] => return Some("UTF-16BE"),
        _ => {}
    }
    // Letters, spaces and line ends below U+0100 have a zero byte each, always on the same side.
    let zeros_at = |side| head.iter().skip(side).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd) = (zeros_at(0), zeros_at(1));
    let (most, least) = (even.max(odd), even.min(odd));
    if 3 * least > most && most > head.len() / 3 {
        return match head {
            [0, 0, 0, ..] if is_utf32(head, u32::from_be_bytes) => Some("UTF-32BE"),
            [_, 0, 0, 0, ..] if is_utf32(head, u32::from_le_bytes) => Some("UTF-32LE"),
            _ => None,
        };
    }
    let is_little = odd > even;
    // Of most alphabets one side is the same small number, such as 4 of Cyrillic.
    let is_small = |byte: &&u8| **byte < b' ' && !b"\t\n\r".contains(byte);
    let small_at = |side| head.iter().skip(side).step_by(2).filter(is_small).count();
    let (small, others) = if is_little { (small_at(1), small_at(0)) } else { (small_at(0), small_at(1)) };
    let is_mostly = most > 0 && small * 10 > head.len() * 3 && others * 10 < head.len();
    let is_utf8 = str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true);
    let is_other = !is_utf8 && most > 0 && least * 20 <= most && is_utf16(head, is_little);
    (is_mostly || is_other).then_some(if is_little { "UTF-16LE" } else { "UTF-16BE" })
}

/// Whether `head` is whole characters in UTF-32, none of them NUL.
fn is_utf32(head: &[u8], number: fn([u8; 4]) -> u32) -> bool {
    let (units, _) = head.as_chunks::<4>();
    units.iter().all(|unit| char::from_u32(number(*unit)).is_some_and(|c| c != '\0'))
}

/// Whether `head` is whole characters in UTF-16, but for the last.
fn is_utf16(head: &[u8], is_little: bool) -> bool {
    let unit = |pair: &[u8]| match is_little {
        true => u16::from_le_bytes([pair[0], pair[1]]),
        false => u16::from_be_bytes([pair[0], pair[1]]),
    };
    let units: Vec<u16> = head.chunks_exact(2).map(unit).collect();
    let n_faults = char::decode_utf16(units.iter().copied()).filter(Result::is_err).count();
    n_faults <= usize::from(units.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit)))
}

/// How to fix a text that is not UTF-8, by its bytes around the first that is wrong; `is_cut` if only the end of
/// the last character is missing.
pub(crate) fn remedy_of_not_utf8(path: &Path, near: &[u8], is_cut: bool) -> String {
    let is_control = |byte: &&u8| **byte < b' ' && !b"\t\n\r\x0c\x1b".contains(byte);
    let n_controls = near.iter().filter(is_control).count();
    let n_high = near.iter().filter(|byte| !byte.is_ascii()).count();
    let valid: String = near.utf8_chunks().map(|chunk| chunk.valid()).collect();
    let n_valid_high = valid.chars().filter(|c| !c.is_ascii()).map(char::len_utf8).sum::<usize>();
    let path = path.display();
    if is_cut {
        "it ends within a character: fetch or write it again".to_owned()
    } else if n_controls * 50 > near.len() {
        "it does not look like text: leave it out".to_owned()
    } else if 2 * n_valid_high > n_high {
        format!("the rest is: drop the damaged bytes with `iconv -c -f UTF-8 -t UTF-8 {path}`")
    } else {
        format!("convert it with `iconv -f WINDOWS-1252 -t UTF-8 {path}`, or from whichever encoding it has")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, is_little: bool) -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|unit| if is_little { unit.to_le_bytes() } else { unit.to_be_bytes() })
            .collect()
    }

    #[test]
    fn encodings_are_told_with_and_without_a_mark() {
        for text in [
            "The quick brown fox.\n",
            "{\"text\": \"é\"}\n",
            "Привет, мир.\nКак дела?\n",
            "日本語 テキスト\n改行\n",
        ] {
            assert_eq!(encoding(text.as_bytes()), None, "{text}");
            assert_eq!(encoding(&utf16(text, true)), Some("UTF-16LE"), "{text}");
            assert_eq!(encoding(&utf16(text, false)), Some("UTF-16BE"), "{text}");
            assert_eq!(encoding(&utf16(&format!("\u{feff}{text}"), true)), Some("UTF-16LE"));
            let utf32: Vec<u8> = text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
            if text.is_ascii() {
                assert_eq!(encoding(&utf32), Some("UTF-32LE"), "{text}");
            }
        }
        for text in [
            "",
            "a",
            "\0\0\0\0\0\0\0\0",
            "\0\u{7f}\u{80}",
            "one zero \0 in a text of some length",
            "caf\u{e9}",
        ] {
            assert_eq!(encoding(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(encoding(b"caf\xe9 au lait"), None);
    }

    #[test]
    fn iconv_is_advised_only_where_it_helps() {
        let remedy = |near: &[u8], is_cut| remedy_of_not_utf8(Path::new("x.txt"), near, is_cut);
        assert!(remedy(b"caf\xe9 au lait", false).contains("WINDOWS-1252"));
        assert!(remedy("ein wei\u{df}es Blatt \u{fc}ber".as_bytes(), true).contains("ends within"));
        let damaged = [&b"\xff"[..], "w\u{f6}rter \u{fc}ber w\u{f6}rter".as_bytes()].concat();
        assert!(remedy(&damaged, false).contains("iconv -c -f UTF-8"));
        let binary: Vec<u8> = (0..=255).collect();
        let said = remedy(&binary, false);
        assert!(said.contains("does not look like text") && !said.contains("iconv"), "{said}");
    }
}
