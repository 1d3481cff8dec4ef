//! Every kernel that a board can choose between, as a table.

use wattle_ops::board::roof::Roof;
use wattle_ops::board::select::{Measured, TimedWay};
use wattle_report::words::quantity::{three_digits, whole_percent};
use wattle_report::words::table::{self, Table};

/// The table: jobs that take longest come first.
pub fn table(measured: &[Measured], roof: &Roof) -> String {
    let mut lines = vec![format!(
        "Best of this board now: a copy {} GB/s, a product of bf16 {} TFLOP/s",
        three_digits(roof.bytes_per_s / 1e9),
        three_digits(roof.flops_per_s / 1e12)
    )];
    let mut measured: Vec<&Measured> = measured.iter().collect();
    measured.sort_by(|a, b| time_of_chosen(b).total_cmp(&time_of_chosen(a)));
    for job in measured {
        lines.push(String::new());
        lines.extend(table::hang("", job.job.as_str()));
        let mut table = Table::new(["variant", "µs", "GB/s", "TFLOP/s", "of the roof", ""], &[0, 5]);
        job.ways.iter().for_each(|way| table.row(row(job, way, roof)));
        lines.extend(table.lines());
        let impossible = job.ways.iter().filter_map(|way| Some((way, way.time.as_ref().err()?)));
        lines.extend(impossible.flat_map(|(way, why)| table::hang("  ", &format!("{}: {why}", way.name))));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn time_of_chosen(job: &Measured) -> f32 {
    let chosen = job.ways.iter().find(|way| way.name == job.chosen);
    chosen.and_then(|way| way.time.as_ref().ok().copied()).unwrap_or_default()
}

fn row(job: &Measured, way: &TimedWay, roof: &Roof) -> [String; 6] {
    let Ok(us) = way.time else {
        return [way.name.as_str(), "–", "", "", "", "cannot be taken"].map(String::from);
    };
    let (work, seconds) = (job.job.work(), f64::from(us) / 1e6);
    let rate = |amount: u64, unit: f64| {
        if amount == 0 { String::new() } else { three_digits(amount as f64 / seconds / unit) }
    };
    [
        way.name.clone(),
        three_digits(f64::from(us)),
        rate(work.bytes, 1e9),
        rate(work.flops, 1e12),
        roof.share(work, seconds).map_or_else(String::new, whole_percent),
        if way.name == job.chosen { "taken".to_owned() } else { String::new() },
    ]
}

#[cfg(test)]
mod tests {
    use wattle_ops::board::{Elem, Job};

    use super::*;

    #[test]
    fn each_variant_has_its_time_and_its_share_of_what_the_board_can_do() {
        let way = |name: &str, time: Result<f32, &str>| TimedWay {
            name: name.to_owned(),
            time: time.map_err(ToOwned::to_owned),
        };
        let job = |op: &str, n: usize, ways: Vec<TimedWay>, chosen: &str| Measured {
            job: Job::new(op, Elem::Bf16, &[("n", n)]).moving(n * 1_000_000),
            ways,
            chosen: chosen.to_owned(),
        };
        let measured = [
            job("rope", 1, vec![way("plain", Ok(1.0)), way("packs", Err("not aligned"))], "plain"),
            job("classifier_bwd", 2000, vec![way("plain", Ok(2000.0)), way("shared", Ok(1000.0))], "shared"),
        ];
        let text = table(&measured, &Roof { bytes_per_s: 3e12, flops_per_s: 7e14 });
        insta::assert_snapshot!(text, @"
        Best of this board now: a copy 3000 GB/s, a product of bf16 700 TFLOP/s

        classifier_bwd bf16 n=2000
          variant    µs  GB/s  of the roof
          plain    2000  1000         33 %
          shared   1000  2000         67 %  taken

        rope bf16 n=1
          variant    µs  GB/s  of the roof
          plain    1.00  1000         33 %  taken
          packs       –                     cannot be taken
          packs: not aligned
        ");
    }
}
