//! What a shell offers after TAB, beside names of commands and flags: keys of the configuration, and runs.

use std::ffi::OsStr;
use std::path::Path;

use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use wattle_report::join::nearest::runs_in;

/// Keys of the configuration as `section.key=`, and after the `=` the names that a key takes.
#[cfg(feature = "train")]
pub fn settings(current: &OsStr) -> Vec<CompletionCandidate> {
    use wattle_session::config::SCHEMA;
    use wattle_settings::Kind;

    let Some(current) = current.to_str() else { return Vec::new() };
    if let Some((path, value)) = current.split_once('=') {
        let kind = SCHEMA.setting(path).map(|setting| setting.kind);
        let names: Vec<&str> = match kind {
            Some(Kind::Choice(choices)) => choices.iter().map(|choice| choice.name).collect(),
            Some(Kind::Truth) => vec!["true", "false"],
            _ => Vec::new(),
        };
        let names = names.into_iter().filter(|name| name.starts_with(value));
        return names.map(|name| CompletionCandidate::new(format!("{path}={name}"))).collect();
    }
    let settings = SCHEMA.settings().filter(|setting| setting.path().starts_with(current));
    let candidate = |setting: &wattle_settings::Setting| {
        let help = setting.doc.summary().replace('`', "");
        CompletionCandidate::new(format!("{}=", setting.path())).help(Some(help.into()))
    };
    settings.map(candidate).collect()
}

/// Runs in `runs/`, and paths.
pub fn runs(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy();
    let known = runs_in(Path::new("runs")).into_iter().filter(|run| run.starts_with(&*typed));
    let mut candidates: Vec<CompletionCandidate> = known.map(CompletionCandidate::new).collect();
    if candidates.is_empty() {
        candidates = PathCompleter::any().complete(current);
    }
    candidates
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;

    fn offered(typed: &str) -> Vec<String> {
        let candidates = settings(OsStr::new(typed));
        candidates.iter().map(|candidate| candidate.get_value().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn keys_are_offered_and_then_the_names_that_they_take() {
        assert!(offered("model.n_l").contains(&"model.n_layers=".to_owned()));
        assert!(offered("model.family=q").contains(&"model.family=qwen3".to_owned()));
        assert_eq!(offered("train.max_steps="), [""; 0]);
        assert_eq!(offered("nothing"), [""; 0]);
        assert!(offered("").len() > 100);
    }
}
