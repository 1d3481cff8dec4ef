//! Carbon intensity of electricity by country, from a table of yearly means.
//!
//! The table is `data/intensity.csv`: lifecycle emissions of a country's own generation, with source, year,
//! basis and licence in every row. Nothing is looked up on a network.
//!
//! # Emissions are not a price
//! The article that this project grew from takes power times time times a price and calls the result an emission. It
//! is a sum of money. Emissions are energy times what the grid emits for it, and where electricity is cheap it may
//! well be dirty. Both of the same kilowatt-hour, kept apart, for 300 W over two hours in a building that adds a
//! fifth:
//!
//! ```
//! use wattle_meter::CarbonConfig;
//! use wattle_meter::books::carbon::resolve;
//! use wattle_runlog::{Seconds, Watts};
//!
//! let energy = Watts(300.0) * Seconds(2.0 * 3600.0);
//! let facility = energy * 1.2;
//! assert!((facility.kwh() - 0.72).abs() < 1e-12);
//!
//! // The article's figure: 0.72 kWh at 0.30 a kilowatt-hour. Its unit is the currency's.
//! let cost = facility.kwh() * 0.30;
//! assert!((cost - 0.216).abs() < 1e-12);
//!
//! // An emission: the same energy in two countries. The price says nothing of the factor between them.
//! let of = |region: &str| {
//!     let carbon = resolve(&CarbonConfig { region: Some(region.to_owned()), ..CarbonConfig::default() })?;
//!     Ok::<_, wattle_meter::MeterError>(carbon.intensity_g_per_kwh * facility)
//! };
//! let (france, poland) = (of("FRA")?, of("POL")?);
//! assert!(poland.get() > 5.0 * france.get(), "{france:?} {poland:?}");
//! # Ok::<(), wattle_meter::MeterError>(())
//! ```

use std::sync::OnceLock;

use serde::Deserialize;
use wattle_runlog::GramsPerKwh;
use wattle_runlog::record::Carbon;

use crate::books::region::{self, Region};
use crate::config::CarbonConfig;
use crate::error::MeterError;

/// The region of a figure that the user gave.
pub const CUSTOM: &str = "custom";

/// The region that stands for all countries together.
pub const WORLD: &str = "WORLD";

static TABLE: &str = include_str!("../../data/intensity.csv");

/// One country of the table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Country {
    /// ISO 3166-1 alpha-3 code, or "WORLD".
    pub iso3: String,
    /// English name.
    #[serde(rename = "country")]
    pub name: String,
    /// Yearly mean.
    #[serde(rename = "g_co2e_per_kwh")]
    pub intensity_g_per_kwh: GramsPerKwh,
    /// Of which year.
    pub year: u16,
    /// What is counted.
    pub basis: String,
    /// Who published it.
    pub source: String,
    /// On which terms.
    pub licence: String,
}

/// The intensity that a configuration asks for: the user's own number, a country's, or the world's.
///
/// # Errors
/// If there is no such country, naming those with similar names, or if the table has no figure for it.
pub fn resolve(config: &CarbonConfig) -> Result<Carbon, MeterError> {
    if let Some(grams) = config.intensity_g_per_kwh {
        return Ok(Carbon {
            intensity_g_per_kwh: GramsPerKwh(grams),
            region: CUSTOM.to_owned(),
            source: "carbon.intensity_g_per_kwh".to_owned(),
            year: None,
            basis: "as given".to_owned(),
            table_fraction: None,
            grid: None,
        });
    }
    let region = config.region.as_deref().unwrap_or(WORLD);
    let country = find(region).ok_or_else(|| unknown(region))?;
    Ok(Carbon {
        intensity_g_per_kwh: country.intensity_g_per_kwh,
        region: country.iso3.clone(),
        source: country.source.clone(),
        year: Some(country.year),
        basis: country.basis.clone(),
        table_fraction: None,
        grid: None,
    })
}

/// A country by any code or name that [`crate::books::region`] knows; `None` also where the table has no figure for it.
pub fn find(region: &str) -> Option<&'static Country> {
    let region = region::find(region)?;
    countries().iter().find(|country| country.iso3 == region.iso3)
}

/// Every row of the table, the world's first.
pub fn countries() -> &'static [Country] {
    static COUNTRIES: OnceLock<Vec<Country>> = OnceLock::new();
    COUNTRIES.get_or_init(|| region::embedded(TABLE))
}

/// Why there is no intensity for `region`.
fn unknown(region: &str) -> MeterError {
    let got = region.to_owned();
    match region::find(region) {
        Some(region) => MeterError::NoIntensity { got, name: region.name.clone() },
        None => MeterError::UnknownRegion { got, nearest: nearest(region) },
    }
}

/// The three countries of the table with the names nearest to what was written, as the end of a sentence.
fn nearest(text: &str) -> String {
    let has_figure = |region: &&Region| countries().iter().any(|country| country.iso3 == region.iso3);
    let mut ranked: Vec<_> = region::regions().iter().filter(has_figure).collect();
    ranked.sort_by(|a, b| region::likeness(text, b).total_cmp(&region::likeness(text, a)));
    let names: Vec<_> = ranked.iter().take(3).map(|r| format!("{} ({})", r.name, r.iso3)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> CarbonConfig {
        CarbonConfig { region: Some(name.to_owned()), ..CarbonConfig::default() }
    }

    #[test]
    fn every_row_says_where_it_comes_from() {
        assert!(countries().len() > 200);
        assert_eq!(countries()[0].iso3, WORLD);
        for country in countries() {
            assert!(country.intensity_g_per_kwh.get() > 0.0, "{country:?}");
            assert!((2000..2100).contains(&country.year), "{country:?}");
            for text in [&country.basis, &country.source, &country.licence] {
                assert!(!text.is_empty(), "{country:?}");
            }
            assert!(country.iso3 == WORLD || country.iso3.len() == 3, "{country:?}");
        }
    }

    #[test]
    fn a_country_is_found_by_code_and_name_in_any_case() {
        for name in ["SWE", "swe", "Sweden", "SWEDEN", " sweden "] {
            let carbon = resolve(&region(name)).unwrap();
            assert_eq!(carbon.region, "SWE");
            assert_eq!(carbon.intensity_g_per_kwh, GramsPerKwh(40.695));
            assert_eq!(carbon.year, Some(2023));
            assert_eq!(carbon.basis, "lifecycle");
        }
        assert_eq!(resolve(&CarbonConfig::default()).unwrap().region, WORLD);
    }

    #[test]
    fn a_country_has_its_figure_under_every_name() {
        for name in ["UK", "uk", "GB", "GBR", "United Kingdom", "Britain"] {
            assert_eq!(resolve(&region(name)).unwrap().region, "GBR", "{name}");
        }
        for (name, iso3) in [("DE", "DEU"), ("de", "DEU"), ("Germany", "DEU"), ("FR", "FRA"), ("us", "USA")] {
            assert_eq!(resolve(&region(name)).unwrap().region, iso3, "{name}");
        }
        for country in countries() {
            assert_eq!(find(&country.name), Some(country));
            assert_eq!(find(&country.iso3), Some(country));
        }
    }

    #[test]
    fn a_country_without_a_figure_is_named_with_what_to_do() {
        let error = resolve(&region("li")).unwrap_err().to_string();
        assert!(error.contains("Liechtenstein") && error.contains("carbon.intensity_g_per_kwh"), "{error}");
    }

    #[test]
    fn your_own_number_comes_first_and_says_so() {
        let config = CarbonConfig { intensity_g_per_kwh: Some(25.0), ..region("SWE") };
        let carbon = resolve(&config).unwrap();
        assert_eq!((carbon.intensity_g_per_kwh, carbon.region.as_str()), (GramsPerKwh(25.0), CUSTOM));
        assert_eq!(carbon.year, None);
    }

    #[test]
    fn an_unknown_region_names_its_neighbours() {
        let error = resolve(&region("Swedne")).unwrap_err().to_string();
        assert!(error.starts_with("carbon.region = \"Swedne\"") && error.contains("Sweden (SWE)"), "{error}");
        for (wrong, right) in
            [("Germny", "DEU"), ("Untied Kingdom", "GBR"), ("Deutshland", "DEU"), ("UKK", "GBR")]
        {
            let error = resolve(&region(wrong)).unwrap_err().to_string();
            assert!(error.contains(right), "{error}");
        }
    }
}
