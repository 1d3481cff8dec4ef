//! Every key on a line of its own, for `--help`.

use crate::schema::Schema;
use crate::section::SectionInfo;
use crate::setting::Setting;

impl Schema {
    /// Every key with its default and what it is for, section by section, in lines of at most `width` characters.
    pub fn help(&self, width: usize) -> String {
        let sections: Vec<String> = self.0.iter().map(|section| of_section(section, width)).collect();
        sections.join("\n")
    }
}

fn of_section(section: &SectionInfo, width: usize) -> String {
    let settings = section.settings();
    let widest = |text: fn(&Setting) -> String| {
        settings.iter().map(|setting| text(setting).chars().count()).max().unwrap_or(0)
    };
    let (keys, defaults) = (widest(|setting| setting.key.to_owned()), widest(default));
    let column = 2 + keys + 2 + defaults + 2;
    let mut help = format!("[{}]  {}\n", section.name, plain(&section.doc.summary()));
    for setting in settings {
        let words = wrapped(&plain(&setting.doc.summary()), width.saturating_sub(column).max(1));
        help += &format!("  {:keys$}  {:defaults$}  ", setting.key, default(setting));
        help += &words.join(&format!("\n{:column$}", ""));
        help += "\n";
    }
    help
}

fn default(setting: &Setting) -> String {
    setting.default_text().unwrap_or_else(|| "-".to_owned())
}

/// A summary as help texts have it: no code marks, no period at the end.
fn plain(summary: &str) -> String {
    summary.replace('`', "").trim_end_matches('.').to_owned()
}

/// The lines of `text`, of at most `width` characters each where its words allow.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
