//! What input files hold, told by what they begin with.

use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use crate::error::DataError;
use crate::foreign;
use crate::input::Input;
use crate::json_scan::{Scanner, values};
use crate::parquet_file;

/// What input files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text, read one file after another as one.
    #[default]
    Text,
    /// Documents: a JSON object a line, the text in the field `data.text_field`.
    Jsonl,
    /// Documents: the JSON objects of an array, or objects one after another over any number of lines.
    Json,
    /// Documents: the rows of a Parquet file, the text in the column `data.text_field`.
    Parquet,
    /// Documents, each ended by a line that is this and nothing else.
    Separated {
        /// The line, without its end.
        line: String,
    },
}

wattle_settings::choices! {
    /// What `data.format` says that input files hold.
    pub enum FormatChoice (default Auto) {
        /// What each file begins with tells.
        Auto = "auto",
        /// Text, regardless of content.
        Text = "text",
        /// A JSON object a line.
        Jsonl = "jsonl",
        /// An array of JSON objects, or objects one after another.
        Json = "json",
        /// The rows of a Parquet file.
        Parquet = "parquet",
    }
}

wattle_settings::choices! {
    /// What is done with a record that has no text that can be read.
    pub enum BadRecords (default Skip) {
        /// Leave it out and count it.
        Skip = "skip",
        /// Make it an error.
        Refuse = "refuse",
    }
}

/// Bytes of a file that tell what it holds.
const HEAD_BYTES: usize = 64 << 10;

/// Most lines or values of these that are tried.
const MAX_TRIED: usize = 100;

impl Format {
    /// What the file at `path` holds, by `choice` or else by its first bytes.
    ///
    /// # Errors
    /// If it cannot be read, or is something that no choice of ours can read.
    pub fn of(path: &Path, choice: FormatChoice) -> Result<Self, DataError> {
        let mut input = Input::open(path, false)?;
        let mut head = Vec::new();
        let is_whole = !input.append(&mut head, HEAD_BYTES)?;
        if head.starts_with(parquet_file::MAGIC) {
            return Self::of_parquet(path, choice, input.packed_bytes().is_some());
        }
        foreign::refuse(path, &head)?;
        match choice {
            FormatChoice::Text => Ok(Self::Text),
            FormatChoice::Jsonl => Ok(Self::Jsonl),
            FormatChoice::Json => Ok(Self::Json),
            FormatChoice::Parquet => Err(DataError::Foreign {
                path: path.to_owned(),
                what: "not a Parquet file".to_owned(),
                remedy: "leave data.format out, which tells by content".to_owned(),
            }),
            FormatChoice::Auto => Self::by_content(path, &head, is_whole),
        }
    }

    /// Of a file that begins as Parquet.
    fn of_parquet(path: &Path, choice: FormatChoice, is_packed: bool) -> Result<Self, DataError> {
        let (what, remedy) = match choice {
            _ if is_packed => ("a Parquet file packed once more", "unpack it, and name what comes out"),
            FormatChoice::Auto | FormatChoice::Parquet => {
                return parquet_file::check(path).map(|()| Self::Parquet);
            }
            _ => ("Parquet", "leave data.format out, which tells by content"),
        };
        let (what, remedy) = (what.to_owned(), remedy.to_owned());
        Err(DataError::Foreign { path: path.to_owned(), what, remedy })
    }

    /// What all of `paths` hold, each by itself.
    ///
    /// # Errors
    /// As [`Self::of`], or if some are text and some documents.
    pub fn of_all(paths: &[PathBuf], choice: FormatChoice) -> Result<Vec<Self>, DataError> {
        let formats: Vec<Self> = paths.iter().map(|path| Self::of(path, choice)).collect::<Result<_, _>>()?;
        let is_other = |format: &Self| format.is_documents() != formats[0].is_documents();
        match formats.iter().position(is_other) {
            None => Ok(formats),
            Some(other) => Err(DataError::Mixed { first: paths[0].clone(), second: paths[other].clone() }),
        }
    }

    fn by_content(path: &Path, head: &[u8], is_whole: bool) -> Result<Self, DataError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        let text = head.trim_ascii_start();
        let is_object = begins(text, &[b"{", b"\""]);
        if is_object && are_json(&lines(text), is_whole) {
            return Ok(Self::Jsonl);
        }
        let is_array = begins(text, &[b"[", b"{\""]);
        if (is_object || is_array) && are_json(&values(text, Scanner::default()), is_whole) {
            return Ok(Self::Json);
        }
        if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
            return Ok(Self::Jsonl);
        }
        foreign::refuse_misnamed(path, name)?;
        if name.ends_with(".json") {
            let what = "named .json and holds no JSON objects, neither one a line nor in an array".to_owned();
            let remedy = "set data.format = \"text\" if it is to be read as text".to_owned();
            return Err(DataError::Foreign { path: path.to_owned(), what, remedy });
        }
        Ok(Self::Text)
    }

    /// Whether the input is documents.
    pub fn is_documents(&self) -> bool {
        *self != Self::Text
    }

    /// What a place in a file is counted in.
    pub(crate) fn unit(&self) -> &'static str {
        match self {
            Self::Json => "record",
            Self::Parquet => "row",
            Self::Text | Self::Jsonl | Self::Separated { .. } => "line",
        }
    }
}

/// Whether `text` begins with one of the bytes of each of `marks`, with white space between them.
fn begins(text: &[u8], marks: &[&[u8]]) -> bool {
    let mut rest = text.trim_ascii_start();
    marks.iter().all(|mark| match rest.split_first() {
        Some((first, after)) if mark.contains(first) => {
            rest = after.trim_ascii_start();
            true
        }
        _ => false,
    })
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect()
}

/// Whether at least half of what was cut out of a file's head is JSON. The last may be cut unless the head is the
/// whole file; if it is alone, it must be JSON as far as it goes.
fn are_json(parts: &[&[u8]], is_whole: bool) -> bool {
    let parse = |part: &&[u8]| serde_json::from_slice::<IgnoredAny>(part);
    let sure = if is_whole { parts } else { &parts[..parts.len().saturating_sub(1)] };
    if let ([], Some(cut)) = (sure, parts.last()) {
        return parse(cut).map_or_else(|error| error.is_eof(), |_| true);
    }
    let tried = &sure[..sure.len().min(MAX_TRIED)];
    2 * tried.iter().filter(|part| parse(part).is_ok()).count() >= tried.len().max(1)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn of(dir: &Path, name: &str, content: &[u8]) -> Result<Format, DataError> {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        Format::of(&path, FormatChoice::Auto)
    }

    #[test]
    fn content_tells_what_files_hold_whatever_they_are_called() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("{{\"text\": \"{}\"}}\n", "x".repeat(2 * HEAD_BYTES));
        let many: String = (0..5000).map(|i| format!("{{\"text\": \"document {i}\"}}\n")).collect();
        let array = format!("[{}]", many.trim_end().replace('\n', ",\n"));
        let jsonl = ["{\"text\": \"a\"}", "\u{feff}{\"text\": \"a\"}\r\n{\"b\": NaN}", &long, &many];
        let json = [
            "[{\"text\": \"a\"}, {\"text\": NaN}]",
            " [\n {\"a\": 1}]",
            "{\n \"a\": 1\n}\n{\n \"b\": 2\n}",
            "[\"a\"]",
            &array,
        ];
        let text = [
            "[1] A note",
            "[Verse 1]\nwords",
            "{ int x = 3; }\n",
            "{\"quoted\" words}\nmore words\nand more\n",
            "plain",
            "[workspace]\nmembers = []",
            "{{ jinja }}",
        ];
        for name in ["a", "a.txt", "c4.json", "x.jsonl"] {
            for content in jsonl {
                assert_eq!(of(dir.path(), name, content.as_bytes()).unwrap(), Format::Jsonl, "{content:.80}");
            }
            for content in json {
                assert_eq!(of(dir.path(), name, content.as_bytes()).unwrap(), Format::Json, "{content:.80}");
            }
        }
        for content in text {
            assert_eq!(of(dir.path(), "a.txt", content.as_bytes()).unwrap(), Format::Text, "{content}");
            assert_eq!(of(dir.path(), "a.ndjson", content.as_bytes()).unwrap(), Format::Jsonl, "{content}");
            assert!(of(dir.path(), "a.json", content.as_bytes()).is_err(), "{content}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.txt", "a.jsonl", "a"] {
            for (content, needles) in [
                (&b"PAR1\x15\x04PAR1"[..], ["not Parquet, or not all", "fetch or write it again"]),
                (b"\x28\xb5\x2f\xfdxxxx", ["not zstd, or not all", "unpack it"]),
                (b"BZh91AY&SY", ["bzip2", "bunzip2"]),
                (b"\xfe\xff\0T\0h", ["UTF-16BE", "iconv -f UTF-16BE"]),
                (b"T\0h\0e\0 \0", ["UTF-16LE", "iconv -f UTF-16LE"]),
            ] {
                let said = of(dir.path(), name, content).unwrap_err().to_string();
                for needle in needles.iter().chain(&[name]) {
                    assert!(said.contains(needle), "{needle} is not in {said}");
                }
            }
        }
        assert!(of(dir.path(), "a.parquet", b"not that").unwrap_err().to_string().contains("data.format"));
    }

    #[test]
    fn a_choice_overrides_what_the_content_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        fs::write(&path, "{\"text\": \"a\"}").unwrap();
        for (choice, format) in [
            (FormatChoice::Auto, Format::Jsonl),
            (FormatChoice::Text, Format::Text),
            (FormatChoice::Json, Format::Json),
        ] {
            assert_eq!(Format::of(&path, choice).unwrap(), format);
        }
        let plain = dir.path().join("a.txt");
        fs::write(&plain, "plain").unwrap();
        assert_eq!(Format::of(&plain, FormatChoice::Jsonl).unwrap(), Format::Jsonl);
        let mixed = Format::of_all(&[path, plain], FormatChoice::Auto).unwrap_err();
        assert!(matches!(mixed, DataError::Mixed { .. }), "{mixed}");
    }
}
