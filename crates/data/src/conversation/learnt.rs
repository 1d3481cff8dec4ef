//! Which part of a conversation's text is learnt.
//!
//! Where the template marks it, that. Else each turn of the assistant is found by rendering prefixes of the conversation:
//! a turn begins where the prompt for it ends, and ends where the conversation up to it ends. Templates may render a turn
//! otherwise once others follow (Qwen 3 leaves out what was thought, Phi 3 ends the text only once, Mistral moves the
//! system's message); then the turn's own text is looked for.

use std::ops::Range;

use minijinja::Value;

use super::record::{Conversation, is_assistant};

/// A part of a text that is learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learnt {
    /// In bytes of the text.
    pub range: Range<usize>,
    /// Whether the end lies where two texts begin to differ, which may be within a token that is not learnt.
    pub is_loose: bool,
}

impl Learnt {
    fn exactly(range: Range<usize>) -> Self {
        Self { range, is_loose: false }
    }
}

impl Conversation {
    /// The parts of its text that are learnt, in order.
    ///
    /// # Errors
    /// If they cannot be told; what is wrong, after the place of the record.
    pub(crate) fn learnt(&self) -> Result<Vec<Learnt>, String> {
        if self.template.is_marked() {
            let passed = match self.first_learnt {
                0 => 0,
                n => self.render(n, false)?.marked.len(),
            };
            let marked = self.rendered.marked.iter().skip(passed);
            return Ok(marked.cloned().map(Learnt::exactly).collect());
        }
        let (mut all, mut from) = (Vec::new(), 0);
        for idx in (self.first_learnt..self.messages.len()).filter(|&idx| is_assistant(&self.messages[idx])) {
            let learnt = self.turn(idx, from)?;
            from = learnt.range.end;
            all.push(learnt);
        }
        all.retain(|learnt| !learnt.range.is_empty());
        Ok(all)
    }

    /// The part of message `idx`, which lies at byte `from` of the text or later.
    fn turn(&self, idx: usize, from: usize) -> Result<Learnt, String> {
        let text = self.text();
        let mut prompt = self.render(idx, true)?.text;
        let is_last = idx + 1 == self.messages.len();
        let up_to = if is_last { text.to_owned() } else { self.render(idx + 1, false)?.text };
        if !up_to.starts_with(&prompt) {
            // As DeepSeek V3: the prompt opens a thought, which a turn of the past need not have.
            let before = self.render(idx, false)?.text;
            let same = common_prefix(&prompt, &up_to);
            if same >= before.len() {
                prompt.truncate(same);
            }
        }
        let start = prompt.len();
        if start >= from && text.starts_with(&prompt) && up_to.starts_with(&prompt) {
            if text.starts_with(&up_to) {
                return Ok(Learnt::exactly(start..up_to.len()));
            }
            let end = common_prefix(text, &up_to);
            let content = content_of(&self.messages[idx]);
            if let Some(said) =
                text.get(start..end).filter(|said| !content.is_empty() && said.contains(&content))
            {
                return Ok(Learnt { range: start..start + said.len(), is_loose: true });
            }
        }
        self.found(idx, from, up_to.strip_prefix(prompt.as_str())).ok_or_else(|| {
            format!(
                "has turns that the chat template {} renders otherwise once others follow, so that what is learnt \
                 cannot be told; put {{% generation %}} and {{% endgeneration %}} around it in the template, or give \
                 each turn a record of its own",
                self.template.name()
            )
        })
    }

    /// Message `idx` by its own text `turn`, as it stands when nothing follows, or by its content and what ends it.
    fn found(&self, idx: usize, from: usize, turn: Option<&str>) -> Option<Learnt> {
        let (rest, turn) = (self.text().get(from..)?, turn?);
        let content = content_of(&self.messages[idx]);
        if content.is_empty() {
            return None;
        }
        let after = turn.rsplit_once(content.as_str())?.1;
        let ended = format!("{content}{after}");
        let find = |what: &str| rest.find(what).map(|at| from + at..from + at + what.len());
        find(turn).or_else(|| find(&ended)).map(Learnt::exactly)
    }

    fn render(&self, n_messages: usize, with_prompt: bool) -> Result<super::template::Rendered, String> {
        self.template.render(&self.messages[..n_messages], &self.variables, with_prompt).map_err(|reason| {
            format!(
                "cannot be rendered up to message {n_messages} by the chat template {}, which tells what is learnt: \
                 {reason}",
                self.template.name()
            )
        })
    }
}

/// What a message says, as templates trim it; empty if that is no text.
fn content_of(message: &Value) -> String {
    let content = message.get_attr("content").unwrap_or_default();
    content.as_str().unwrap_or_default().trim().to_owned()
}

/// Bytes that both begin with, whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    a.floor_char_boundary(same)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::record::Conversations;
    use super::super::{BuiltIn, ChatTemplate};
    use super::*;

    fn conversations(source: &str) -> Conversations {
        let tokens = [("eos_token", "</s>")].map(|(name, token)| (name.to_owned(), token.to_owned()));
        let template = ChatTemplate::new(source.to_owned(), "test.jinja", BTreeMap::from(tokens)).unwrap();
        Conversations { template: Arc::new(template) }
    }

    /// What is learnt of a record, up to `|` where an end is loose.
    fn learnt(conversations: &Conversations, record: &str) -> Result<Vec<String>, String> {
        let conversation = conversations.read(record.as_bytes()).unwrap();
        let text = |Learnt { range, is_loose }: Learnt| {
            format!("{}{}", &conversation.text()[range], if is_loose { "|" } else { "" })
        };
        Ok(conversation.learnt()?.into_iter().map(text).collect())
    }

    const TWO_TURNS: &str = r#"{"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b é"}, {"role": "user", "content": "c"},
        {"role": "assistant", "content": " d "}]}"#;

    #[test]
    fn markers_tell_what_is_learnt_and_prompts_are_not() {
        let chatml = Conversations { template: Arc::new(ChatTemplate::built_in(BuiltIn::ChatMl)) };
        assert_eq!(learnt(&chatml, TWO_TURNS).unwrap(), ["b é<|im_end|>", " d <|im_end|>"]);
        let pair = r#"{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"},
            {"role": "user", "content": "b"}], "completion": [{"role": "assistant", "content": "y"}]}"#;
        assert_eq!(learnt(&chatml, pair).unwrap(), ["y<|im_end|>"]);
    }

    #[test]
    fn prefixes_tell_where_markers_do_not() {
        let plain = conversations(
            "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        );
        assert_eq!(learnt(&plain, TWO_TURNS).unwrap(), ["b é</s>\n", "d</s>\n"]);
        // Without a prompt for the assistant, as Mistral's: a turn is what comes after the user's.
        let mistral = conversations(
            "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content | trim }}</s>{% else %}[INST] {{ m.content }}[/INST]{% endif %}{% endfor %}",
        );
        assert_eq!(learnt(&mistral, TWO_TURNS).unwrap(), [" b é</s>", " d</s>"]);
    }

    #[test]
    fn a_turn_that_is_rendered_otherwise_once_others_follow_is_found() {
        // As Phi 3: the text ends once.
        let phi = conversations(
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}",
        );
        let expected = ["b é<|end|>\n<||", " d <|end|>\n<|endoftext|>"];
        assert_eq!(learnt(&phi, TWO_TURNS).unwrap(), expected);
        // As Qwen 3: the last turn has what was thought, if nothing.
        let qwen = conversations(
            "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        );
        assert_eq!(learnt(&qwen, TWO_TURNS).unwrap(), ["b é<|end|>", "<think></think> d <|end|>"]);
        // As Mistral's later ones: the system's message stands before the last of the user.
        let mistral = conversations(
            "{% set system = messages[0].content %}{% set rest = messages[1:] %}{% for m in rest %}{% if m.role == 'user' %}[INST] {% if m == (rest | selectattr('role', 'equalto', 'user') | list)[-1] %}{{ system }} {% endif %}{{ m.content }}[/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}",
        );
        assert_eq!(learnt(&mistral, TWO_TURNS).unwrap(), [" b é</s>", "  d </s>"]);
    }

    #[test]
    fn a_prompt_may_say_more_than_the_turn_has() {
        let deepseek = conversations(
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}<|assistant|><think>{% endif %}",
        );
        assert_eq!(learnt(&deepseek, TWO_TURNS).unwrap(), ["b é</s>", " d </s>"]);
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let upper = conversations(
            "{% for m in messages %}{% if loop.last %}{{ m.content }}{% else %}{{ m.content | upper }}{% endif %}.{% endfor %}",
        );
        let reason = learnt(&upper, TWO_TURNS).unwrap_err();
        assert!(reason.contains("test.jinja") && reason.contains("{% generation %}"), "{reason}");
    }
}
