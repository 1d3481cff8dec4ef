//! The types that keys have.

use std::net::SocketAddr;
use std::path::PathBuf;

use toml::Table;

use crate::choice::{Choice, listed};

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number.
    Number,
    /// A whole number of at least 0.
    Whole,
    /// True or false.
    Truth,
    /// Text.
    Text,
    /// Texts.
    Texts,
    /// The path of a file or folder.
    Path,
    /// Paths of files.
    Paths,
    /// Whole numbers.
    Wholes,
    /// A section of keys.
    Section,
    /// Sections of keys.
    Sections,
    /// One of a fixed set of names.
    Choice(&'static [Choice]),
    /// Something else, in words that follow "expected".
    Other(&'static str),
}

impl Kind {
    /// What a message says was expected.
    pub fn expected(self) -> String {
        match self {
            Self::Number => "a number".to_owned(),
            Self::Whole => "a whole number of at least 0".to_owned(),
            Self::Truth => "true or false".to_owned(),
            Self::Text | Self::Path => "a text in quotes".to_owned(),
            Self::Texts => "a list of texts in quotes".to_owned(),
            Self::Paths => "a list of files".to_owned(),
            Self::Wholes => "a list of whole numbers".to_owned(),
            Self::Section => "a section of keys".to_owned(),
            Self::Sections => "a list of sections".to_owned(),
            Self::Choice(choices) => listed(choices),
            Self::Other(words) => words.to_owned(),
        }
    }

    /// Its name in the reference.
    pub fn name(self) -> String {
        match self {
            Self::Whole => "whole number".to_owned(),
            Self::Number => "number".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Texts => "list of texts".to_owned(),
            Self::Path => "path".to_owned(),
            Self::Paths => "list of paths".to_owned(),
            Self::Wholes => "list of whole numbers".to_owned(),
            Self::Choice(_) => "one of these names".to_owned(),
            other => other.expected(),
        }
    }
}

/// A type that a key has.
pub trait SettingType {
    /// What it takes in a configuration.
    const KIND: Kind;

    /// Whether there is no value, so that nothing is written.
    fn is_unset(&self) -> bool {
        false
    }

    /// The value as a number, for a range to be held against.
    fn number(&self) -> Option<f64> {
        None
    }

    /// The value as a message shows it.
    fn shown(&self) -> String {
        String::new()
    }

    /// The paths in it.
    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        Vec::new()
    }
}

macro_rules! numbers {
    ($($Type:ty: $kind:ident),*) => {
        $(impl SettingType for $Type {
            const KIND: Kind = Kind::$kind;

            fn number(&self) -> Option<f64> {
                Some(*self as f64)
            }

            fn shown(&self) -> String {
                self.to_string()
            }
        })*
    };
}

numbers!(f32: Number, f64: Number, u64: Whole, usize: Whole);

impl SettingType for bool {
    const KIND: Kind = Kind::Truth;
}

impl SettingType for String {
    const KIND: Kind = Kind::Text;

    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

impl SettingType for PathBuf {
    const KIND: Kind = Kind::Path;

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        vec![self]
    }
}

impl SettingType for Vec<PathBuf> {
    const KIND: Kind = Kind::Paths;

    fn is_unset(&self) -> bool {
        self.is_empty()
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        self.iter_mut().collect()
    }
}

impl SettingType for Vec<String> {
    const KIND: Kind = Kind::Texts;

    fn is_unset(&self) -> bool {
        self.is_empty()
    }
}

impl SettingType for Vec<u64> {
    const KIND: Kind = Kind::Wholes;
}

impl SettingType for SocketAddr {
    const KIND: Kind = Kind::Other("an IP address and a port, such as \"127.0.0.1:9184\"");
}

impl SettingType for Table {
    const KIND: Kind = Kind::Section;
}

impl SettingType for Vec<Table> {
    const KIND: Kind = Kind::Sections;
}

impl<T: SettingType> SettingType for Option<T> {
    const KIND: Kind = T::KIND;

    fn is_unset(&self) -> bool {
        self.is_none()
    }

    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(T::number)
    }

    fn shown(&self) -> String {
        self.as_ref().map_or_else(String::new, T::shown)
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        self.as_mut().map_or_else(Vec::new, T::paths_mut)
    }
}
