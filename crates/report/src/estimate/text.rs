//! An estimate on a terminal.

use wattle_runlog::{GramsCo2e, Joules, Seconds};

use crate::estimate::{Estimate, Interval};
use crate::words::quantity::{duration, grams, large, money, watt_hours};
use crate::words::table::hang;

/// An estimate as text, at most eighty columns wide.
pub fn text(estimate: &Estimate) -> String {
    let mut lines =
        vec!["estimated, not measured; from the best to the worst of the assumptions below".to_owned()];
    let mut line = |name: &str, interval: Interval, words: &dyn Fn(f64) -> String| {
        let range = format!("({} to {})", words(interval.low), words(interval.high));
        let range = if interval.low < interval.high { range } else { String::new() };
        let figure = format!("  {name:<11}{:<14}", words(interval.middle));
        match range.is_empty() {
            true => lines.push(figure.trim_end().to_owned()),
            false => lines.extend(hang(&figure, &range)),
        }
    };
    line("compute", Interval::exactly(estimate.flops), &|flops| format!("{flops:.2e} FLOP"));
    line("GPU-hours", estimate.gpu_hours, &|hours| large(hours));
    line("time", estimate.duration_s, &|seconds| duration(Seconds(seconds)));
    line("energy", estimate.energy_mwh, &|mwh| watt_hours(Joules::from_kwh(mwh * 1e3)));
    line("emissions", estimate.emissions_t, &|tonnes| grams(GramsCo2e(tonnes * 1e6)));
    if let Some((cost, currency)) = estimate.cost.zip(estimate.currency.as_ref()) {
        line("cost", cost, &|value| money(value, currency));
    }
    lines.push(String::new());
    lines.push("assumed".to_owned());
    for assumption in &estimate.assumptions {
        let what = format!("{} [{}]", assumption.value, assumption.source);
        lines.extend(hang(&format!("  {:<13}", assumption.what), &what));
    }
    lines.join("\n") + "\n"
}
