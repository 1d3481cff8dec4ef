//! The head of a page: what the run was, and its figures at a glance.

use maud::{Markup, html};
use wattle_runlog::Joules;

use crate::quantity::{count, duration, joules, loss, mass, money, percent, si, wall_time, whole_percent};
use crate::report::{Report, Totals};
use crate::status::Status;
use crate::text::{device, what};

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
    under: String,
}

/// The figures at a glance.
pub fn tiles(report: &Report) -> Markup {
    let tiles =
        [learnt(report), report.totals.as_ref().map_or_else(Vec::new, |totals| spent(report, totals))];
    html! {
        dl.tiles {
            @for tile in tiles.concat() {
                div {
                    dt { (tile.name) }
                    dd {
                        div.value { (tile.value) }
                        div.under { (tile.under) }
                    }
                }
            }
        }
    }
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
    let half_width = totals.energy_uncertainty_j.unwrap_or_default().get();
    let certainty = match totals.measured_fraction {
        share if share >= 0.995 => "measured".to_owned(),
        share if share < 0.005 => "estimated".to_owned(),
        share => format!("{} measured", whole_percent(share)),
    };
    let spread = match half_width > 0.0 && totals.measured_fraction >= 0.005 {
        true => format!("± {}", si(half_width, "J")),
        false => format!("± {}", whole_percent(totals.systematic_fraction)),
    };
    let carbon = &totals.carbon;
    let mut tiles = vec![
        Tile { name: "energy", value: joules(totals.energy_j), under: format!("{certainty} · {spread}") },
        Tile {
            name: "emissions, CO₂e",
            value: mass(totals.emissions_g),
            under: format!("{} g/kWh, {}", si(carbon.intensity_g_per_kwh.get(), ""), carbon.region),
        },
    ];
    tiles.extend(totals.cost.as_ref().map(|cost| Tile {
        name: "cost",
        value: money(cost.value, &cost.currency),
        under: format!("{} {} a kWh", cost.tariff_per_kwh, cost.currency),
    }));
    tiles.push(Tile {
        name: "tokens",
        value: si(totals.tokens as f64, ""),
        under: totals.joules_per_token.map_or(String::new(), |j| si(j * 1e3, "J a thousand")),
    });
    tiles.push(Tile {
        name: "running time",
        value: duration(totals.duration_s),
        under: format!("{} steps", count(report.steps)),
    });
    if totals.wasted_j > Joules::ZERO {
        tiles.push(Tile {
            name: "wasted",
            value: joules(totals.wasted_j),
            under: format!("{} on steps done again", percent(totals.wasted_j / totals.energy_j)),
        });
    }
    tiles
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
