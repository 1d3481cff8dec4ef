//! Countries by the codes and names that people use for them: `data/regions.csv`.
//!
//! A country is found by its ISO 3166-1 alpha-2 or alpha-3 code, by its English name, or by a common other name
//! ("UK", "Deutschland"). Case, full stops, hyphens and a leading "the" make no difference.

use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;

static TABLE: &str = include_str!("../../data/regions.csv");

/// A country, or the whole world.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Region {
    /// ISO 3166-1 alpha-3 code, or "WORLD".
    pub iso3: String,
    /// ISO 3166-1 alpha-2 code; empty for the world.
    pub iso2: String,
    /// English name.
    pub name: String,
    /// Other names, separated by semicolons.
    aliases: String,
}

impl Region {
    /// Everything that it is known by, codes first, as [`find`] compares it.
    fn keys(&self) -> impl Iterator<Item = String> {
        let names = [self.iso3.as_str(), &self.iso2, &self.name].into_iter().chain(self.aliases.split(';'));
        names.map(key).filter(|key| !key.is_empty())
    }
}

/// The country that `text` names.
pub fn find(text: &str) -> Option<&'static Region> {
    let wanted = key(text);
    regions().iter().find(|region| region.keys().any(|key| key == wanted))
}

/// Every country, the world first.
pub fn regions() -> &'static [Region] {
    static REGIONS: OnceLock<Vec<Region>> = OnceLock::new();
    REGIONS.get_or_init(|| embedded(TABLE))
}

/// The rows of a CSV table that is part of the program.
pub(crate) fn embedded<T: DeserializeOwned>(table: &str) -> Vec<T> {
    csv::Reader::from_reader(table.as_bytes())
        .into_deserialize()
        .collect::<Result<_, _>>()
        .expect("the embedded table is tested")
}

/// How alike `text` and the most similar code or name of a country are, from 0 to 1.
pub(crate) fn likeness(text: &str, region: &Region) -> f64 {
    let wanted = key(text);
    let likeness = |key: String| strsim::normalized_damerau_levenshtein(&wanted, &key);
    region.keys().map(likeness).fold(0.0, f64::max)
}

/// A code or name without what people write differently.
fn key(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .filter(|c| !matches!(c, '.' | '\'' | '’'))
        .map(|c| if matches!(c, '-' | '_' | ',') { ' ' } else { c })
        .collect();
    let words: Vec<_> = plain.split_whitespace().collect();
    match words[..] {
        ["the", ref rest @ ..] if !rest.is_empty() => rest.join(" "),
        _ => words.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_country_is_found_by_whatever_people_call_it() {
        for (iso3, names) in [
            (
                "GBR",
                &["UK", "uk", "U.K.", "GB", "gbr", "United Kingdom", "the united kingdom", "Britain"][..],
            ),
            ("DEU", &["DE", "de", "deu", "Germany", "GERMANY", "Deutschland"]),
            ("FRA", &["FR", "fr", "France", " france "]),
            ("USA", &["US", "u.s.", "USA", "United States of America", "america"]),
            ("CZE", &["Czechia", "Czech Republic"]),
            ("KOR", &["South Korea", "south-korea", "Korea", "KR"]),
            ("NLD", &["Holland", "the Netherlands", "nl"]),
            ("CIV", &["Côte d'Ivoire", "Cote d’Ivoire", "Ivory Coast"]),
            ("WORLD", &["world", "WORLD", "global"]),
        ] {
            for name in names {
                assert_eq!(find(name).map(|region| region.iso3.as_str()), Some(iso3), "{name}");
            }
        }
        for nothing in ["", "the", "ZZ", "Atlantis"] {
            assert_eq!(find(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn no_code_or_name_means_two_countries() {
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        for region in regions() {
            for key in region.keys() {
                let owner = owners.entry(key.clone()).or_insert(&region.iso3);
                assert_eq!(*owner, region.iso3, "{key}");
            }
        }
        assert_eq!(regions()[0].iso3, "WORLD");
        assert!(regions()[1..].iter().all(|region| region.iso2.len() == 2 && region.iso3.len() == 3));
    }
}
