//! A configuration file with every key, to be edited.

use toml::{Table, Value};

use crate::choice::Choice;
use crate::help::wrapped;
use crate::kind::Kind;
use crate::schema::Schema;
use crate::section::SectionInfo;
use crate::setting::Setting;

impl Schema {
    /// TOML with every key and what it is for, in lines of at most `width` characters where words allow. Keys that have a
    /// value in `values` have it; the others are comments that show their default.
    pub fn template(&self, values: &Table, width: usize) -> String {
        let sections = self.0.iter().map(|section| {
            let values = values.get(section.name).and_then(Value::as_table);
            of_section(section, values, width)
        });
        sections.collect::<Vec<_>>().join("\n")
    }
}

fn of_section(section: &SectionInfo, values: Option<&Table>, width: usize) -> String {
    let mut text = comment(&section.doc.summary(), width);
    text += &format!("[{}]\n", section.name);
    for setting in section.settings() {
        text += "\n";
        text += &comment(&described(setting), width);
        text += &match (values.and_then(|values| values.get(setting.key)), setting.default_text()) {
            (Some(value), _) => format!("{} = {value}\n", setting.key),
            (None, Some(default)) => format!("#{} = {default}\n", setting.key),
            (None, None) => format!("#{} = <{}>\n", setting.key, setting.kind.name()),
        };
    }
    text
}

/// What a key is for, what it takes, and what applies without it.
fn described(setting: &Setting) -> String {
    let mut parts = vec![setting.doc.summary()];
    if let Kind::Choice(choices) = setting.kind {
        parts.push(format!("One of {}.", choices.iter().map(quoted).collect::<Vec<_>>().join(", ")));
    }
    parts.extend(setting.unit.map(|unit| format!("In {unit}.")));
    parts.extend(
        (!setting.expected.is_empty()).then(|| format!("Expected: {}.", setting.expected.join("; "))),
    );
    parts.extend(match (&setting.default, setting.unset) {
        (None, Some(unset)) => Some(format!("Not set: {unset}.")),
        _ => None,
    });
    parts.extend(setting.source.map(|source| format!("From {source}.")));
    parts.join(" ")
}

fn quoted(choice: &Choice) -> String {
    format!("{:?}", choice.name)
}

fn comment(text: &str, width: usize) -> String {
    wrapped(text, width - "# ".len()).iter().map(|line| format!("# {line}\n")).collect()
}
