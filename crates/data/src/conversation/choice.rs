//! What `data.chat_template` names.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wattle_settings::{Kind, SettingType};

use super::built_in::BuiltIn;

/// A chat template by name or by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateChoice {
    /// One that comes with the program.
    BuiltIn(BuiltIn),
    /// A template, a `tokenizer_config.json`, or a directory with either.
    Path(PathBuf),
}

impl FromStr for TemplateChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(BuiltIn::by_name(text).map_or_else(|| Self::Path(text.into()), Self::BuiltIn))
    }
}

impl std::fmt::Display for TemplateChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn(template) => f.write_str(template.name()),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl Serialize for TemplateChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TemplateChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.parse().unwrap_or_else(|never: Infallible| match never {}))
    }
}

impl SettingType for TemplateChoice {
    const KIND: Kind = Kind::Other("\"chatml\", \"plain\" or the path of a template");

    fn shown(&self) -> String {
        format!("\"{self}\"")
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::BuiltIn(_) => Vec::new(),
            Self::Path(path) => vec![path],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_all_else_are_paths() {
        for (text, paths) in [("chatml", 0), ("plain", 0), ("./chatml", 1), ("llama/chat_template.jinja", 1)]
        {
            let mut choice: TemplateChoice = text.parse().unwrap();
            assert_eq!(choice.to_string(), text);
            assert_eq!(choice.paths_mut().len(), paths, "{text}");
            let written = toml::Value::try_from(&choice).unwrap();
            assert_eq!(written.try_into::<TemplateChoice>().unwrap(), choice);
        }
    }
}
