//! The one rule for what energy costs: the building's energy, its emissions, and its price.
//!
//! facility energy = energy × PUE; emissions = facility energy × intensity; cost = facility energy × tariff. The
//! intensity is the grid's at the moment of each joule's use, where that is asked for; where it is not known, a
//! table's of that moment; and one mean for what neither covers. Records, running figures and repriced runs are all
//! priced here.

use wattle_runlog::beside::Machine;
use wattle_runlog::grid::{GridEnergy, GridOrigin, Intensities};
use wattle_runlog::manifest::{SegmentPrices, SegmentTariff};
use wattle_runlog::record::Cost;
use wattle_runlog::{GramsCo2e, GramsPerKwh, Joules, MonotonicNs, WallAnchor};

use crate::books::carbon;
use crate::books::intensity_table::IntensityTable;
use crate::config::{CarbonConfig, CostConfig};
use crate::error::MeterError;

/// The price of energy.
#[derive(Clone, Debug, PartialEq)]
pub struct Tariff {
    /// Price of a kilowatt-hour.
    pub per_kwh: f64,
    /// ISO 4217 code.
    pub currency: String,
}

/// How the energy of one segment is priced.
#[derive(Clone, Debug)]
pub struct Pricing {
    /// `energy.pue`
    pub pue: f64,
    /// What the grid said of the segment's moments.
    pub grid: Option<Intensities>,
    /// The intensity where there is no table, or none of its rows fits.
    pub intensity: GramsPerKwh,
    /// `carbon.table`
    pub table: Option<IntensityTable>,
    /// The price of energy.
    pub tariff: Option<Tariff>,
    /// The segment's clock.
    pub anchor: WallAnchor,
}

/// What emissions are reckoned by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates<'a> {
    pub(crate) pue: f64,
    pub(crate) intensity: GramsPerKwh,
    pub(crate) table: Option<&'a IntensityTable>,
    pub(crate) grid: Option<&'a Intensities>,
}

/// The emissions of a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Emissions {
    /// All of them, the building's part included.
    pub(crate) grams: GramsCo2e,
    /// By the table, without the building's part.
    pub(crate) by_table: GramsCo2e,
    /// Energy that the grid's figures priced.
    pub(crate) by_grid: GridEnergy,
    /// Energy that the table priced.
    pub(crate) tabled: Joules,
    /// Energy that the mean intensity priced because the table does not cover it; zero without a table.
    pub(crate) uncovered: Joules,
    /// The first stretch of time that the table does not cover, wall clock in nanoseconds.
    pub(crate) hole: Option<(i64, i64)>,
}

impl Tariff {
    /// The tariff of a configuration; `None` if it has no price.
    pub fn from_config(config: &CostConfig) -> Option<Self> {
        config.price_per_kwh.map(|per_kwh| Self { per_kwh, currency: config.currency.clone() })
    }

    /// The tariff of a record's cost.
    pub fn of(cost: &Cost) -> Self {
        Self { per_kwh: cost.tariff_per_kwh, currency: cost.currency.clone() }
    }

    /// What the building's energy costs.
    pub(crate) fn cost(&self, facility_kwh: f64) -> Cost {
        Cost {
            value: facility_kwh * self.per_kwh,
            currency: self.currency.clone(),
            tariff_per_kwh: self.per_kwh,
            energy_fraction: None,
        }
    }
}

/// The prices of a segment, as its manifest and its trace state them.
///
/// # Errors
/// If there is no carbon intensity for the region.
pub fn segment_prices(
    pue: f64,
    carbon: &CarbonConfig,
    cost: &CostConfig,
    grid: Option<&GridOrigin>,
) -> Result<SegmentPrices, MeterError> {
    let tariff = Tariff::from_config(cost);
    Ok(SegmentPrices {
        pue,
        carbon: carbon::resolve(carbon)?,
        carbon_table: carbon.table.as_ref().map(|path| path.to_string_lossy().into_owned()),
        grid: grid.cloned(),
        tariff: tariff.map(|Tariff { per_kwh, currency }| SegmentTariff { per_kwh, currency }),
        machine: Machine::default(),
    })
}

impl Pricing {
    pub(crate) fn rates(&self) -> Rates<'_> {
        Rates {
            pue: self.pue,
            intensity: self.intensity,
            table: self.table.as_ref(),
            grid: self.grid.as_ref(),
        }
    }
}

/// What the building draws where the machine draws `energy`.
pub(crate) fn facility(energy: Joules, pue: f64) -> Joules {
    energy * pue
}

/// The same in kilowatt-hours. Records have always converted before they multiply, which differs from
/// [`facility`] in the last bit; they stay comparable to the bit.
pub(crate) fn facility_kwh(energy: Joules, pue: f64) -> f64 {
    energy.kwh() * pue
}

impl Rates<'_> {
    /// Emissions of `energy` by the mean intensity.
    pub(crate) fn at_mean(&self, energy: Joules) -> GramsCo2e {
        self.intensity * facility(energy, self.pue)
    }

    /// Emissions of the `energy` that was used from `start` to `end` on the clock of `anchor`; `between` says how
    /// much of it was used from one moment to another.
    pub(crate) fn emissions(
        &self,
        anchor: WallAnchor,
        (start, end): (MonotonicNs, MonotonicNs),
        energy: Joules,
        between: &dyn Fn(MonotonicNs, MonotonicNs) -> Joules,
    ) -> Emissions {
        if let Some(grid) = self.grid {
            return self.by_grid(grid, anchor, (start, end), between);
        }
        let Some(table) = self.table else {
            return Emissions { grams: self.at_mean(energy), ..Emissions::default() };
        };
        let between = |from: i64, to: i64| between(anchor.monotonic_at(from), anchor.monotonic_at(to));
        let priced = table.price(anchor.wall_ns_at(start), anchor.wall_ns_at(end), between);
        let rest = energy - priced.covered;
        // Without a hole, what is left over is rounding.
        let uncovered = if priced.hole.is_some() && rest > Joules::ZERO { rest } else { Joules::ZERO };
        Emissions {
            grams: priced.grams * self.pue + self.at_mean(uncovered),
            by_table: priced.grams,
            by_grid: GridEnergy::default(),
            tabled: priced.covered,
            uncovered,
            hole: priced.hole,
        }
    }

    /// [`Rates::emissions`] by the grid's figures, and by the other prices where the grid has no figure.
    fn by_grid(
        &self,
        grid: &Intensities,
        anchor: WallAnchor,
        (start, end): (MonotonicNs, MonotonicNs),
        between: &dyn Fn(MonotonicNs, MonotonicNs) -> Joules,
    ) -> Emissions {
        let others = Rates { grid: None, ..*self };
        let mut all = Emissions::default();
        for piece in grid.pieces(start, end) {
            let energy = between(piece.from, piece.to);
            let Some((intensity, by)) = piece.known else {
                let part = others.emissions(anchor, (piece.from, piece.to), energy, between);
                all.grams += part.grams;
                all.by_table += part.by_table;
                all.tabled += part.tabled;
                all.uncovered += part.uncovered;
                all.hole = all.hole.or(part.hole);
                continue;
            };
            all.grams += intensity * facility(energy, self.pue);
            *all.by_grid.get_mut(by) += energy;
        }
        all
    }
}
