//! A chat template, and how it is rendered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};
use wattle_guard::guard;

use super::built_in::BuiltIn;
use super::choice::TemplateChoice;
use super::environment::environment;
use super::generation::{rewrite, unmarked, without_markers};
use crate::digest::sha256_hex;
use crate::end_of_text::END_OF_TEXT;
use crate::error::DataError;

/// Name of a template beside a tokenizer.
pub const FILE_NAME: &str = "chat_template.jinja";

/// The file beside a tokenizer that says how it is used, and may hold the template.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Name by which the environment knows the template.
const NAME: &str = "chat_template";

/// Tokens that templates ask for by name.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A message of a conversation in the making.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    fn to_value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// A chat template with the special tokens that it may ask for.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    /// Its name, or the file that it was read from.
    name: String,
    special_tokens: BTreeMap<String, String>,
    /// Tokens that it is made for beside those.
    other_tokens: &'static [&'static str],
    is_marked: bool,
    environment: Arc<Environment<'static>>,
}

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub text: String,
    /// What stands between markers, in bytes.
    pub marked: Vec<std::ops::Range<usize>>,
}

impl ChatTemplate {
    /// A template of `source`; `name` is named in errors.
    ///
    /// # Errors
    /// If it does not parse.
    pub fn new(
        source: String,
        name: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, DataError> {
        let fault = |reason: String| DataError::ChatTemplate { name: name.to_owned(), reason };
        let (rewritten, is_marked) = rewrite(&source);
        let parsed = guard(|| {
            let mut environment = environment();
            environment.add_template_owned(NAME, rewritten).map(|()| environment)
        });
        let environment = parsed.map_err(fault)?.map_err(|error| fault(told(&error)))?;
        Ok(Self {
            source,
            name: name.to_owned(),
            special_tokens,
            other_tokens: &[],
            is_marked,
            environment: Arc::new(environment),
        })
    }

    /// One that comes with the program.
    pub fn built_in(template: BuiltIn) -> Self {
        let tokens = [("bos_token", END_OF_TEXT), ("eos_token", template.end_of_turn())];
        let tokens = tokens.map(|(name, token)| (name.to_owned(), token.to_owned())).into();
        let made = Self::new(template.source().to_owned(), template.name(), tokens);
        Self { other_tokens: template.tokens(), ..made.expect("tests parse all of them") }
    }

    /// The one that `choice` names.
    ///
    /// # Errors
    /// If the path has no template, or the template does not parse.
    pub fn of_choice(choice: &TemplateChoice) -> Result<Self, DataError> {
        let path = match choice {
            TemplateChoice::BuiltIn(template) => return Ok(Self::built_in(*template)),
            TemplateChoice::Path(path) => path,
        };
        let none = |reason: &str| DataError::ChatTemplate {
            name: path.display().to_string(),
            reason: reason.to_owned(),
        };
        if path.is_dir() {
            return Self::of_dir(path)?.ok_or_else(|| {
                none(&format!("has neither {FILE_NAME} nor a chat_template in {TOKENIZER_CONFIG}"))
            });
        }
        if path.extension().is_some_and(|extension| extension == "json") {
            return Self::of_config(path)?.ok_or_else(|| none("has no chat_template"));
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        Self::new(read(path)?, &path.display().to_string(), Config::beside(dir)?.special_tokens())
            .map(|template| template.with_name(path))
    }

    /// The template of a tokenizer's or checkpoint's directory, if it has one.
    ///
    /// # Errors
    /// If it cannot be read or does not parse.
    pub fn of_dir(dir: &Path) -> Result<Option<Self>, DataError> {
        let file = dir.join(FILE_NAME);
        match file.is_file() {
            true => Self::of_choice(&TemplateChoice::Path(file)).map(Some),
            false => Self::of_config(&dir.join(TOKENIZER_CONFIG)),
        }
    }

    fn of_config(path: &Path) -> Result<Option<Self>, DataError> {
        if !path.is_file() {
            return Ok(None);
        }
        let config = Config::read(path)?;
        let Some(source) = config.chat_template() else { return Ok(None) };
        Self::new(source, &path.display().to_string(), config.special_tokens()).map(Some)
    }

    fn with_name(self, path: &Path) -> Self {
        Self { name: path.display().to_string(), ..self }
    }

    /// The same template with `end_of_text`, if it has no end of its own.
    pub(super) fn with_end_of_text(mut self, end_of_text: Option<String>) -> Self {
        if let Some(end) = end_of_text {
            self.special_tokens.entry("eos_token".to_owned()).or_insert(end);
        }
        self
    }

    /// Whether it has a token of this name.
    pub(super) fn has_token(&self, name: &str) -> bool {
        self.special_tokens.contains_key(name)
    }

    /// The spellings of the tokens that a tokenizer should have for it, each once.
    pub(crate) fn tokens(&self) -> Vec<&str> {
        let named = self.special_tokens.values().map(String::as_str);
        let mut tokens: Vec<&str> = self.other_tokens.iter().copied().chain(named).collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens.retain(|token| !token.is_empty());
        tokens
    }

    /// What stands between its tokens in a text.
    pub(crate) fn words_of<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut parts = vec![text];
        for token in self.tokens() {
            parts = parts.into_iter().flat_map(|part| part.split(token)).collect();
        }
        parts
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its text without `{% generation %}` markers, for programs that do not know them.
    pub fn without_markers(&self) -> String {
        without_markers(&self.source)
    }

    /// Its name, or the file that it was read from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tokens that it may ask for by name, such as `eos_token`.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Whether it marks what a model is to learn.
    pub fn is_marked(&self) -> bool {
        self.is_marked
    }

    /// One hash over all of it, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut text = format!("{}\n", self.source);
        self.special_tokens.iter().for_each(|(name, token)| text += &format!("{name} {token:?}\n"));
        sha256_hex(text.as_bytes())
    }

    /// The files in which a checkpoint's directory holds it: its own, and `tokenizer_config`, to which its special
    /// tokens are added.
    pub fn files(&self, tokenizer_config: &str) -> [(&'static str, String); 2] {
        let mut config: serde_json::Value = serde_json::from_str(tokenizer_config).unwrap_or_default();
        for (name, token) in &self.special_tokens {
            config[name] = token.as_str().into();
        }
        [(FILE_NAME, self.source.clone()), (TOKENIZER_CONFIG, format!("{config:#}\n"))]
    }

    /// The text of a conversation, up to where the assistant is to speak.
    ///
    /// # Errors
    /// If the template refuses it.
    pub fn prompt(&self, messages: &[Message]) -> Result<String, DataError> {
        let messages: Vec<Value> = messages.iter().map(Message::to_value).collect();
        let fault = |reason| DataError::ChatTemplate { name: self.name.clone(), reason };
        Ok(self.render(&messages, &[], true).map_err(fault)?.text)
    }

    /// The text that ends a turn of the assistant: what the template puts after the message. It may be empty.
    ///
    /// # Errors
    /// If the template refuses the shortest of conversations.
    pub fn after_turn(&self) -> Result<String, DataError> {
        const SAID: &str = "word";
        let message = |role: &str| Message { role: role.to_owned(), content: SAID.to_owned() }.to_value();
        let fault = |reason| DataError::ChatTemplate { name: self.name.clone(), reason };
        let rendered = self.render(&[message("user"), message("assistant")], &[], false).map_err(fault)?;
        Ok(rendered.text.rsplit_once(SAID).map_or_else(String::new, |(_, after)| after.to_owned()))
    }

    /// Renders `messages` with more variables, with or without the prompt for the assistant's next turn.
    pub(super) fn render(
        &self,
        messages: &[Value],
        variables: &[(String, Value)],
        with_prompt: bool,
    ) -> Result<Rendered, String> {
        let none = [("tools", Value::from(())), ("documents", Value::from(()))];
        let special =
            self.special_tokens.iter().map(|(name, token)| (name.clone(), Value::from(token.as_str())));
        let context = Value::from_pairs(
            none.map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .chain(special)
                .chain(variables.iter().cloned())
                .chain([
                    ("messages".to_owned(), Value::from(messages.to_vec())),
                    ("add_generation_prompt".to_owned(), Value::from(with_prompt)),
                ]),
        );
        let rendered = guard(|| self.environment.get_template(NAME)?.render(context))?;
        let (text, marked) = unmarked(&rendered.map_err(|error| told(&error))?);
        Ok(Rendered { text, marked })
    }
}

/// What minijinja says, without its dump of variables.
fn told(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line} of the template)"),
        None => what,
    }
}

fn read(path: &Path) -> Result<String, DataError> {
    wattle_files::read_text(path, wattle_files::SMALL).map_err(DataError::read(path))
}

/// The part of a `tokenizer_config.json` that templates need.
#[derive(Default, Deserialize)]
struct Config(serde_json::Map<String, serde_json::Value>);

impl Config {
    fn read(path: &Path) -> Result<Self, DataError> {
        serde_json::from_str(&read(path)?).map_err(|error| DataError::ChatTemplate {
            name: path.display().to_string(),
            reason: format!("is not JSON: {error}"),
        })
    }

    fn beside(dir: &Path) -> Result<Self, DataError> {
        let path: PathBuf = dir.join(TOKENIZER_CONFIG);
        if path.is_file() { Self::read(&path) } else { Ok(Self::default()) }
    }

    /// The template; of several the one called "default".
    fn chat_template(&self) -> Option<String> {
        match self.0.get("chat_template")? {
            serde_json::Value::String(source) => Some(source.clone()),
            serde_json::Value::Array(named) => {
                let default = named.iter().find(|named| named["name"] == "default")?;
                default["template"].as_str().map(str::to_owned)
            }
            _ => None,
        }
    }

    /// Tokens by name, each a text or an object with its `content`.
    fn special_tokens(&self) -> BTreeMap<String, String> {
        let token = |name: &str| {
            let value = self.0.get(name)?;
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            Some((name.to_owned(), text.to_owned()))
        };
        SPECIAL_TOKENS.into_iter().filter_map(token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Vec<Message> {
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
            .map(|(role, content)| Message { role: role.to_owned(), content: content.to_owned() })
            .into()
    }

    #[test]
    fn built_in_templates_say_what_they_promise() {
        let chatml = ChatTemplate::built_in(BuiltIn::ChatMl);
        assert_eq!(
            chatml.prompt(&messages()).unwrap(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\
             Hello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
        );
        assert_eq!(chatml.after_turn().unwrap(), "<|im_end|>\n");
        let plain = ChatTemplate::built_in(BuiltIn::Plain);
        assert_eq!(
            plain.prompt(&messages()).unwrap(),
            "System: Be brief.\nUser: Hi\nAssistant: Hello<|endoftext|>\nUser: Bye\nAssistant:"
        );
        assert_eq!(plain.after_turn().unwrap(), "<|endoftext|>\n");
        assert!(chatml.is_marked() && plain.is_marked());
        assert_ne!(chatml.sha256(), plain.sha256());
    }

    #[test]
    fn a_directorys_template_comes_with_its_tokens() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ChatTemplate::of_dir(dir.path()).unwrap().is_none());
        let config = r#"{"eos_token": {"content": "</s>", "lstrip": false}, "bos_token": "<s>", "unk_token": null,
            "chat_template": [{"name": "tool_use", "template": "no"},
                              {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}]}"#;
        std::fs::write(dir.path().join(TOKENIZER_CONFIG), config).unwrap();
        let template = ChatTemplate::of_dir(dir.path()).unwrap().unwrap();
        assert_eq!(template.prompt(&messages()).unwrap(), "<s>Be brief.</s>");
        assert!(template.name().ends_with(TOKENIZER_CONFIG));

        std::fs::write(dir.path().join(FILE_NAME), "{{ eos_token }}").unwrap();
        let own = ChatTemplate::of_dir(dir.path()).unwrap().unwrap();
        assert_eq!(own.prompt(&messages()).unwrap(), "</s>");

        let copy = tempfile::tempdir().unwrap();
        for (name, text) in own.files("{\"model_max_length\": 8}") {
            std::fs::write(copy.path().join(name), text).unwrap();
        }
        let copied = ChatTemplate::of_dir(copy.path()).unwrap().unwrap();
        assert_eq!(copied.sha256(), own.sha256());
    }

    #[test]
    fn what_is_wrong_with_a_template_is_told_with_its_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.jinja");
        std::fs::write(&path, "fine\n{% for x in %}").unwrap();
        let error = ChatTemplate::of_choice(&TemplateChoice::Path(path)).unwrap_err().to_string();
        assert!(error.contains("broken.jinja") && error.contains("line 2"), "{error}");
        let refuses =
            ChatTemplate::new("{{ raise_exception('no system role') }}".into(), "t", BTreeMap::new());
        let error = refuses.unwrap().prompt(&messages()).unwrap_err().to_string();
        assert!(error.contains("no system role"), "{error}");
        let empty = ChatTemplate::of_choice(&TemplateChoice::Path(dir.path().into())).unwrap_err();
        assert!(empty.to_string().contains(FILE_NAME), "{empty}");
    }
}
