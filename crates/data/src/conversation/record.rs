//! A record of a file as a conversation.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::generation::MARKS;
use super::template::{ChatTemplate, Rendered};

/// Who may speak.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// How records of conversations are read.
#[derive(Clone, Debug)]
pub(crate) struct Conversations {
    pub template: Arc<ChatTemplate>,
}

/// A conversation and its text.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
    pub(super) template: Arc<ChatTemplate>,
    pub(super) messages: Vec<Value>,
    /// Messages before this one are not learnt, whoever speaks.
    pub(super) first_learnt: usize,
    /// What the template is told beside the messages: tools, and variables of the record's own.
    pub(super) variables: Vec<(String, Value)>,
    pub(super) rendered: Rendered,
}

/// Why a record is no conversation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// It has none, in the words by which such records are counted and in particular.
    Unreadable(&'static str, String),
    /// It has one that must not be left out without a word.
    Wrong(String),
}

impl RecordFault {
    fn wrong(reason: impl Into<String>) -> Self {
        Self::Wrong(reason.into())
    }
}

impl Conversations {
    /// The conversation of a JSON record.
    pub(crate) fn read(&self, record: &[u8]) -> Result<Conversation, RecordFault> {
        let json = str::from_utf8(record)
            .map_err(|error| RecordFault::Unreadable("not UTF-8", format!("is not UTF-8: {error}")))?;
        // Into the template engine's own values, which keep the order of keys as Python does.
        let value: Value = serde_json::from_str(json).map_err(|error| {
            let said = error.to_string().replace(" at line 1 column ", " at column ");
            RecordFault::Unreadable("not JSON", format!("is not JSON: {said}"))
        })?;
        if value.kind() != ValueKind::Map {
            return Err(RecordFault::Unreadable(
                "not an object",
                format!("is {}, expected an object with \"messages\"", kind(&value)),
            ));
        }
        let escaped = json.to_ascii_lowercase();
        if json.contains(MARKS) || ["\\ufdd0", "\\ufdd1"].iter().any(|mark| escaped.contains(mark)) {
            return Err(RecordFault::wrong(
                "has the character U+FDD0 or U+FDD1, which Unicode keeps from being text; remove it",
            ));
        }
        let (messages, first_learnt) = messages_of(&value)?;
        check_messages(&messages, first_learnt)?;
        let variables = variables_of(&value)?;
        let rendered = self
            .template
            .render(&messages, &variables, false)
            .map_err(|reason| RecordFault::Wrong(self.refused(&reason)))?;
        Ok(Conversation { template: Arc::clone(&self.template), messages, first_learnt, variables, rendered })
    }

    fn refused(&self, reason: &str) -> String {
        format!("cannot be rendered by the chat template {}: {reason}", self.template.name())
    }
}

impl Conversation {
    /// Its text.
    pub(crate) fn text(&self) -> &str {
        &self.rendered.text
    }
}

/// Whether a record is a conversation, by the fields that it has.
pub(super) fn is_conversation(value: &Value) -> bool {
    let has =
        |field: &str| value.get_attr(field).is_ok_and(|value| !value.is_undefined() && !value.is_none());
    value.kind() == ValueKind::Map && (has("messages") || has("prompt") && has("completion"))
}

/// The messages of a record, and which is the first that is learnt.
fn messages_of(record: &Value) -> Result<(Vec<Value>, usize), RecordFault> {
    let field = |name: &str| record.get_attr(name).ok().filter(|value| !value.is_undefined());
    if let Some(messages) = field("messages") {
        return Ok((list(&messages, "messages")?, 0));
    }
    let (Some(prompt), Some(completion)) = (field("prompt"), field("completion")) else {
        let fields: Vec<String> =
            record.try_iter().into_iter().flatten().map(|key| format!("\"{key}\"")).collect();
        let fields = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
        return Err(RecordFault::Unreadable(
            "field missing",
            format!("has neither \"messages\" nor \"prompt\" with \"completion\", only {fields}"),
        ));
    };
    let side = |value: Value, name: &'static str, role: &str| match value.as_str() {
        Some(text) => Ok(vec![Value::from_pairs([("role", role), ("content", text)])]),
        None => list(&value, name),
    };
    let mut messages = side(prompt, "prompt", "user")?;
    let first_learnt = messages.len();
    messages.extend(side(completion, "completion", "assistant")?);
    Ok((messages, first_learnt))
}

fn list(value: &Value, name: &'static str) -> Result<Vec<Value>, RecordFault> {
    match value.kind() {
        ValueKind::Seq => Ok(value.try_iter().into_iter().flatten().collect()),
        _ => Err(RecordFault::wrong(format!("{name:?} is {}, expected a list of messages", kind(value)))),
    }
}

fn check_messages(messages: &[Value], first_learnt: usize) -> Result<(), RecordFault> {
    for (message, place) in messages.iter().zip(1..) {
        if message.kind() != ValueKind::Map {
            let reason =
                format!("has {} as message {place}, expected an object with role and content", kind(message));
            return Err(RecordFault::wrong(reason));
        }
        let role = message.get_attr("role").unwrap_or_default();
        if !role.as_str().is_some_and(|role| ROLES.contains(&role)) {
            let got = if role.is_undefined() {
                "no role".to_owned()
            } else {
                format!("the role {:?}", role.to_string())
            };
            let reason = format!("has {got} in message {place}, expected one of {}", ROLES.join(", "));
            return Err(RecordFault::wrong(reason));
        }
        let content = message.get_attr("content").unwrap_or_default();
        let has_calls = message.get_attr("tool_calls").is_ok_and(|calls| calls.is_true());
        let is_fine = match content.kind() {
            ValueKind::String | ValueKind::Seq => true,
            ValueKind::None | ValueKind::Undefined => has_calls,
            _ => false,
        };
        if !is_fine {
            let got = if content.is_undefined() { "nothing" } else { kind(&content) };
            let reason = format!("has {got} as the content of message {place}, expected a text");
            return Err(RecordFault::wrong(reason));
        }
    }
    let learnt = &messages[first_learnt.min(messages.len())..];
    if learnt.iter().any(is_assistant) {
        return Ok(());
    }
    let what = if first_learnt > 0 { "message of its completion" } else { "message" };
    Err(RecordFault::wrong(format!("has nothing to learn: no {what} is of the role assistant; remove it")))
}

/// What the template is told beside the messages.
fn variables_of(record: &Value) -> Result<Vec<(String, Value)>, RecordFault> {
    let field =
        |name: &str| record.get_attr(name).ok().filter(|value| !value.is_undefined() && !value.is_none());
    let mut variables = Vec::new();
    if let Some(tools) = field("tools") {
        if tools.kind() != ValueKind::Seq {
            return Err(RecordFault::wrong(format!("\"tools\" is {}, expected a list", kind(&tools))));
        }
        variables.push(("tools".to_owned(), tools));
    }
    if let Some(own) = field("chat_template_kwargs") {
        if own.kind() != ValueKind::Map {
            let reason = format!("\"chat_template_kwargs\" is {}, expected an object", kind(&own));
            return Err(RecordFault::wrong(reason));
        }
        for key in own.try_iter().into_iter().flatten() {
            let value = own.get_item(&key).unwrap_or_default();
            variables.push((key.to_string(), value));
        }
    }
    Ok(variables)
}

pub(super) fn is_assistant(message: &Value) -> bool {
    message.get_attr("role").is_ok_and(|role| role.as_str() == Some("assistant"))
}

fn kind(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "missing",
        ValueKind::None => "null",
        ValueKind::Bool => "a boolean",
        ValueKind::Number => "a number",
        ValueKind::String => "a string",
        ValueKind::Map => "an object",
        _ => "an array",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::BuiltIn;
    use super::*;

    pub(in super::super) fn chatml() -> Conversations {
        Conversations { template: Arc::new(ChatTemplate::built_in(BuiltIn::ChatMl)) }
    }

    fn fault(record: &str) -> String {
        match chatml().read(record.as_bytes()).unwrap_err() {
            RecordFault::Unreadable(_, reason) | RecordFault::Wrong(reason) => reason,
        }
    }

    #[test]
    fn messages_and_pairs_are_rendered() {
        let rendered = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n";
        for record in [
            r#"{"id": 7, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}"#,
            r#"{"prompt": "Hi", "completion": "Yo"}"#,
            r#"{"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"content": "Yo", "role": "assistant"}]}"#,
        ] {
            assert_eq!(chatml().read(record.as_bytes()).unwrap().text(), rendered, "{record}");
        }
    }

    #[test]
    fn the_order_of_keys_and_a_records_own_variables_reach_the_template() {
        let source = "{{ tools | tojson }} {{ mood }} {{ documents }}{% for m in messages %}{{ m.content }}{% endfor %}";
        let template = ChatTemplate::new(source.to_owned(), "t", Default::default()).unwrap();
        let conversations = Conversations { template: Arc::new(template) };
        let record = r#"{"tools": [{"z": 1, "a": {"y": 2, "b": 3}}], "chat_template_kwargs": {"mood": "calm"},
            "messages": [{"role": "assistant", "content": "!"}]}"#;
        let text = conversations.read(record.as_bytes()).unwrap().text().to_owned();
        assert_eq!(text, r#"[{"z": 1, "a": {"y": 2, "b": 3}}] calm None!"#);
    }

    #[test]
    fn what_is_no_conversation_says_why() {
        for (record, needles) in [
            ("{\"messages\": [", &["not JSON", "column"][..]),
            ("[1]", &["is an array, expected an object"]),
            (r#"{"text": "a", "id": 1}"#, &["neither \"messages\"", "only \"text\", \"id\""]),
            (r#"{"messages": "hi"}"#, &["\"messages\" is a string"]),
            (r#"{"messages": ["hi"]}"#, &["has a string as message 1"]),
            (
                r#"{"messages": [{"role": "User", "content": "a"}]}"#,
                &["has the role \"User\" in message 1", "system"],
            ),
            (r#"{"messages": [{"content": "a"}]}"#, &["has no role in message 1"]),
            (r#"{"messages": [{"role": "user"}]}"#, &["has nothing as the content of message 1"]),
            (
                r#"{"messages": [{"role": "assistant", "content": null}]}"#,
                &["has null as the content of message 1"],
            ),
            (r#"{"messages": [{"role": "user", "content": "a"}]}"#, &["nothing to learn", "assistant"]),
            (r#"{"messages": []}"#, &["nothing to learn"]),
            (
                r#"{"prompt": [{"role": "assistant", "content": "a"}], "completion": [{"role": "user", "content": "b"}]}"#,
                &["nothing to learn", "completion"],
            ),
            (r#"{"prompt": "a", "completion": "\ufdd0"}"#, &["U+FDD0"]),
            (r#"{"prompt": "a", "completion": "b", "tools": {}}"#, &["\"tools\" is an object"]),
        ] {
            let said = fault(record);
            needles.iter().for_each(|needle| assert!(said.contains(needle), "{needle}: {said}"));
        }
    }

    #[test]
    fn what_a_template_refuses_is_told_with_its_name() {
        let source = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
        let template = ChatTemplate::new(source.to_owned(), "gemma.jinja", Default::default()).unwrap();
        let conversations = Conversations { template: Arc::new(template) };
        let record =
            r#"{"messages": [{"role": "system", "content": ""}, {"role": "assistant", "content": ""}]}"#;
        let fault = conversations.read(record.as_bytes()).unwrap_err();
        let RecordFault::Wrong(reason) = fault else { panic!("{fault:?}") };
        assert!(reason.contains("gemma.jinja: System role not supported"), "{reason}");
    }
}
