//! What a key expects, in a person's words.

use toml::{Table, Value};

/// What the key `path` expects, if `check` refuses `value`.
pub fn mistake(path: &str, value: &Value, check: impl Fn(&Value) -> Result<(), String>) -> Option<String> {
    let reason = check(value).err()?;
    let is_of_types = ["invalid type", "invalid value", "unknown variant", "invalid length"]
        .iter()
        .any(|start| reason.starts_with(start));
    if !is_of_types {
        // A key that reads its value itself says what it wants.
        return Some(reason);
    }
    if let Some(expected) = expected(path, |value| check(value).is_ok()) {
        return Some(format!("expected {expected}{}", hint(path, value, expected)));
    }
    // One of a fixed set of names: an unknown name makes serde list the set.
    let listed = check(&Value::String("?".to_owned())).err().and_then(|reason| variants(&reason));
    Some(match listed {
        Some(names) => format!("expected {names}"),
        None => reason,
    })
}

/// What a key takes, by trying.
fn expected(path: &str, accepts: impl Fn(&Value) -> bool) -> Option<&'static str> {
    let text = || Value::String("a".to_owned());
    let files = if path == "data.input" { "a list of files" } else { "a list of texts" };
    let kinds = [
        // Whatever takes a fraction takes a whole number too.
        (Value::Float(0.5), "a number"),
        (Value::Integer(1), "a whole number of at least 0"),
        (Value::Boolean(true), "true or false"),
        (text(), "a text in quotes"),
        (Value::Array(vec![text()]), files),
        (Value::Array(vec![Value::Integer(1)]), "a list of whole numbers"),
        (Value::Table(Table::new()), "a section of keys"),
    ];
    kinds.into_iter().find(|(value, _)| accepts(value)).map(|(_, words)| match words {
        "a whole number of at least 0" if accepts(&Value::Integer(-1)) => "a whole number",
        words => words,
    })
}

/// The value as it may have been meant.
fn hint(path: &str, value: &Value, expected: &str) -> String {
    match value {
        Value::Float(n) if expected.starts_with("a whole number") && n.fract() == 0.0 && n.abs() < 1e15 => {
            format!(", such as {n:.0}")
        }
        Value::String(text) if expected.starts_with("a list of") && !expected.ends_with("numbers") => {
            format!(", such as --set '{path}=[{text:?}]'")
        }
        _ => String::new(),
    }
}

/// The names that serde lists as `a`, `b`, in quotes.
fn variants(reason: &str) -> Option<String> {
    let (_, list) = reason.strip_prefix("unknown variant")?.split_once("expected ")?;
    let names: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    match quoted.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        [others @ .., last] => Some(format!("{} or {last}", others.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Sources, resolve};

    fn said(pair: &str) -> String {
        let faults =
            resolve(None, &Sources { set: vec![pair.to_owned()], ..Sources::default() }).unwrap_err();
        faults.join("\n")
    }

    #[test]
    fn no_type_of_the_language_is_named() {
        for (pair, expected) in [
            ("train.batch_size=many", "expected a whole number of at least 0"),
            ("train.batch_size=-1", "expected a whole number of at least 0"),
            ("train.max_steps=1e4", "expected a whole number of at least 0, such as 10000"),
            ("train.max_steps=1.5", "expected a whole number of at least 0"),
            ("run.seed=one", "expected a whole number"),
            ("optimizer.learning_rate=fast", "expected a number"),
            ("model.dropout=yes", "expected a number"),
            ("model.bias=yes", "expected true or false"),
            ("model.bias=1", "expected true or false"),
            ("run.name=3", "expected a text in quotes"),
            ("data.dir=3", "expected a text in quotes"),
            ("data.input=mine.txt", "expected a list of files, such as --set 'data.input=[\"mine.txt\"]'"),
            ("data.input=[1]", "expected a list of files"),
            ("tokenizer.kind=words", "expected \"bytes\", \"chars\", \"bpe\" or \"file\""),
            ("precision.dtype=f16", "expected \"f32\" or \"bf16\""),
            ("precision.dtype=16", "expected \"f32\" or \"bf16\""),
            (
                "model.family=[1]",
                "expected \"gpt2\", \"llama\", \"qwen2\", \"qwen3\", \"mistral\" or \"olmo2\"",
            ),
            ("energy.interval_ms=often", "expected a whole number"),
            ("early_stop.target_loss=low", "expected a number"),
        ] {
            let said = said(pair);
            assert!(said.contains(expected), "{pair}: {said}");
            for word in ["invalid type", "u64", "usize", "f64", "f32,", "string", "sequence", "variant"] {
                assert!(!said.contains(word), "{pair}: {said}");
            }
        }
    }
}
