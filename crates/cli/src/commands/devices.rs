//! `wattle devices`: what there is to compute with and to measure with.

use serde_json::json;
use wattle_meter::{EnergyConfig, Finding, FindingState, GpuSelection, discover};
use wattle_report::words::table::hang;

use crate::args::DevicesArgs;
use crate::exit::Exit;
use crate::terminal::print_line;

/// Shows every sensor and compute device.
pub fn run(args: &DevicesArgs) -> anyhow::Result<Exit> {
    let config = EnergyConfig { gpus: GpuSelection::All, ..EnergyConfig::default() };
    let discovery = discover(&config, &[]);
    let compute = compute_devices();
    if args.json {
        let findings: Vec<_> = discovery.findings.iter().map(finding_json).collect();
        let sensors = discovery.sensor_infos();
        let report = json!({
            "schema": "wattle.devices/1",
            "compute": compute,
            "drivers": discovery.drivers,
            "sensors": sensors,
            "findings": findings,
        });
        print_line(&format!("{report:#}"))?;
        return Ok(Exit::Done);
    }
    let mut lines = vec!["compute".to_owned()];
    lines.extend(compute.iter().flat_map(|device| hang("  ", device)));
    lines.extend([String::new(), "sensors".to_owned()]);
    for finding in &discovery.findings {
        let state = format!("  {:<13} ", state_label(finding.state));
        lines.extend(hang(&state, &format!("{}: {}", finding.what, finding.detail)));
        let remedy = finding.remedy.as_ref().map(|remedy| format!("to fix it: {remedy}"));
        lines.extend(remedy.iter().flat_map(|remedy| hang(&format!("{:16}", ""), remedy)));
    }
    print_line(&lines.join("\n"))?;
    Ok(Exit::Done)
}

fn compute_devices() -> Vec<String> {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let host = wattle_runlog::manifest::Host::here();
    let cpu = format!("cpu: {} ({cpus} usable)", host.cpu_model.as_deref().unwrap_or("unknown processor"));
    [Some(cpu), cuda_device()].into_iter().flatten().collect()
}

#[cfg(feature = "train")]
fn cuda_device() -> Option<String> {
    let chosen = wattle_train::device::DeviceChoice::Auto.open().ok()?;
    Some(match chosen.device.is_cpu() {
        true => format!("no GPU: {}", chosen.reason),
        false => describe_board(&chosen.compute, chosen.name.as_deref()),
    })
}

/// `cuda:0: NVIDIA H100 80GB HBM3 (GPU-…)`
#[cfg(feature = "train")]
fn describe_board(board: &wattle_runlog::ComputeDevice, name: Option<&str>) -> String {
    let name = name.unwrap_or("a GPU that does not tell its name");
    let uuid = board.uuid.as_ref().map_or(String::new(), |uuid| format!(" ({uuid})"));
    format!("{board}: {name}{uuid}")
}

#[cfg(not(feature = "train"))]
fn cuda_device() -> Option<String> {
    None
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    json!({
        "what": finding.what,
        "state": state_label(finding.state),
        "detail": finding.detail,
        "remedy": finding.remedy,
    })
}

fn state_label(state: FindingState) -> &'static str {
    match state {
        FindingState::Found => "found",
        FindingState::NotSelected => "not selected",
        FindingState::Unreadable => "unreadable",
        FindingState::Absent => "absent",
        FindingState::Estimated => "estimated",
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use wattle_runlog::{ComputeDevice, DeviceKind};

    use super::*;

    #[test]
    fn a_board_is_named() {
        let board = ComputeDevice {
            kind: DeviceKind::Cuda,
            ordinal: 1,
            uuid: Some("GPU-1a2b".to_owned()),
            pci: None,
        };
        let described = describe_board(&board, Some("NVIDIA H100 80GB HBM3"));
        assert_eq!(described, "cuda:1: NVIDIA H100 80GB HBM3 (GPU-1a2b)");
        let nameless = ComputeDevice { uuid: None, ..board };
        assert_eq!(describe_board(&nameless, None), "cuda:1: a GPU that does not tell its name");
    }
}
