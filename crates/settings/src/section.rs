//! Sections, and the macro that declares one.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::doc::Doc;
use crate::setting::{AtResume, Setting};

/// A section of a configuration, declared with [`section!`](crate::section).
pub trait Section: Default + Serialize + DeserializeOwned + 'static {
    /// Its name.
    const NAME: &'static str;
    /// Whether its keys may change at a resume, unless they say otherwise.
    const AT_RESUME: AtResume = AtResume::Fixed;
    /// What it is for.
    const DOC: Doc;

    /// Its keys, in order.
    fn settings() -> &'static [Setting];

    /// Everything that is wrong with it, each a sentence that starts with the key.
    fn faults(&self) -> Vec<String>;

    /// What is wrong with those of its keys that `is_wanted` accepts.
    fn faults_of(&self, is_wanted: &dyn Fn(&str) -> bool) -> Vec<String>;

    /// Its paths, each with its key as `section.key`.
    fn paths_mut(&mut self) -> Vec<(&'static str, &mut PathBuf)>;
}

/// A section without its type.
#[derive(Clone, Copy, Debug)]
pub struct SectionInfo {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub doc: Doc,
    settings: fn() -> &'static [Setting],
    pub(crate) fits: fn(&str, &Value) -> Result<(), String>,
}

impl SectionInfo {
    /// The section that `S` declares.
    pub const fn of<S: Section>() -> Self {
        Self { name: S::NAME, doc: S::DOC, settings: S::settings, fits: fits::<S> }
    }

    /// Its keys, in order.
    pub fn settings(&self) -> &'static [Setting] {
        (self.settings)()
    }

    /// The key of this name.
    pub fn setting(&self, key: &str) -> Option<&'static Setting> {
        self.settings().iter().find(|setting| setting.key == key)
    }
}

/// Whether `value` can stand for `key` of `S`; the reason if not.
fn fits<S: DeserializeOwned>(key: &str, value: &Value) -> Result<(), String> {
    let table = Table::from_iter([(key.to_owned(), value.clone())]);
    table.try_into::<S>().map(drop).map_err(|error| error.message().to_owned())
}

/// Declares a section of a configuration: a struct with serde's traits, `Default`, `faults()` and [`Section`].
///
/// ```text
/// section! {
///     /// What the section is for.
///     #[section(NAME, at_resume = Free, check = function)]
///     pub struct TypeName {
///         /// What the key is for, in one line.
///         ///
///         /// More, for the reference.
///         pub key: Type = default, rule(argument), rule(argument);
///     }
///     beside {
///         /// A field that is no key.
///         pub field: Type = default;
///     }
/// }
/// ```
///
/// Rules are the methods of [`Rules`](crate::Rules); in their arguments, everything in [`rules`](crate::rules) is in
/// scope. `at_resume = Free` lets every key change at a resume. `check` is a function from the section to more
/// faults, added after those of the keys. A key without a value (`None`, an empty list) is not written.
///
/// The crate that uses it needs `serde`.
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        #[section($name:ident $(, at_resume = $at_resume:ident)? $(, check = $check:path)?)]
        $vis:vis struct $Config:ident {
            $(
                $(#[doc = $doc:literal])*
                $key_vis:vis $key:ident: $Type:ty = $default:expr $(, $rule:ident($($argument:tt)*))*;
            )*
        }
        $(beside {
            $(
                $(#[doc = $field_doc:literal])*
                $field_vis:vis $field:ident: $FieldType:ty = $field_default:expr;
            )*
        })?
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Clone, Debug, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        $vis struct $Config {
            $(
                $(#[doc = $doc])*
                #[serde(skip_serializing_if = "::wattle_settings::SettingType::is_unset")]
                $key_vis $key: $Type,
            )*
            $($(
                $(#[doc = $field_doc])*
                #[serde(skip)]
                $field_vis $field: $FieldType,
            )*)?
        }

        impl ::std::default::Default for $Config {
            fn default() -> Self {
                Self {
                    $($key: $default,)*
                    $($($field: $field_default,)*)?
                }
            }
        }

        impl $Config {
            /// Everything that is wrong with it, each a sentence that starts with the key.
            $vis fn faults(&self) -> ::std::vec::Vec<::std::string::String> {
                $crate::Section::faults(self)
            }
        }

        impl $crate::Section for $Config {
            const NAME: &'static str = stringify!($name);
            $(const AT_RESUME: $crate::AtResume = $crate::AtResume::$at_resume;)?
            const DOC: $crate::Doc = $crate::Doc::new(&[$($section_doc),*]);

            fn settings() -> &'static [$crate::Setting] {
                #[allow(unused_imports)]
                use $crate::rules::*;
                static SETTINGS: ::std::sync::OnceLock<::std::vec::Vec<$crate::Setting>> =
                    ::std::sync::OnceLock::new();
                SETTINGS.get_or_init(|| {
                    let default = Self::default();
                    vec![$(
                        $crate::Setting::new(
                            stringify!($key),
                            $crate::Doc::new(&[$($doc),*]),
                            &default.$key,
                            $crate::Rules::<Self, $Type>::new()$(.$rule($($argument)*))*,
                        ),
                    )*]
                })
            }

            fn faults(&self) -> ::std::vec::Vec<::std::string::String> {
                #[allow(unused_mut)]
                let mut faults = $crate::Section::faults_of(self, &|_| true);
                $(faults.extend($check(self));)?
                faults
            }

            fn faults_of(&self, is_wanted: &dyn Fn(&str) -> bool) -> ::std::vec::Vec<::std::string::String> {
                #[allow(unused_imports)]
                use $crate::rules::*;
                let mut faults = ::std::vec::Vec::new();
                $(
                    if is_wanted(stringify!($key)) {
                        $crate::Rules::<Self, $Type>::new()$(.$rule($($argument)*))*.faults(
                            self,
                            &self.$key,
                            concat!(stringify!($name), ".", stringify!($key)),
                            &mut faults,
                        );
                    }
                )*
                faults
            }

            fn paths_mut(&mut self) -> ::std::vec::Vec<(&'static str, &mut ::std::path::PathBuf)> {
                let mut paths = ::std::vec::Vec::new();
                $(
                    let path = concat!(stringify!($name), ".", stringify!($key));
                    paths.extend($crate::SettingType::paths_mut(&mut self.$key).into_iter().map(|p| (path, p)));
                )*
                paths
            }
        }
    };
}
