//! The reference of all keys, in Markdown.

use crate::at_resume::AtResume;
use crate::choice::Choice;
use crate::kind::Kind;
use crate::schema::Schema;
use crate::section::SectionInfo;
use crate::setting::Setting;

impl Schema {
    /// Every key with all that its definition says, section by section.
    pub fn reference(&self) -> String {
        self.0.iter().map(of_section).collect::<Vec<_>>().join("\n")
    }
}

fn of_section(section: &SectionInfo) -> String {
    let mut text = format!("## `[{}]`\n\n{}\n", section.name, section.doc.summary());
    for paragraph in section.doc.details() {
        text += &format!("\n{paragraph}\n");
    }
    for setting in section.settings() {
        text += &of_setting(setting);
    }
    text
}

fn of_setting(setting: &Setting) -> String {
    let mut text = format!("\n### `{}`\n\n{}\n", setting.path(), setting.doc.summary());
    for paragraph in setting.doc.details() {
        text += &format!("\n{paragraph}\n");
    }
    text += "\n";
    let mut fact = |name: &str, what: Option<String>| {
        if let Some(what) = what {
            text += &format!("- {name}:{what}\n");
        }
    };
    match setting.kind {
        Kind::Choice(choices) => fact("Values", Some(choices.iter().map(of_choice).collect())),
        kind => fact("Type", Some(format!(" {}", kind.name()))),
    }
    fact("Unit", setting.unit.map(|unit| format!(" {unit}")));
    fact("Default", Some(format!(" {}", default(setting))));
    fact("Expected", (!setting.expected.is_empty()).then(|| format!(" {}", setting.expected.join("; "))));
    fact("Needs", setting.needs.map(|(key, _)| format!(" `{key}`")));
    let idle: Vec<String> = setting.idle.iter().map(|condition| condition.described()).collect();
    fact("No effect", (!idle.is_empty()).then(|| format!(" {}", idle.join("; "))));
    fact("May change at a resume", Some(format!(" {}", may_change(setting))));
    text
}

fn of_choice(choice: &Choice) -> String {
    format!("\n  - `{:?}`: {}", choice.name, choice.doc.summary())
}

fn default(setting: &Setting) -> String {
    let value = match (setting.default_text(), setting.unset) {
        (Some(default), _) => format!("`{default}`"),
        (None, Some(unset)) => format!("not set: {unset}"),
        (None, None) => "not set".to_owned(),
    };
    match setting.source {
        Some(source) => format!("{value} ({source})"),
        None => value,
    }
}

fn may_change(setting: &Setting) -> &'static str {
    match setting.at_resume {
        AtResume::Free => "yes",
        AtResume::Fixed => "no",
    }
}
