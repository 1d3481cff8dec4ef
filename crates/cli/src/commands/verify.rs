//! `wattle verify`: every operation against its reference, on this machine.

use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};
use wattle_ops::simd;
use wattle_ops::verify::{Check, board, cpu};
use wattle_report::words::quantity::duration;
use wattle_runlog::Seconds;
use wattle_runlog::manifest::Host;
use wattle_train::device::{ChosenDevice, DeviceChoice};

use crate::args::VerifyArgs;
use crate::exit::Exit;
use crate::terminal::{print, print_line};

/// What was checked in one place.
struct Place {
    /// `cpu avx512`, or a GPU's name.
    name: String,
    checks: Vec<Check>,
}

/// Checks every operation.
///
/// # Errors
/// If the device cannot be had, or an operation is not as near to its reference as rounding allows.
pub fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let device = args.device.open()?;
    let started = Instant::now();
    let mut places = on_cpu()?;
    places.extend(on_gpu(&device)?);
    let time = Seconds(started.elapsed().as_secs_f64());
    match args.json {
        true => print_line(&format!("{:#}", report(&places)))?,
        false => print(&describe(&places, &device, args.device, time))?,
    }
    verdict(&places)
}

/// At every SIMD level that the processor has, the best last, which stays.
fn on_cpu() -> anyhow::Result<Vec<Place>> {
    simd::available()
        .map(|level| {
            simd::limit(level);
            let checks = cpu::checks().context("the references cannot be computed")?;
            Ok(Place { name: format!("cpu {}", level.name()), checks })
        })
        .collect()
}

/// The kernels of the GPU; `None` on a CPU.
fn on_gpu(device: &ChosenDevice) -> anyhow::Result<Option<Place>> {
    let Some(gpu) = device.board()? else { return Ok(None) };
    let checks = board::checks(gpu.as_ref()).with_context(|| format!("{} failed", device.compute))?;
    Ok(Some(Place { name: gpu.name(), checks }))
}

/// An error if an output is off.
fn verdict(places: &[Place]) -> anyhow::Result<Exit> {
    let failed: Vec<String> = each(places)
        .filter(|(_, check)| !check.holds())
        .map(|(place, Check { op, output, shape, .. })| format!("{op} {output} {shape} on {place}"))
        .collect();
    match failed.is_empty() {
        true => Ok(Exit::Done),
        false => anyhow::bail!(
            "{} outputs are further from their references than rounding allows: {}; do not train with this \
             build on this machine",
            failed.len(),
            failed.join("; ")
        ),
    }
}

fn each(places: &[Place]) -> impl Iterator<Item = (&str, &Check)> {
    places.iter().flat_map(|place| place.checks.iter().map(|check| (place.name.as_str(), check)))
}

fn report(places: &[Place]) -> Value {
    let checks: Vec<Value> = each(places)
        .map(|(place, check)| {
            json!({
                "place": place,
                "op": check.op,
                "output": check.output,
                "dtype": check.elem.suffix(),
                "shape": check.shape,
                "largest_error": check.largest_error,
                "largest_ulps": check.largest_ulps,
                "tolerance": check.tolerance,
                "holds": check.holds(),
            })
        })
        .collect();
    json!({
        "schema": "wattle.verify/1",
        "cpu_model": Host::here().cpu_model,
        "places": places.iter().map(|place| &place.name).collect::<Vec<_>>(),
        "failed": each(places).filter(|(_, check)| !check.holds()).count(),
        "checks": checks,
    })
}

/// A line for each output in each place: that of the shape which came nearest to what is allowed.
fn describe(places: &[Place], device: &ChosenDevice, asked: DeviceChoice, time: Seconds) -> String {
    let head = ["op", "output", "type", "on", "largest error", "ULPs", "allowed", "at (shape)"];
    let mut lines = vec![line(head.map(str::to_owned), "")];
    let mut worst: Vec<(&str, &Check)> = Vec::new();
    for (place, check) in each(places) {
        let is_same = |(p, c): &&mut (&str, &Check)| {
            (*p, c.op, c.output, c.elem) == (place, check.op, check.output, check.elem)
        };
        match worst.iter_mut().find(is_same) {
            Some(found) if share(check) > share(found.1) => found.1 = check,
            Some(_) => {}
            None => worst.push((place, check)),
        }
    }
    // An operation's places stand together.
    let order =
        |check: &Check| places[0].checks.iter().position(|c| (c.op, c.output) == (check.op, check.output));
    worst.sort_by_key(|(_, check)| order(check));
    lines.extend(worst.iter().map(|(place, check)| {
        let cells = [
            check.op.to_owned(),
            check.output.to_owned(),
            check.elem.suffix().to_owned(),
            (*place).to_owned(),
            format!("{:.1e}", check.largest_error),
            format!("{:.1}", check.largest_ulps),
            format!("{:.1e}", check.tolerance),
            check.shape.clone(),
        ];
        line(cells, if check.holds() { "holds" } else { "FAILS" })
    }));
    let n = each(places).count();
    let n_failed = each(places).filter(|(_, check)| !check.holds()).count();
    let how = if n_failed == 0 { "all hold".to_owned() } else { format!("{n_failed} fail") };
    lines.push(format!("{n} outputs checked in {}: {how}", duration(time)));
    if device.device.is_cpu() && asked == DeviceChoice::Auto {
        lines.push(format!("no GPU was checked: {}", device.reason));
    }
    lines.join("\n") + "\n"
}

/// How much of what is allowed an error takes; not-a-number more than all.
fn share(check: &Check) -> f64 {
    match check.largest_error {
        error if error.is_nan() => f64::INFINITY,
        0.0 => 0.0,
        error => error / check.tolerance,
    }
}

fn line([op, output, elem, place, error, ulps, allowed, shape]: [String; 8], verdict: &str) -> String {
    format!(
        "{op:<11} {output:<19} {elem:<5} {place:<13} {error:>13} {ulps:>9} {allowed:>8}  {verdict:<6} {shape}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(largest_error: f64) -> Vec<Place> {
        let check = Check {
            op: "linear",
            output: "grad_x",
            elem: wattle_ops::board::Elem::F32,
            shape: "(9, 7, 41)".to_owned(),
            largest_error,
            largest_ulps: 3.0,
            tolerance: 1e-5,
        };
        vec![Place { name: "cpu baseline".to_owned(), checks: vec![check] }]
    }

    #[test]
    fn one_output_that_is_off_fails_the_command_by_name() {
        assert_eq!(verdict(&places(1e-6)).unwrap(), Exit::Done);
        for error in [2e-5, f64::NAN] {
            let said = verdict(&places(error)).unwrap_err().to_string();
            assert!(said.contains("linear grad_x (9, 7, 41) on cpu baseline"), "{said}");
            assert_eq!(report(&places(error))["failed"], 1);
        }
    }
}
