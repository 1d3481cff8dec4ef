//! The head of a page: what the run was, and its figures at a glance.

use maud::{Markup, html};
use wattle_runlog::{GramsCo2e, Joules};

use crate::join::report::{Report, Totals};
use crate::join::status::Status;
use crate::join::waiting::Waiting;
use crate::text::energy_words::{measured_words, random_words, systematic_words};
use crate::text::{device, what};
use crate::words::quantity::{
    count, duration, joules, joules_per_ktoken, loss, mass, money, percent, si, tariff, wall_time,
};

/// Name, status and what the run was.
pub fn header(report: &Report) -> Markup {
    let class = match report.status {
        Status::Done | Status::Budget | Status::EarlyStop => "status good",
        Status::Running => "status",
        Status::Signal | Status::Error | Status::Interrupted => "status warn",
    };
    let data = report.provenance.data.as_ref();
    html! {
        header {
            h1 { (report.name) " " span class=(class) { (report.status.words()) } }
            p.lead {
                (what(report))
                @if let Some(data) = data { " · " (count(data.train_tokens)) " training tokens" }
                " · " (device(report)) " · seed " (report.provenance.seed)
                @if let Some(started) = &report.started_at { " · " (wall_time(started)) }
            }
        }
    }
}

/// One figure of the overview.
#[derive(Clone)]
struct Tile {
    name: &'static str,
    value: String,
    /// Lines below the value.
    under: String,
}

/// Warnings to read before any figure.
pub fn warnings(report: &Report) -> Markup {
    html! {
        @if let Some(unmetered) = report.unmetered_words() { div.notes.first { b { "Not metered: " } (unmetered) } }
        @if !report.doubts.is_empty() {
            div.notes { @for doubt in &report.doubts { div { (doubt) } } }
        }
    }
}

/// The figures at a glance.
pub fn tiles(report: &Report) -> Markup {
    let tiles =
        [learnt(report), report.totals.as_ref().map_or_else(Vec::new, |totals| spent(report, totals))]
            .concat();
    html! {
        dl.tiles style=(format!("--wide:{};--page:{}", columns(tiles.len(), 6), columns(tiles.len(), 4))) {
            @for tile in &tiles {
                div {
                    dt { (tile.name) }
                    dd {
                        div.value { (tile.value) }
                        @for line in tile.under.lines() { div.under { (line) } }
                    }
                }
            }
        }
    }
}

/// Columns for `n` tiles, `most` at most: even rows, and never a single tile in the last row.
fn columns(n: usize, most: usize) -> usize {
    let even = n.div_ceil(n.div_ceil(most).max(1)).max(1);
    (2..=even).rev().find(|columns| n % columns != 1).unwrap_or(even)
}

fn learnt(report: &Report) -> Vec<Tile> {
    let mut tiles = Vec::new();
    if let Some(best) = &report.learning.best {
        tiles.push(Tile {
            name: "validation loss",
            value: loss(best.loss),
            under: match report.floor() {
                Some(floor) => {
                    format!("at step {} · floor {}", count(best.at.step), loss(floor.nats_per_token))
                }
                None => format!("best, at step {}", count(best.at.step)),
            },
        });
        tiles.push(Tile {
            name: "next token right",
            value: percent(best.accuracy),
            under: format!("perplexity {}", si(best.perplexity, "")),
        });
    } else if let Some(train) = report.learning.train_loss {
        tiles.push(Tile {
            name: "training loss",
            value: loss(train),
            under: "over the last steps".to_owned(),
        });
    }
    tiles
}

fn spent(report: &Report, totals: &Totals) -> Vec<Tile> {
    let least = |figure| report.at_least(figure);
    let energy = match report.unmetered_devices.as_slice() {
        [] => [measured_words(totals), random_words(totals), systematic_words(totals)].join("\n"),
        devices => format!("without {}", devices.join(", ")),
    };
    let carbon = &totals.carbon;
    let mut tiles = vec![
        Tile { name: "energy", value: least(joules(totals.energy_j)), under: energy },
        Tile {
            name: "emissions, CO₂e",
            value: least(mass(totals.emissions_g)),
            under: format!("{} g/kWh, {}", si(carbon.intensity_g_per_kwh.get(), ""), carbon.region),
        },
    ];
    tiles.extend(totals.cost.as_ref().map(|cost| Tile {
        name: "cost",
        value: least(money(cost.value, &cost.currency)),
        under: tariff(cost),
    }));
    tiles.push(Tile {
        name: "tokens",
        value: si(totals.tokens as f64, ""),
        under: totals
            .joules_per_token
            .map_or(String::new(), |j| least(format!("{} J/ktoken", joules_per_ktoken(j)))),
    });
    let beside = [("masked tokens", totals.masked), ("padding", totals.padding)];
    tiles.extend(beside.into_iter().filter_map(|(name, masked)| {
        let masked = masked?;
        Some(Tile {
            name,
            value: si(masked.tokens as f64, ""),
            under: format!("{} of all, {} of passes", percent(masked.share), joules(masked.energy_j)),
        })
    }));
    tiles.push(Tile {
        name: "running time",
        value: duration(totals.duration_s),
        under: format!("{} steps", count(report.steps)),
    });
    tiles.extend(report.waiting.as_ref().map(waiting_tile));
    if totals.wasted_j > Joules::ZERO {
        tiles.push(Tile {
            name: "wasted",
            value: joules(totals.wasted_j),
            under: format!("{} on steps done again", percent(totals.wasted_j / totals.energy_j)),
        });
    }
    tiles
}

/// What waiting saved, or what it cost where it saved nothing.
fn waiting_tile(waiting: &Waiting) -> Tile {
    let saved = waiting.saved_g.get();
    let share = percent(waiting.saved_fraction().abs());
    let (name, against) = if saved < 0.0 {
        ("waiting cost, CO₂e", format!("{share} more than at once"))
    } else {
        ("waiting saved, CO₂e", format!("{share} of running at once"))
    };
    Tile {
        name,
        value: mass(GramsCo2e(saved.abs())),
        under: format!("{against}\n{} paused", duration(waiting.time_s)),
    }
}

/// What was not as it should be.
pub fn notes(report: &Report) -> Markup {
    html! {
        @if !report.notes.is_empty() {
            div.notes {
                @for note in &report.notes { div { (note) } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wattle_runlog::Seconds;

    #[test]
    fn a_tile_says_what_waiting_saved_or_what_it_cost() {
        let mut waiting = Waiting {
            pauses: 1,
            time_s: Seconds(60.0),
            idle_j: Joules(100.0),
            idle_g: GramsCo2e(10.0),
            work_g: GramsCo2e(110.0),
            at_once_g: GramsCo2e(200.0),
            saved_g: GramsCo2e(80.0),
        };
        let told = |waiting: &Waiting| {
            let Tile { name, value, under } = waiting_tile(waiting);
            format!("{name}: {value}, {}", under.lines().next().unwrap())
        };
        assert_eq!(told(&waiting), "waiting saved, CO₂e: 80.0 g, 40.0 % of running at once");
        waiting.saved_g = GramsCo2e(-20.0);
        assert_eq!(told(&waiting), "waiting cost, CO₂e: 20.0 g, 10.0 % more than at once");
    }

    #[test]
    fn no_tile_stands_alone_in_the_last_row() {
        for n in 2..=12 {
            for most in [4, 6] {
                let columns = columns(n, most);
                assert!(columns <= most && n % columns != 1, "{n} tiles in {columns}");
            }
        }
        assert_eq!((columns(7, 6), columns(5, 4), columns(6, 6), columns(6, 4)), (4, 3, 6, 3));
        assert_eq!((columns(1, 4), columns(0, 4)), (1, 1));
    }
}
