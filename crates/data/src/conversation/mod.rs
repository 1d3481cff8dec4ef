//! Conversations: messages that a chat template turns into text, of which the assistant's part is learnt.
//!
//! # Format
//! A record is a JSON object with `messages`, a list of `{"role", "content"}` as Hugging Face's templates read them
//! (`tool_calls`, `tools` and `chat_template_kwargs` are handed on to the template), or with `prompt` and
//! `completion`, each a text or a list of messages: then the assistant's messages of the completion alone are learnt.
//!
//! # Modules
//! - `choice`: what `data.chat_template` names
//! - `built_in`: the templates that come with the program
//! - `template`: a chat template, from a directory, a file or built in, and how it is rendered; `turn` is where a turn ends
//! - `environment`: what templates expect of Jinja, as transformers provides it; `python_json` is its `tojson`
//! - `generation`: the `{% generation %}` markers, which minijinja does not have
//! - `record`: a record of a file as a conversation
//! - `learnt`: which part of the text is learnt
//! - `align`: which tokens that part is
//! - `source`: whether a configuration's files hold conversations, and by what template they are rendered
//!
//! # References
//! Hugging Face transformers, `utils/chat_template_utils.py`: the environment, its functions and the markers.

mod align;
mod built_in;
mod choice;
mod environment;
mod generation;
mod learnt;
mod python_json;
mod record;
mod source;
pub mod template;
mod turn;

pub use built_in::BuiltIn;
pub use choice::TemplateChoice;
pub use template::{ChatTemplate, Message};

pub(crate) use align::Aligner;
pub(crate) use record::{Conversation, Conversations, RecordFault};
pub(crate) use source::conversations;
