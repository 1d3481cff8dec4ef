//! Documents: the texts in lines of JSON, or between lines that separate them.
//!
//! # Format
//! Of JSONL, each line is an object; blank lines are passed over. Of separated text, a document ends at a line
//! that is the separator and nothing else; the line ends at its beginning and end are the separator's, not its
//! own, and after the last separator only something visible is another document. A document without a character
//! is passed over and counted.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::DataError;

/// A document as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document<'a> {
    /// Its text.
    pub text: Cow<'a, str>,
    /// Its first line in the file, from 1.
    pub line: u64,
}

/// Calls `on_document` with the documents of `lines`, whole lines of JSON of which the first is `first_line`.
pub(crate) fn json_documents(
    path: &Path,
    lines: &[u8],
    first_line: u64,
    field: &str,
    on_document: &mut dyn FnMut(Document<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for (line, bytes) in (first_line..).zip(lines.split(|&byte| byte == b'\n')) {
        let json = utf8(path, line, bytes)?;
        if !json.trim_ascii().is_empty() {
            let text =
                json_text(json, field).map_err(|reason| json_fault(path, line, json, field, reason))?;
            on_document(Document { text, line })?;
        }
    }
    Ok(())
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

/// Whether a line, with or without its end, is the separator.
pub(crate) fn is_separator(line: &[u8], separator: &str) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line) == separator.as_bytes()
}

fn between<'a>(path: &Path, bytes: &'a [u8], line: u64) -> Result<Document<'a>, DataError> {
    let text = utf8(path, line, bytes)?;
    Ok(Document { text: Cow::Borrowed(text.trim_matches(['\n', '\r'])), line })
}

fn utf8<'a>(path: &Path, line: u64, bytes: &'a [u8]) -> Result<&'a str, DataError> {
    str::from_utf8(bytes).map_err(|error| {
        let reason = format!("is not UTF-8: invalid byte at offset {} of the line", error.valid_up_to());
        DataError::Document { path: path.to_owned(), line, reason }
    })
}

/// The text in `field` of a JSON object, or what the parser says.
fn json_text<'a>(json: &'a str, field: &str) -> Result<Cow<'a, str>, String> {
    let mut parser = serde_json::Deserializer::from_str(json);
    let text = Field(field).deserialize(&mut parser).map_err(|error| error.to_string())?;
    parser.end().map_err(|error| error.to_string())?;
    text.ok_or_else(|| "no such field".to_owned())
}

/// What is wrong with a line, found by reading it once more as any JSON.
fn json_fault(path: &Path, line: u64, json: &str, field: &str, reason: String) -> DataError {
    let reason = match serde_json::from_str::<serde_json::Value>(json) {
        // The parser saw one line alone.
        Err(_) => format!("is not JSON: {}", reason.replace(" at line 1 column ", " at column ")),
        Ok(serde_json::Value::Object(object)) => match object.get(field) {
            Some(value) => format!("{field:?} is {}, expected a string; see data.text_field", kind(value)),
            None => {
                let fields: Vec<String> = object.keys().map(|field| format!("{field:?}")).collect();
                let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
                format!(
                    "has no field {field:?}, only {fields}; name the one with the text in data.text_field"
                )
            }
        },
        Ok(value) => format!("is {}, expected an object with a field {field:?}", kind(&value)),
    };
    DataError::Document { path: path.to_owned(), line, reason }
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

    fn json(lines: &str) -> Result<Vec<(String, u64)>, String> {
        let mut documents = Vec::new();
        let mut on_document = |document: Document<'_>| {
            documents.push((document.text.into_owned(), document.line));
            Ok(())
        };
        let path = Path::new("docs.jsonl");
        match json_documents(path, lines.as_bytes(), 7, "text", &mut on_document) {
            Ok(()) => Ok(documents),
            Err(error) => Err(error.to_string()),
        }
    }

    fn separated(lines: &str) -> Vec<(String, u64)> {
        let mut documents = Vec::new();
        let mut on_document = |document: Document<'_>| {
            documents.push((document.text.into_owned(), document.line));
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
        assert_eq!(json(lines).unwrap(), expected);
    }

    #[test]
    fn every_fault_names_file_line_and_remedy() {
        for (line, needles) in [
            ("{\"text\": \"a\"", &["is not JSON", "EOF"][..]),
            ("plain text", &["is not JSON"]),
            ("{\"text\": \"a\"} {}", &["is not JSON", "trailing"]),
            ("{\"text\": \"\\ud800\"}", &["is not JSON", "hex escape at column 17"]),
            ("[\"text\"]", &["is an array, expected an object"]),
            ("\"text\"", &["is a string, expected an object"]),
            ("{\"body\": \"a\", \"id\": 3}", &["no field \"text\"", "\"body\", \"id\"", "data.text_field"]),
            ("{}", &["no field \"text\", only none"]),
            ("{\"text\": 3}", &["\"text\" is a number, expected a string"]),
            ("{\"text\": null}", &["is null, expected a string"]),
        ] {
            let error = json(&format!("{{\"text\": \"fine\"}}\n{line}\n")).unwrap_err();
            for needle in needles.iter().chain(&["docs.jsonl", "line 8"]) {
                assert!(error.contains(needle), "{line}: {error}");
            }
        }
        let error = json_documents(Path::new("x"), b"{\"text\": \"\xff\"}", 1, "text", &mut |_| Ok(()));
        assert!(error.unwrap_err().to_string().contains("line 1 is not UTF-8"));
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
