//! A simulation on a terminal.

use crate::scaling::{Point, Scaling};
use crate::words::quantity::{count, joules, joules_per_ktoken, large, si};
use crate::words::table::{Table, hang};

/// A simulation as text, at most eighty columns wide.
pub fn text(scaling: &Scaling) -> String {
    let mut lines =
        vec!["simulated: data-parallel training with ZeRO-1 from one GPU's measured step".to_owned()];
    let headings = ["GPUs", "step", "wait", "efficiency", "tokens/s", "J/step", "J/ktoken"];
    let mut table = Table::new(headings, &[]);
    scaling.points.iter().for_each(|point| table.row(row(point)));
    lines.extend(table.lines());
    lines.push(String::new());
    lines.push("assumed".to_owned());
    for assumption in &scaling.assumptions {
        let what = format!("{} [{}]", assumption.value, assumption.source);
        lines.extend(hang(&format!("  {:<13}", assumption.what), &what));
    }
    lines.join("\n") + "\n"
}

fn row(point: &Point) -> [String; 7] {
    let waiting = point.reduce_wait_s + point.gather_wait_s;
    [
        count(point.gpus),
        si(point.step_s.get(), "s"),
        if waiting.get() > 0.0 { si(waiting.get(), "s") } else { String::new() },
        format!("{:.1} %", point.efficiency * 100.0),
        large(point.tokens_per_s),
        point.step_j.map(joules).unwrap_or_default(),
        point.joules_per_token.map(joules_per_ktoken).unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::tests::cluster;
    use crate::words::table::WIDTH;

    #[test]
    fn a_simulation_in_words() {
        insta::assert_snapshot!(text(&cluster(1024).simulate()));
    }

    #[test]
    fn no_line_is_wider_than_eighty_columns() {
        let mut wide = cluster(10_000_000);
        wide.measured.run = "a-directory-".repeat(20);
        wide.strategy.shard = Some(1_000_000);
        for line in text(&wide.simulate()).lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        wide.measured.power_w = None;
        assert!(!text(&wide.simulate()).contains("J/ktoken"), "no joules without power");
    }
}
