//! What the grid emitted while a run went on, as it was learnt: `grid.jsonl`, one interval a line.
//!
//! Intervals lie on the segment's monotonic clock. A provider states them in wall time; whoever asks maps them at the
//! moment of the answer, so a wall clock that is set meanwhile moves none of them.

use serde::{Deserialize, Serialize};

use crate::clock::MonotonicNs;
use crate::units::{GramsPerKwh, Joules};

/// Name and version of the format of an entry.
pub const GRID_SCHEMA: &str = "wattle.grid/1";

/// One interval of one intensity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridEntry {
    /// [`GRID_SCHEMA`].
    pub schema: String,
    /// The run's segment.
    pub segment: u32,
    /// Who said so.
    #[serde(flatten)]
    pub origin: GridOrigin,
    /// How the provider knows it.
    pub basis: GridBasis,
    /// Its start, RFC 3339 in UTC, by the provider's clock.
    pub from: String,
    /// Its end, likewise.
    pub to: String,
    /// Its start on the segment's monotonic clock; 0 where it began before that clock did.
    pub from_ns: MonotonicNs,
    /// Its end on the segment's monotonic clock.
    pub to_ns: MonotonicNs,
    /// Grams of CO₂-equivalent a kilowatt-hour.
    pub g_per_kwh: GramsPerKwh,
}

/// Where intensities come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GridOrigin {
    /// The provider's name in a configuration, such as "uk".
    pub provider: String,
    /// The zone that was asked for.
    pub zone: String,
    /// What the provider counts, such as "lifecycle".
    pub counts: String,
}

/// How a provider knows an intensity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GridBasis {
    /// From what was generated.
    Live,
    /// By the provider's own estimate of what was generated.
    Estimated,
    /// It was forecast.
    Forecast,
}

/// By what kind of figure energy was priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GridUse {
    /// A live figure.
    Live,
    /// The provider's own estimate.
    Estimated,
    /// A forecast.
    Forecast,
    /// A figure beyond its interval, since nothing newer came.
    Held,
}

/// Energy by the kind of figure that priced it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GridEnergy {
    /// By live figures.
    pub live: Joules,
    /// By the provider's own estimates.
    pub estimated: Joules,
    /// By forecasts.
    pub forecast: Joules,
    /// By figures beyond their interval.
    pub held: Joules,
}

/// Shares of a record's energy by the kind of figure that priced it. What they leave of 1 was priced by a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridShares {
    /// Who was asked.
    #[serde(flatten)]
    pub origin: GridOrigin,
    /// By live figures.
    pub live_fraction: f64,
    /// By the provider's own estimates.
    pub estimated_fraction: f64,
    /// By forecasts.
    pub forecast_fraction: f64,
    /// By figures held beyond their interval, for at most another of its length.
    pub held_fraction: f64,
}

/// What is known of a zone's intensity, on one monotonic clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Intensities {
    origin: GridOrigin,
    /// In order, none overlapping another.
    rows: Vec<Row>,
}

/// A figure and the time that it stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its start.
    pub from: MonotonicNs,
    /// Its end.
    pub to: MonotonicNs,
    /// The figure.
    pub intensity: GramsPerKwh,
    /// How the provider knows it.
    pub basis: GridBasis,
}

/// A stretch of time in which one figure holds, or none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Its start.
    pub from: MonotonicNs,
    /// Its end.
    pub to: MonotonicNs,
    /// The figure; `None` where nothing is known.
    pub known: Option<(GramsPerKwh, GridUse)>,
}

impl GridEntry {
    /// The entry as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an entry is plain data")
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub fn from_json(line: &str) -> Result<Self, String> {
        let entry: Self = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if entry.schema != GRID_SCHEMA {
            return Err(format!("expected schema {GRID_SCHEMA:?}, got {:?}", entry.schema));
        }
        Ok(entry)
    }

    /// The interval without its origin.
    pub fn row(&self) -> Row {
        Row { from: self.from_ns, to: self.to_ns, intensity: self.g_per_kwh, basis: self.basis }
    }
}

impl GridBasis {
    fn as_used(self) -> GridUse {
        match self {
            Self::Live => GridUse::Live,
            Self::Estimated => GridUse::Estimated,
            Self::Forecast => GridUse::Forecast,
        }
    }
}

impl GridUse {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Estimated => "estimated",
            Self::Forecast => "forecast",
            Self::Held => "held",
        }
    }
}

impl GridEnergy {
    /// The energy of one kind of figure.
    pub fn get_mut(&mut self, by: GridUse) -> &mut Joules {
        match by {
            GridUse::Live => &mut self.live,
            GridUse::Estimated => &mut self.estimated,
            GridUse::Forecast => &mut self.forecast,
            GridUse::Held => &mut self.held,
        }
    }

    /// Adds the shares of `energy`.
    pub fn add(&mut self, shares: &GridShares, energy: Joules) {
        self.live += energy * shares.live_fraction;
        self.estimated += energy * shares.estimated_fraction;
        self.forecast += energy * shares.forecast_fraction;
        self.held += energy * shares.held_fraction;
    }

    /// The shares of `energy` that it is; all zero of nothing.
    pub fn shares(&self, origin: GridOrigin, energy: Joules) -> GridShares {
        let share = |part: Joules| if energy > Joules::ZERO { part / energy } else { 0.0 };
        GridShares {
            origin,
            live_fraction: share(self.live),
            estimated_fraction: share(self.estimated),
            forecast_fraction: share(self.forecast),
            held_fraction: share(self.held),
        }
    }
}

impl GridShares {
    /// What was priced by the provider's figures; the rest was priced by a table.
    pub fn known_fraction(&self) -> f64 {
        self.live_fraction + self.estimated_fraction + self.forecast_fraction + self.held_fraction
    }
}

impl Intensities {
    /// Nothing known yet.
    pub fn new(origin: GridOrigin) -> Self {
        Self { origin, rows: Vec::new() }
    }

    /// What the entries of one segment tell; `None` without any.
    pub fn of_segment<'a>(entries: impl IntoIterator<Item = &'a GridEntry>, segment: u32) -> Option<Self> {
        let mut known: Option<Self> = None;
        for entry in entries.into_iter().filter(|entry| entry.segment == segment) {
            known.get_or_insert_with(|| Self::new(entry.origin.clone())).insert(entry.row());
        }
        known
    }

    /// Where they come from.
    pub fn origin(&self) -> &GridOrigin {
        &self.origin
    }

    /// All of them, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Adds what was learnt. It takes the place of what was known of that time, but no forecast takes that of another
    /// figure. Returns what of it is new.
    pub fn insert(&mut self, row: Row) -> Vec<Row> {
        let mut left: Vec<Row> = if row.from < row.to { vec![row] } else { Vec::new() };
        for known in &self.rows {
            let stands = *known == row || (row.basis == GridBasis::Forecast && known.basis != row.basis);
            if stands {
                left = left.iter().flat_map(|part| part.without(known)).collect();
            }
        }
        for part in &left {
            self.rows = self.rows.iter().flat_map(|known| known.without(part)).collect();
        }
        self.rows.extend(&left);
        self.rows.sort_by_key(|row| row.from);
        left
    }

    /// What is known of one moment. A figure holds for its interval and, until a newer one begins, for another of its
    /// length.
    pub fn at(&self, t: MonotonicNs) -> Option<(GramsPerKwh, GridUse)> {
        let row = self.rows[..self.rows.partition_point(|row| row.from <= t)].last()?;
        match t {
            _ if t < row.to => Some((row.intensity, row.basis.as_used())),
            _ if t < row.held_until() => Some((row.intensity, GridUse::Held)),
            _ => None,
        }
    }

    /// The time from `from` to `to`, cut where what is known of it changes.
    pub fn pieces(&self, from: MonotonicNs, to: MonotonicNs) -> Vec<Piece> {
        let is_within = |t: &MonotonicNs| from < *t && *t < to;
        let cuts = self.rows.iter().flat_map(|row| [row.from, row.to, row.held_until()]);
        let mut cuts: Vec<_> = cuts.filter(is_within).chain([from, to]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let piece = |pair: &[MonotonicNs]| Piece { from: pair[0], to: pair[1], known: self.at(pair[0]) };
        cuts.windows(2).map(piece).collect()
    }
}

impl Row {
    /// Until when it stands for what follows it, if nothing newer comes.
    fn held_until(&self) -> MonotonicNs {
        MonotonicNs(self.to.0.saturating_add(self.to.0 - self.from.0))
    }

    /// What is left of it beside `other`.
    fn without(&self, other: &Self) -> Vec<Self> {
        let before = Self { to: self.to.min(other.from), ..*self };
        let after = Self { from: self.from.max(other.to), ..*self };
        [before, after].into_iter().filter(|part| part.from < part.to).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> GridOrigin {
        GridOrigin { provider: "uk".to_owned(), zone: "GB".to_owned(), counts: "direct".to_owned() }
    }

    fn row(from: u64, to: u64, g: f64, basis: GridBasis) -> Row {
        Row { from: MonotonicNs(from), to: MonotonicNs(to), intensity: GramsPerKwh(g), basis }
    }

    /// A start, an end, and what is known between them.
    type Known = (u64, u64, Option<(f64, GridUse)>);

    fn known(intensities: &Intensities, from: u64, to: u64) -> Vec<Known> {
        let pieces = intensities.pieces(MonotonicNs(from), MonotonicNs(to));
        pieces
            .into_iter()
            .map(|piece| (piece.from.0, piece.to.0, piece.known.map(|(g, by)| (g.get(), by))))
            .collect()
    }

    #[test]
    fn a_figure_holds_for_its_interval_and_another_of_its_length_and_then_nothing_is_known() {
        let mut intensities = Intensities::new(origin());
        intensities.insert(row(100, 130, 200.0, GridBasis::Live));
        assert_eq!(
            known(&intensities, 90, 200),
            [
                (90, 100, None),
                (100, 130, Some((200.0, GridUse::Live))),
                (130, 160, Some((200.0, GridUse::Held))),
                (160, 200, None),
            ]
        );
        intensities.insert(row(140, 170, 300.0, GridBasis::Estimated));
        assert_eq!(
            known(&intensities, 120, 165),
            [
                (120, 130, Some((200.0, GridUse::Live))),
                (130, 140, Some((200.0, GridUse::Held))),
                (140, 160, Some((300.0, GridUse::Estimated))),
                (160, 165, Some((300.0, GridUse::Estimated))),
            ]
        );
    }

    #[test]
    fn what_is_newer_counts_but_no_forecast_replaces_a_live_figure() {
        let mut intensities = Intensities::new(origin());
        assert_eq!(intensities.insert(row(0, 10, 1.0, GridBasis::Forecast)).len(), 1);
        assert_eq!(intensities.insert(row(10, 20, 2.0, GridBasis::Forecast)).len(), 1);
        assert_eq!(intensities.insert(row(0, 10, 1.0, GridBasis::Forecast)), [], "nothing new");
        assert_eq!(intensities.insert(row(0, 10, 5.0, GridBasis::Live)).len(), 1);
        assert_eq!(intensities.insert(row(0, 10, 7.0, GridBasis::Forecast)), []);
        assert_eq!(
            intensities.insert(row(5, 20, 3.0, GridBasis::Forecast)),
            [row(10, 20, 3.0, GridBasis::Forecast)],
            "the part of it that no live figure tells better"
        );
        assert_eq!(
            known(&intensities, 0, 20),
            [(0, 10, Some((5.0, GridUse::Live))), (10, 20, Some((3.0, GridUse::Forecast)))]
        );
    }

    #[test]
    fn an_entry_reads_back_and_another_schema_is_refused() {
        let entry = GridEntry {
            schema: GRID_SCHEMA.to_owned(),
            segment: 2,
            origin: origin(),
            basis: GridBasis::Live,
            from: "2026-11-28T05:00:00Z".to_owned(),
            to: "2026-11-28T05:30:00Z".to_owned(),
            from_ns: MonotonicNs(5),
            to_ns: MonotonicNs(1_800_000_000_005),
            g_per_kwh: GramsPerKwh(212.0),
        };
        assert_eq!(GridEntry::from_json(&entry.to_json()).unwrap(), entry);
        let other = entry.to_json().replace("wattle.grid/1", "wattle.grid/9");
        assert!(GridEntry::from_json(&other).unwrap_err().contains("wattle.grid/9"));
        let known = Intensities::of_segment([&entry], 2).unwrap();
        assert_eq!((known.rows(), known.origin()), (&[entry.row()][..], &entry.origin));
        assert_eq!(Intensities::of_segment([&entry], 0), None);
    }
}
