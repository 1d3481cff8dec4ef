//! JSON as Python's `json.dumps` writes it, which is what `tojson` gives in chat templates.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// How values are written.
struct Style {
    is_ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sorts_keys: bool,
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match (indent.as_usize(), indent.as_str()) {
            (Some(n), _) => " ".repeat(n.min(64)),
            (None, Some(text)) => text.to_owned(),
            (None, None) => return Err(fault("tojson's indent is neither a number nor a text")),
        }),
    };
    let separators = options.get::<Option<Value>>("separators")?.filter(|pair| !pair.is_none());
    let (between_items, after_key) = match separators {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some(pair) => {
            let of = |idx| pair.get_item_by_index(idx).map(|text| text.to_string());
            (of(0)?, of(1)?)
        }
    };
    let flag = |name| Ok::<_, Error>(options.get::<Option<bool>>(name)?.unwrap_or(false));
    let style = Style {
        is_ascii: flag("ensure_ascii")?,
        indent,
        between_items,
        after_key,
        sorts_keys: flag("sort_keys")?,
    };
    options.assert_all_used()?;
    let mut json = String::new();
    style.write(value, 0, &mut json)?;
    Ok(json)
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.write_all('[', ']', items, depth, out, |style, item, out| {
                    style.write(&item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorts_keys {
                    keys.sort();
                }
                self.write_all('{', '}', keys.into_iter(), depth, out, |style, key, out| {
                    style.write_text(&key.to_string(), out);
                    out.push_str(&style.after_key);
                    style.write(&value.get_item(&key)?, depth + 1, out)
                })?;
            }
            other => return Err(fault(&format!("tojson cannot write a value of kind {other}"))),
        }
        Ok(())
    }

    fn write_all(
        &self,
        open: char,
        close: char,
        items: impl Iterator<Item = Value>,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(&Self, Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        let mut n_written = 0;
        for item in items {
            if n_written > 0 {
                out.push_str(&self.between_items);
            }
            new_line(depth + 1, out);
            write(self, item, out)?;
            n_written += 1;
        }
        if n_written > 0 {
            new_line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn write_text(&self, text: &str, out: &mut String) {
        let json = serde_json::Value::from(text).to_string();
        if !self.is_ascii {
            out.push_str(&json);
            return;
        }
        for c in json.chars() {
            match c.is_ascii() {
                true => out.push(c),
                false => {
                    let units = c.encode_utf16(&mut [0; 2]).to_vec();
                    units.iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
            }
        }
    }
}

/// A number as Python's `repr` writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else { return value.to_string() };
    let text = format!("{float:?}");
    // Python gives exponents a sign and two digits.
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

fn fault(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::environment::environment;
    use super::*;

    fn rendered(expression: &str, json: &str) -> String {
        let value: Value = serde_json::from_str(json).unwrap();
        let context = Value::from_pairs([("x", value)]);
        environment().render_str(&format!("{{{{ {expression} }}}}"), context).unwrap()
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        // Each right side is what Python 3.12 prints for json.dumps(x, ensure_ascii=False, …).
        let tool = r#"{"z": [1, 2.0, 1e-7, 1e22, true, null], "a": {"<é>": "it's \"q\"\n\u0001"}, "e": [], "o": {}}"#;
        assert_eq!(
            rendered("x | tojson", tool),
            r#"{"z": [1, 2.0, 1e-07, 1e+22, true, null], "a": {"<é>": "it's \"q\"\n\u0001"}, "e": [], "o": {}}"#
        );
        assert_eq!(
            rendered("x | tojson(indent=2)", r#"{"b": [1, {"c": "d"}], "e": []}"#),
            "{\n  \"b\": [\n    1,\n    {\n      \"c\": \"d\"\n    }\n  ],\n  \"e\": []\n}"
        );
        assert_eq!(rendered("x | tojson(sort_keys=true)", r#"{"b": 1, "a": 2}"#), r#"{"a": 2, "b": 1}"#);
        assert_eq!(rendered("x | tojson(separators=(',', ':'))", r#"{"b": [1, 2]}"#), r#"{"b":[1,2]}"#);
        assert_eq!(rendered("x | tojson(ensure_ascii=true)", r#""é🙂""#), r#""\u00e9\ud83d\ude42""#);
    }
}
