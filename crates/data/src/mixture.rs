//! Several sources, mixed: what `data.mixture` says, and the shares that its sources have.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wattle_settings::{Kind, SettingType};

/// Most digits behind the point of a weight.
const MAX_DECIMALS: usize = 9;

/// Largest weight.
const MAX_WEIGHT: f64 = 1e6;

/// One source of a mixture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureSource {
    /// What it is called where its loss is told.
    pub name: String,
    /// Files, patterns and folders, as in `data.input`: one, or a list.
    #[serde(with = "one_or_several")]
    pub path: Vec<PathBuf>,
    /// Its part of the tokens, beside those of the others; with weights, the sources need not be passed through evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Without weights: how often it is passed through in an epoch, 1 unless stated. With weights: how often it may be
    /// passed through in the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Field or column with the text, instead of `data.text_field`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
}

/// The sources of a mixture, in order; none where data are not mixed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mixture(pub Vec<MixtureSource>);

impl SettingType for Mixture {
    const KIND: Kind = Kind::Sections;

    fn is_unset(&self) -> bool {
        self.0.is_empty()
    }

    fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        self.0.iter_mut().flat_map(|source| &mut source.path).collect()
    }
}

mod one_or_several {
    use super::{Deserialize, PathBuf, Serialize};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrSeveral {
        One(PathBuf),
        Several(Vec<PathBuf>),
    }

    pub(super) fn serialize<S: serde::Serializer>(
        paths: &[PathBuf],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match paths {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<PathBuf>, D::Error> {
        Ok(match OneOrSeveral::deserialize(deserializer)? {
            OneOrSeveral::One(path) => vec![path],
            OneOrSeveral::Several(paths) => paths,
        })
    }
}

impl Mixture {
    /// Whether data are not mixed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is wrong with what is said of the sources, without looking at their files.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        for (i, source) in self.0.iter().enumerate() {
            let MixtureSource { name, path, weight, epochs, text_field } = source;
            let told = |what: &str| format!("data.mixture[{i}] ({name:?}): {what}");
            if name.is_empty() || !names.insert(name) {
                faults.push(told("expected a name of its own"));
            }
            if path.is_empty() {
                faults.push(told("path is empty: expected a file, a pattern or a folder, or several"));
            }
            if weight.is_some_and(|weight| decimals(weight).is_none()) {
                faults.push(told(&format!(
                    "weight = {}: expected a number above 0 and up to {MAX_WEIGHT}, with at most {MAX_DECIMALS} digits \
                     behind the point",
                    weight.unwrap_or_default()
                )));
            }
            if epochs.is_some_and(|epochs| !(epochs > 0.0 && epochs <= MAX_WEIGHT)) {
                faults.push(told(&format!(
                    "epochs = {}: expected a number above 0 and up to {MAX_WEIGHT}",
                    epochs.unwrap_or_default()
                )));
            }
            if text_field.as_ref().is_some_and(String::is_empty) {
                faults.push(told("text_field is empty: expected the name of a field"));
            }
        }
        let n_weights = self.0.iter().filter(|source| source.weight.is_some()).count();
        if n_weights > 0 && n_weights < self.0.len() {
            let without: Vec<&str> =
                self.0.iter().filter(|source| source.weight.is_none()).map(|source| &*source.name).collect();
            faults.push(format!(
                "data.mixture: {} has no weight and others have: give all sources one, or none",
                without.join(", ")
            ));
        }
        faults
    }
}

/// A decimal number as a whole number of 10⁻ᵏ, and k; `None` unless it is above 0 and within bounds.
fn decimals(number: f64) -> Option<(u64, usize)> {
    if !(number > 0.0 && number <= MAX_WEIGHT) {
        return None;
    }
    let text = number.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let n_digits = fraction.len();
    (n_digits <= MAX_DECIMALS)
        .then(|| format!("{whole}{fraction}").parse().ok())
        .flatten()
        .map(|n| (n, n_digits))
}

/// The shares of a mixture's sources, as whole numbers in their proportion: of weights, exactly as they are written
/// down; without weights, windows in an epoch. `windows` is each source's number.
pub(crate) fn shares(weights: &[Option<f64>], epochs: &[Option<f64>], windows: &[u64]) -> Vec<u64> {
    let written: Option<Vec<(u64, usize)>> = weights.iter().map(|weight| decimals((*weight)?)).collect();
    let shares: Vec<u64> = match written {
        Some(written) => {
            let most = written.iter().map(|(_, n_digits)| *n_digits).max().unwrap_or(0);
            written.iter().map(|(n, n_digits)| n * 10u64.pow((most - n_digits) as u32)).collect()
        }
        None => windows_in_epoch(epochs, windows),
    };
    let divisor = shares.iter().copied().fold(0, gcd).max(1);
    shares.iter().map(|share| share / divisor).collect()
}

/// Windows of each source in an epoch of a mixture without weights; at least one.
pub(crate) fn windows_in_epoch(epochs: &[Option<f64>], windows: &[u64]) -> Vec<u64> {
    let sources = epochs.iter().zip(windows);
    sources
        .map(|(epochs, windows)| ((epochs.unwrap_or(1.0) * *windows as f64).round() as u64).max(1))
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_taken_as_they_are_written() {
        let of = |weights: &[f64]| {
            let weights: Vec<Option<f64>> = weights.iter().copied().map(Some).collect();
            shares(&weights, &vec![None; weights.len()], &vec![5; weights.len()])
        };
        assert_eq!(of(&[0.7, 0.3]), [7, 3]);
        assert_eq!(of(&[70.0, 30.0]), [7, 3]);
        assert_eq!(of(&[0.1, 0.2, 1.25]), [2, 4, 25]);
        assert_eq!(of(&[1e-9, 1.0]), [1, 1_000_000_000]);
        assert_eq!(shares(&[None, None], &[None, Some(2.5)], &[100, 10]), [4, 1]);
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-10, 2e6] {
            assert_eq!(decimals(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn one_path_or_several_come_back() {
        let toml = "[[mixture]]\nname = \"a\"\npath = \"a.txt\"\nweight = 1\n\n[[mixture]]\nname = \"b\"\n\
                    path = [\"b/*.txt\", \"c\"]\nweight = 0.5\nepochs = 2\n";
        let mut table: toml::Table = toml.parse().unwrap();
        let mixture: Mixture = table.remove("mixture").unwrap().try_into().unwrap();
        assert_eq!(mixture.0[1].path, [PathBuf::from("b/*.txt"), "c".into()]);
        assert_eq!(toml::Value::try_from(&mixture).unwrap().try_into::<Mixture>().unwrap(), mixture);
        assert_eq!(mixture.faults(), [""; 0]);
    }

    #[test]
    fn every_fault_names_the_source() {
        let source = |name: &str, weight, epochs| MixtureSource {
            name: name.to_owned(),
            path: vec!["x".into()],
            weight,
            epochs,
            text_field: None,
        };
        let mixture = Mixture(vec![
            source("a", Some(-1.0), None),
            source("a", None, Some(0.0)),
            MixtureSource { path: vec![], text_field: Some(String::new()), ..source("", Some(1.0), None) },
        ]);
        let faults = mixture.faults();
        for (fault, part) in faults.iter().zip([
            "weight = -1",
            "name of its own",
            "epochs = 0",
            "name of its",
            "path",
            "text_field",
        ]) {
            assert!(fault.contains(part) && fault.starts_with("data.mixture["), "{fault}");
        }
        assert!(faults[6].contains("a has no weight"), "{faults:?}");
    }
}
