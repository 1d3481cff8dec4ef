//! Documents: the texts in JSON objects, in rows, or between lines that separate them.
//!
//! # Format
//! Of JSONL, each line is an object; blank lines are passed over. Of other JSON, each element of an array is one, or
//! each value of several. Of Parquet, each row is one. Of separated text, a document ends at a line that is the separator and nothing else; the
//! line ends at its beginning and end are the separator's, not its own, and after the last separator only something
//! visible is another document. A document without a character is passed over and counted.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::conversation::{Conversation, Conversations, RecordFault};
use crate::error::DataError;
use crate::format::Format;
use crate::json_scan::values;
use crate::parquet_file::RowBlock;
use crate::records::{RecordBlock, is_separator};

/// How records with a null in the text's place are counted.
const NULL: &str = "null instead of a text";

/// A document as it stands in a file.
#[derive(Clone, Debug)]
pub(crate) struct Document<'a> {
    /// Its text.
    pub text: Cow<'a, str>,
    /// Its first line in the file, or which record or row it is, from 1.
    pub place: u64,
    /// What it is the text of, if that is a conversation.
    pub conversation: Option<&'a Conversation>,
}

/// A record that has no text that can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord {
    /// Its line, or which record or row it is, from 1.
    pub place: u64,
    /// What is wrong, in the words by which such records are counted.
    pub kind: &'static str,
    /// What is wrong with this one, and how to fix it.
    pub reason: String,
}

impl BadRecord {
    /// As an error in the file at `path`.
    pub(crate) fn told(self, path: &Path, format: &Format) -> DataError {
        let Self { place, reason, .. } = self;
        DataError::Document { path: path.to_owned(), unit: format.unit(), place, reason }
    }
}

/// Calls `on_document` with the documents of a block of JSON and `on_bad` with what is not a document.
pub(crate) fn json_documents(
    block: &RecordBlock,
    format: &Format,
    field: &str,
    on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
    on_bad: &mut dyn FnMut(BadRecord) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (place, record) in places(block, format) {
        match json_text(record, field) {
            Ok(text) => on_document(Document { text, place, conversation: None })?,
            Err((kind, reason)) => on_bad(BadRecord { place, kind, reason })?,
        }
    }
    Ok(())
}

/// Calls `on_document` with the texts of a block of rows and `on_bad` with what is not a text.
pub(crate) fn row_documents(
    block: &RowBlock,
    field: &str,
    on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
    on_bad: &mut dyn FnMut(BadRecord) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (place, text) in (block.first..).zip(&block.texts) {
        match text.as_ref().map(|text| str::from_utf8(text.data())) {
            Some(Ok(text)) => on_document(Document { text: text.into(), place, conversation: None })?,
            Some(Err(error)) => on_bad(BadRecord { place, kind: "not UTF-8", reason: not_utf8(error) })?,
            None => {
                let reason = format!("{field:?} is null, expected a text; see data.text_field");
                on_bad(BadRecord { place, kind: NULL, reason })?;
            }
        }
    }
    Ok(())
}

/// Calls `on_document` with the conversations of a block of JSON and `on_bad` with what is not one. One that is wrong is an
/// error.
pub(crate) fn json_conversations(
    path: &Path,
    block: &RecordBlock,
    format: &Format,
    conversations: &Conversations,
    on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
    on_bad: &mut dyn FnMut(BadRecord) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (place, record) in places(block, format) {
        match conversations.read(record) {
            Ok(conversation) => {
                let text = Cow::Borrowed(conversation.text());
                on_document(Document { text, place, conversation: Some(&conversation) })?;
            }
            Err(RecordFault::Unreadable(kind, reason)) => on_bad(BadRecord { place, kind, reason })?,
            Err(RecordFault::Wrong(reason)) => {
                return Err(DataError::Document {
                    path: path.to_owned(),
                    unit: format.unit(),
                    place,
                    reason,
                });
            }
        }
    }
    Ok(())
}

/// The records of a block that are not blank, each with its place.
fn places<'b>(block: &'b RecordBlock, format: &Format) -> impl Iterator<Item = (u64, &'b [u8])> {
    let records: Vec<&[u8]> = match format {
        Format::Json => values(&block.bytes, block.scanner),
        _ => block.bytes.split(|&byte| byte == b'\n').collect(),
    };
    (block.first..).zip(records).filter(|(_, record)| !record.trim_ascii().is_empty())
}

/// Calls `on_document` with the documents of `lines`, whole lines of separated text of which the first is
/// `first_line`. The last document may lack its separator.
pub(crate) fn separated_documents(
    path: &Path,
    lines: &[u8],
    first_line: u64,
    separator: &str,
    on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let (mut start, mut at, mut start_line) = (0, 0, first_line);
    for (line, bytes) in (first_line..).zip(lines.split_inclusive(|&byte| byte == b'\n')) {
        utf8(path, line, bytes)?;
        if is_separator(bytes, separator) {
            on_document(between(path, &lines[start..at], start_line)?)?;
            (start, start_line) = (at + bytes.len(), line + 1);
        }
        at += bytes.len();
    }
    let last = between(path, &lines[start..], start_line)?;
    if last.text.trim().is_empty() { Ok(()) } else { on_document(last) }
}

fn between<'a>(path: &Path, bytes: &'a [u8], line: u64) -> Result<Document<'a>, DataError> {
    let text = utf8(path, line, bytes)?;
    Ok(Document { text: Cow::Borrowed(text.trim_matches(['\n', '\r'])), place: line, conversation: None })
}

fn utf8<'a>(path: &Path, line: u64, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    str::from_utf8(bytes).map_err(|error| {
        let reason = not_utf8(error);
        DataError::Document { path: path.to_owned(), unit: "line", place: line, reason }
    })
}

fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("is not UTF-8: invalid byte at offset {} of it", error.valid_up_to())
}

/// The text in `field` of a JSON object, or what is wrong, in common words and in particular.
fn json_text<'a>(record: &'a [u8], field: &str) -> Result<Cow<'a, str>, (&'static str, String)> {
    let json = str::from_utf8(record).map_err(|error| ("not UTF-8", not_utf8(error)))?;
    let parse = || -> Result<Option<Cow<'a, str>>, serde_json::Error> {
        let mut parser = serde_json::Deserializer::from_str(json);
        let text = Field(field).deserialize(&mut parser)?;
        parser.end().map(|()| text)
    };
    match parse() {
        Ok(Some(text)) => Ok(text),
        other => Err(json_fault(json, field, other.err())),
    }
}

/// What is wrong with a record, found by reading it once more as any JSON.
fn json_fault(json: &str, field: &str, error: Option<serde_json::Error>) -> (&'static str, String) {
    let value = match serde_json::from_str::<serde_json::Value>(json) {
        Ok(value) => value,
        Err(other) => return syntax_fault(json, &error.unwrap_or(other)),
    };
    let Some(object) = value.as_object() else {
        let reason = format!("is {}, expected an object with a field {field:?}", kind(&value));
        return ("not an object", reason);
    };
    match object.get(field) {
        Some(serde_json::Value::Null) => {
            (NULL, format!("{field:?} is null, expected a string; see data.text_field"))
        }
        Some(value) => (
            "no string where the text should be",
            format!("{field:?} is {}, expected a string; see data.text_field", kind(value)),
        ),
        None => {
            let fields: Vec<String> = object.keys().map(|field| format!("{field:?}")).collect();
            let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
            let remedy = "name the one with the text in data.text_field";
            ("field missing", format!("has no field {field:?}, only {fields}; {remedy}"))
        }
    }
}

/// What keeps a record from being JSON.
fn syntax_fault(json: &str, error: &serde_json::Error) -> (&'static str, String) {
    // The parser saw one record alone; a column is of interest where that is a line.
    let said = error.to_string().replace(" at line 1 column ", " at column ");
    let line = json.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
    let at = line.floor_char_boundary(error.column().saturating_sub(3));
    let near = &line[at..line.floor_char_boundary(at + "-Infinity".len() + 3)];
    let is_number = ["NaN", "Infinity"].iter().any(|word| near.contains(word));
    let (kind, what) = if said.contains("surrogate") || said.contains("hex escape") {
        ("lone surrogate", "has a lone surrogate")
    } else if is_number {
        ("NaN or infinity", "has a number that is not valid JSON")
    } else {
        ("not JSON", "is not JSON")
    };
    (kind, format!("{what}: {said}"))
}

fn kind(value: &serde_json::Value) -> &'static str {
    match value {
        serde_json::Value::Null => "null",
        serde_json::Value::Bool(_) => "a boolean",
        serde_json::Value::Number(_) => "a number",
        serde_json::Value::String(_) => "a string",
        serde_json::Value::Array(_) => "an array",
        serde_json::Value::Object(_) => "an object",
    }
}

/// Reads the field of this name out of an object and skips the others. Of several the last counts.
struct Field<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with a field {:?}", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Text(key)) = map.next_key()? {
            if key == self.0 {
                found = Some(map.next_value::<Text<'de>>()?.0);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// A string, borrowed from the line where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    /// The documents of `lines` with their places, and what is bad.
    fn json(lines: &[u8], format: &Format) -> (Vec<(String, u64)>, Vec<BadRecord>) {
        let (mut documents, mut bad) = (Vec::new(), Vec::new());
        let block = RecordBlock { bytes: lines.to_vec(), first: 7, scanner: Default::default() };
        let mut on_document = |document: Document<'_>| {
            documents.push((document.text.into_owned(), document.place));
            Ok(())
        };
        let mut on_bad = |record| {
            bad.push(record);
            Ok(())
        };
        json_documents(&block, format, "text", &mut on_document, &mut on_bad).unwrap();
        (documents, bad)
    }

    fn separated(lines: &str) -> Vec<(String, u64)> {
        let mut documents = Vec::new();
        let mut on_document = |document: Document<'_>| {
            documents.push((document.text.into_owned(), document.place));
            Ok(())
        };
        let path = Path::new("docs.txt");
        separated_documents(path, lines.as_bytes(), 1, "<|endoftext|>", &mut on_document).unwrap();
        documents
    }

    #[test]
    fn the_text_is_what_json_says() {
        let lines = "{\"text\":\"a\"}\r\n\n  {\"id\": [1, {\"text\": 2}], \"text\": \"\\u00e9\\n\\ud83d\\ude42\", \"x\": null}\n{\"text\": \"\"}";
        let expected = [("a", 7), ("é\n🙂", 9), ("", 10)].map(|(text, line)| (text.to_owned(), line));
        assert_eq!(json(lines.as_bytes(), &Format::Jsonl), (expected.to_vec(), vec![]));
        let array =
            "[{\"text\": \"a\"}, {\"text\":\n\"\\u00e9\\n\\ud83d\\ude42\", \"x\": [{}]},\n{\"text\": \"\"}]";
        let expected = [("a", 7), ("é\n🙂", 8), ("", 9)].map(|(text, place)| (text.to_owned(), place));
        assert_eq!(json(array.as_bytes(), &Format::Json), (expected.to_vec(), vec![]));
    }

    #[test]
    fn every_fault_is_counted_in_its_kind_and_names_place_and_remedy() {
        for (line, kind, needles) in [
            (&b"{\"text\": \"a\""[..], "not JSON", &["is not JSON", "EOF"][..]),
            (b"plain text", "not JSON", &["is not JSON"]),
            (b"{\"text\": \"a\"} {}", "not JSON", &["is not JSON", "trailing"]),
            (b"{\"text\": \"\\ud800\"}", "lone surrogate", &["hex escape at column 17"]),
            (b"{\"text\": \"\\ud800 and more\"}", "lone surrogate", &["surrogate"]),
            (b"{\"text\": \"\\udc00x\"}", "lone surrogate", &["surrogate"]),
            (b"{\"x\": NaN, \"text\": \"a\"}", "NaN or infinity", &["number"]),
            (b"{\"x\":-Infinity, \"text\": \"a\"}", "NaN or infinity", &["number"]),
            (b"{\"text\": \"a\", \"x\": [Infinity]}", "NaN or infinity", &["number"]),
            (b"[\"text\"]", "not an object", &["is an array, expected an object"]),
            (b"\"text\"", "not an object", &["is a string, expected an object"]),
            (
                b"{\"body\": \"a\", \"id\": 3}",
                "field missing",
                &["no field \"text\"", "\"body\", \"id\"", "data.text_field"],
            ),
            (b"{}", "field missing", &["no field \"text\", only none"]),
            (
                b"{\"text\": 3}",
                "no string where the text should be",
                &["\"text\" is a number, expected a string"],
            ),
            (b"{\"text\": null}", "null instead of a text", &["is null, expected a string"]),
            (b"{\"text\": \"\xff\"}", "not UTF-8", &["not UTF-8", "offset 10"]),
        ] {
            let lines = [b"{\"text\": \"fine\"}\n", line, b"\n{\"text\": \"too\"}"].concat();
            let (good, bad) = json(&lines, &Format::Jsonl);
            assert_eq!(good, [("fine".to_owned(), 7), ("too".to_owned(), 9)]);
            let [bad] = &bad[..] else { panic!("{bad:?}") };
            assert_eq!((bad.kind, bad.place), (kind, 8), "{bad:?}");
            let said = bad.clone().told(Path::new("docs.jsonl"), &Format::Jsonl).to_string();
            for needle in needles.iter().chain(&["docs.jsonl", "line 8"]) {
                assert!(said.contains(needle), "{needle}: {said}");
            }
        }
    }

    #[test]
    fn separators_end_documents_and_keep_their_line_ends() {
        let lines = "\nOnce.\nTwice.\n\n<|endoftext|>\r\n<|endoftext|>\nA <|endoftext|>\n inside\n<|endoftext|>\nlast";
        let expected = [("Once.\nTwice.", 1), ("", 6), ("A <|endoftext|>\n inside", 7), ("last", 10)];
        assert_eq!(separated(lines), expected.map(|(text, line)| (text.to_owned(), line)));
        assert_eq!(separated("a\n<|endoftext|>\n\n"), [("a".to_owned(), 1)]);
        assert_eq!(separated("\n"), []);
    }
}
