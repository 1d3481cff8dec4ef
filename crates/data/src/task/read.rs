//! Reads items, one a line.

use std::path::Path;

use serde_json::{Map, Value};

use super::item::{Choice, Cloze, Completion, Ignore, Items};
use crate::error::DataError;

/// Tokens that are said where an item does not state how many.
const DEFAULT_MAX_TOKENS: usize = 256;

/// One line's fields.
struct Line {
    fields: Map<String, Value>,
}

/// The items of a file.
///
/// # Errors
/// At the first line that is not an item, or if the file has no items.
pub(super) fn items(path: &Path, text: &str) -> Result<Items, DataError> {
    let wrong = |place: usize, reason: String| DataError::Document {
        path: path.to_owned(),
        unit: "line",
        place: place as u64,
        reason,
    };
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let mut all: Option<Items> = None;
    for (number, line) in lines {
        let item = Line::parse(line).and_then(Line::item).map_err(|reason| wrong(number, reason))?;
        match (&mut all, item) {
            (None, first) => all = Some(first),
            (Some(Items::Choice(all)), Items::Choice(item)) => all.extend(item),
            (Some(Items::Cloze(all)), Items::Cloze(item)) => all.extend(item),
            (Some(Items::Generate(all)), Items::Generate(item)) => all.extend(item),
            (Some(all), item) => {
                let reason = format!(
                    "has \"kind\": {:?}, and the lines before it have {:?}; put each kind into a file of its own",
                    item.kind(),
                    all.kind()
                );
                return Err(wrong(number, reason));
            }
        }
    }
    all.ok_or_else(|| wrong(1, "is missing: expected an item, a JSON object a line".to_owned()))
}

impl Line {
    fn parse(line: &str) -> Result<Self, String> {
        match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => Ok(Self { fields }),
            Ok(other) => Err(format!("is {}: expected a JSON object", kind_of(&other))),
            Err(error) => Err(format!("is not JSON ({error}): expected a JSON object")),
        }
    }

    fn item(self) -> Result<Items, String> {
        match self.text("kind")?.as_str() {
            "choice" => self.choice(),
            "cloze" => self.cloze(),
            "generate" => self.generate(),
            other => Err(format!("has \"kind\": {other:?}; expected \"choice\", \"cloze\" or \"generate\"")),
        }
    }

    fn choice(&self) -> Result<Items, String> {
        self.refuse_others(&["prompt", "choices", "answer"])?;
        let choices = self.texts("choices")?;
        if choices.len() < 2 {
            return Err(format!("has {} \"choices\"; expected at least 2", choices.len()));
        }
        refuse_empty("choices", &choices)?;
        let answer = self.whole("answer")?.ok_or_else(|| self.lacks("answer"))?;
        if answer >= choices.len() {
            return Err(format!(
                "has \"answer\": {answer}; expected the place of a choice, from 0 to {}",
                choices.len() - 1
            ));
        }
        Ok(Items::Choice(vec![Choice { prompt: self.text("prompt")?, choices, answer }]))
    }

    fn cloze(&self) -> Result<Items, String> {
        self.refuse_others(&["prompt", "answer"])?;
        let answer = self.text("answer")?;
        refuse_empty("answer", std::slice::from_ref(&answer))?;
        Ok(Items::Cloze(vec![Cloze { prompt: self.text("prompt")?, answer }]))
    }

    fn generate(&self) -> Result<Items, String> {
        self.refuse_others(&["prompt", "answer", "stop", "max_tokens", "ignore"])?;
        let answers = self.texts("answer")?;
        if answers.is_empty() {
            return Err("has no text in \"answer\"; expected at least one".to_owned());
        }
        let stop = if self.fields.contains_key("stop") { self.texts("stop")? } else { Vec::new() };
        refuse_empty("stop", &stop)?;
        let max_tokens = self.whole("max_tokens")?.unwrap_or(DEFAULT_MAX_TOKENS);
        if max_tokens == 0 {
            return Err("has \"max_tokens\": 0; expected at least 1".to_owned());
        }
        let (prompt, ignore) = (self.text("prompt")?, self.ignore()?);
        Ok(Items::Generate(vec![Completion { prompt, answers, stop, max_tokens, ignore }]))
    }

    fn ignore(&self) -> Result<Ignore, String> {
        let mut ignore = Ignore::default();
        let named = if self.fields.contains_key("ignore") { self.texts("ignore")? } else { Vec::new() };
        for name in named {
            let part = match name.as_str() {
                "case" => &mut ignore.case,
                "punctuation" => &mut ignore.punctuation,
                "numbers" => &mut ignore.numbers,
                "whitespace" => &mut ignore.whitespace,
                _ => {
                    return Err(format!(
                        "has {name:?} in \"ignore\"; expected \"case\", \"punctuation\", \"numbers\" or \"whitespace\""
                    ));
                }
            };
            *part = true;
        }
        Ok(ignore)
    }

    fn refuse_others(&self, known: &[&str]) -> Result<(), String> {
        let is_known = |key: &str| matches!(key, "kind" | "id") || known.contains(&key);
        match self.fields.keys().find(|key| !is_known(key)) {
            Some(other) => {
                let known: Vec<_> = known.iter().map(|key| format!("{key:?}")).collect();
                Err(format!("has an unknown field {other:?}; expected {}", known.join(", ")))
            }
            None => Ok(()),
        }
    }

    fn lacks(&self, key: &str) -> String {
        format!("has no {key:?}")
    }

    fn text(&self, key: &str) -> Result<String, String> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(format!("has {} in {key:?}; expected a text", kind_of(other))),
            None => Err(self.lacks(key)),
        }
    }

    /// A list of texts, or one text that stands for such a list.
    fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(values)) => {
                let text = |value: &Value| match value {
                    Value::String(text) => Ok(text.clone()),
                    other => Err(format!("has {} in {key:?}; expected texts", kind_of(other))),
                };
                values.iter().map(text).collect()
            }
            Some(other) => Err(format!("has {} in {key:?}; expected a list of texts", kind_of(other))),
            None => Err(self.lacks(key)),
        }
    }

    fn whole(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.fields.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(format!("has {key:?}: {value}; expected a whole number of at least 0")),
        }
    }
}

fn refuse_empty(key: &str, texts: &[String]) -> Result<(), String> {
    match texts.iter().any(String::is_empty) {
        true => Err(format!("has an empty text in {key:?}; expected at least one character")),
        false => Ok(()),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Items, String> {
        items(Path::new("my.jsonl"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_is_read_and_blank_lines_are_not_items() {
        let choice = r#"{"kind":"choice","id":7,"prompt":"a","choices":[" b"," c"],"answer":1}"#;
        let Items::Choice(choices) = read(&format!("{choice}\n\n{choice}\n")).unwrap() else { panic!() };
        assert_eq!((choices.len(), choices[1].answer), (2, 1));
        let cloze = r#"{"kind":"cloze","prompt":"a","answer":" b"}"#;
        assert_eq!(read(cloze).unwrap().kind(), "cloze");
        let generate =
            r#"{"kind":"generate","prompt":"a","answer":"b","stop":["\n"],"max_tokens":3,"ignore":["case"]}"#;
        let Items::Generate(items) = read(generate).unwrap() else { panic!() };
        let item = &items[0];
        assert_eq!(
            (item.answers.len(), item.max_tokens, item.stop.as_slice()),
            (1, 3, &["\n".to_owned()][..])
        );
        assert!(item.ignore.case && !item.ignore.numbers);
    }

    #[test]
    fn a_wrong_line_is_told_with_its_field() {
        let cases = [
            ("[1]", "line 1 is a list: expected a JSON object"),
            ("{\"kind\":", "line 1 is not JSON"),
            ("\n\n{}", "line 3 has no \"kind\""),
            (r#"{"kind":"riddle"}"#, "\"kind\": \"riddle\"; expected \"choice\""),
            (r#"{"kind":"choice","prompt":"a","choices":["b"],"answer":0}"#, "1 \"choices\""),
            (r#"{"kind":"choice","prompt":"a","choices":["b","c"],"answer":2}"#, "from 0 to 1"),
            (
                r#"{"kind":"choice","prompt":"a","choices":["b","c"],"answer":"c"}"#,
                "\"answer\": \"c\"; expected a whole",
            ),
            (r#"{"kind":"choice","prompt":"a","choices":["b","c"]}"#, "has no \"answer\""),
            (
                r#"{"kind":"choice","prompt":"a","choices":["b",""],"answer":0}"#,
                "an empty text in \"choices\"",
            ),
            (r#"{"kind":"cloze","prompt":3,"answer":"b"}"#, "a number in \"prompt\"; expected a text"),
            (r#"{"kind":"cloze","prompt":"a","answr":"b"}"#, "unknown field \"answr\""),
            (
                r#"{"kind":"generate","prompt":"a","answer":"b","ignore":["vowels"]}"#,
                "\"vowels\" in \"ignore\"",
            ),
            (r#"{"kind":"generate","prompt":"a","answer":"b","max_tokens":0}"#, "\"max_tokens\": 0"),
            (r#"{"kind":"generate","prompt":"a","answer":"b","stop":[""]}"#, "an empty text in \"stop\""),
            ("\n", "line 1 is missing"),
        ];
        for (text, said) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains("my.jsonl") && error.contains(said), "{text}\n{error}\n{said}");
        }
        let mixed = "{\"kind\":\"cloze\",\"prompt\":\"a\",\"answer\":\"b\"}\n\
                     {\"kind\":\"generate\",\"prompt\":\"a\",\"answer\":\"b\"}";
        assert!(read(mixed).unwrap_err().contains("line 2 has \"kind\": \"generate\""));
    }
}
