//! A driver that hangs, fails or lies in any of its functions: training goes on, a command's status is its own, and no
//! figure is taken from it unflagged.

use std::fs;

use wattle_random::Permutation;
use wattle_runlog::Record;
use wattle_runlog::record::SensorKind;

use super::campaign::{Campaign, Ended, run};
use crate::workbench::{Workbench, with_board};

/// More than any board draws: what is above it is nonsense, and has to be called so.
const MOST_W: f64 = 2_000.0;

/// What a function does: a variable of the stand-in, and what follows the function's name there.
const WRONGS: [(&str, &str); 9] = [
    ("NVML_STANDIN_HANG", ""),
    ("NVML_STANDIN_HANG", "@0.2"),
    ("NVML_STANDIN_ANSWER", "=999"),
    ("NVML_STANDIN_ANSWER", "=4294967295"),
    ("NVML_STANDIN_ANSWER", "=999@0.2"),
    ("NVML_STANDIN_ANSWER", "=ones"),
    ("NVML_STANDIN_ANSWER", "=zeros"),
    ("NVML_STANDIN_ANSWER", "=noise"),
    ("NVML_STANDIN_ANSWER", "=noise@0.2"),
];

/// Every function that the stand-in has, which are those that the program calls.
fn functions() -> Vec<&'static str> {
    let source = include_str!("../nvml_standin/src/nvml.rs");
    source.split("entered(\"").skip(1).map(|rest| rest.split_once('"').unwrap().0).collect()
}

#[test]
fn no_driver_stops_a_run_or_makes_up_its_energy() {
    let mut campaign = Campaign::new("hostile drivers");
    let functions = functions();
    assert!(functions.len() > 20, "{functions:?}");
    let all = functions.len() * WRONGS.len() * 2;
    let order = Permutation::new(41, 0, all as u64);
    let bench = Workbench::in_memory();
    for number in 0..fuzz::size("WATTLE_DRIVER_CASES", 6).min(all as u64) {
        let case = order.at(number) as usize;
        let (function, rest) = (functions[case / WRONGS.len() / 2], case % (WRONGS.len() * 2));
        let (variable, suffix) = WRONGS[rest / 2];
        let wrong = format!("{function}{suffix}");
        let trains = rest % 2 == 0;
        campaign.case(&format!("{} with {variable}={wrong}", if trains { "train" } else { "meter" }), || {
            let name = format!("case-{number}");
            let command = match trains {
                true => {
                    bench.train(&["--out", &name, "--set", "energy.gpus=all", "--set", "train.epochs=30"])
                }
                false => bench.wattle(&[
                    "meter",
                    "--gpus",
                    "all",
                    "--json",
                    &name,
                    "--",
                    "sh",
                    "-c",
                    "sleep 0.5; exit 1",
                ]),
            };
            let mut command = with_board(command);
            command.env(variable, &wrong);
            let ended = run(&command);
            ended.is(i32::from(!trains))?;
            let record = match trains {
                true => bench.records(&name).pop(),
                false => fs::read_to_string(bench.join(&name))
                    .ok()
                    .and_then(|json| Record::from_json(json.trim()).ok()),
            };
            sober(&ended, &record.ok_or_else(|| ended.wrong("it leaves no record"))?)
        });
    }
    campaign.end();
}

/// Whether no figure is silly, or those that are have a flag.
fn sober(ended: &Ended, record: &Record) -> Result<(), String> {
    if ended.stderr.contains('\u{1b}') || ended.stdout.contains(&0x1b) {
        return Err(ended.wrong("the driver drives the terminal"));
    }
    let total = record.energy_j.get();
    if !(total.is_finite() && total >= 0.0) {
        return Err(ended.wrong(&format!("{total} J in all")));
    }
    for sensor in record.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu) {
        let power = sensor.energy_j.get() / record.duration_s.get();
        if !(0.0..MOST_W).contains(&power) && sensor.flags.is_empty() {
            return Err(
                ended.wrong(&format!("{} draws {power} W and no flag says that it cannot", sensor.id))
            );
        }
    }
    Ok(())
}
