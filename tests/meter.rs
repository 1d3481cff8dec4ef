//! `wattle meter`: any command, metered from outside.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use wattle_runlog::Record;
use wattle_runlog::record::{Flag, RecordKind, SensorKind};

use crate::workbench::{Running, Workbench, expect, with_board};

fn with_boards(command: Command, n: &str) -> Command {
    let mut command = with_board(command);
    command.env("NVML_STANDIN_BOARDS", n);
    command
}

fn record(bench: &Workbench, name: &str) -> Record {
    Record::from_json(fs::read_to_string(bench.join(name)).unwrap().trim()).unwrap()
}

fn n_boards(record: &Record) -> usize {
    record.sensors.iter().filter(|sensor| sensor.kind == SensorKind::Gpu).count()
}

#[test]
fn a_command_is_accounted_for_with_every_board_it_could_see() {
    let bench = Workbench::new();
    let args = ["meter", "--json", "cost.json", "--", "sleep", "1"];
    let said = expect(0, with_boards(bench.wattle(&args), "2"));
    let cost = record(&bench, "cost.json");
    assert_eq!((cost.kind, n_boards(&cost), cost.complete), (RecordKind::Command, 2, true));
    let boards: f64 =
        cost.sensors.iter().filter(|s| s.kind == SensorKind::Gpu).map(|s| s.energy_j.get()).sum();
    let expected = 600.0 * cost.duration_s.get();
    assert!((boards - expected).abs() < 0.25 * expected, "{boards} J of {expected}");
    assert!(cost.duration_s.get() >= 1.0);
    let command = cost.command.unwrap();
    assert_eq!((command.arguments, command.exit_status), (vec!["sleep".to_owned(), "1".to_owned()], 0));
    assert!(said.contains("gCO2e") && said.contains("energy counter"), "{said}");
}

#[test]
fn boards_are_chosen_by_the_user_else_by_cuda_visible_devices() {
    let bench = Workbench::new();
    let boards = |args: &[&str], visible: Option<&str>| {
        let args = [&["meter", "--json", "cost.json"], args, &["--", "true"]].concat();
        let mut command = with_boards(bench.wattle(&args), "4");
        if let Some(visible) = visible {
            command.env("CUDA_VISIBLE_DEVICES", visible);
        }
        expect(0, command);
        n_boards(&record(&bench, "cost.json"))
    };
    assert_eq!(boards(&[], None), 4);
    assert_eq!(boards(&[], Some("1,3")), 2);
    assert_eq!(boards(&["--gpus", "all"], Some("1")), 4);
    assert_eq!(boards(&["--gpus", "0,2"], None), 2);
    assert_eq!(boards(&["--gpus", "none"], None), 0);
}

#[test]
fn the_exit_status_is_the_commands_own() {
    let bench = Workbench::new();
    let meter = |command: &[&str]| bench.wattle(&[&["-q", "meter", "--"], command].concat());
    expect(0, meter(&["true"]));
    expect(3, meter(&["sh", "-c", "exit 3"]));
    expect(128 + 9, meter(&["sh", "-c", "kill -9 $$"]));
    let said = expect(127, meter(&["no-such-command"]));
    assert!(said.contains("no-such-command"), "{said}");
    expect(126, meter(&["./text.txt"]));
    expect(2, bench.wattle(&["meter"]));
}

#[test]
fn output_that_cannot_be_written_is_known_before_the_command_starts() {
    let bench = Workbench::new();
    let said = expect(1, bench.wattle(&["meter", "--json", "no/such/cost.json", "--", "touch", "started"]));
    assert!(said.contains("--json") && said.contains("no/such/cost.json"), "{said}");
    assert!(!bench.join("started").exists());
    let said =
        expect(2, bench.wattle(&["meter", "--interval-ms", "1", "--region", "Atlantis", "--", "true"]));
    assert!(said.contains("--interval-ms") && said.contains("--region"), "{said}");
}

#[test]
fn a_signal_is_passed_on_and_the_record_is_still_written() {
    let bench = Workbench::new();
    let script = "trap 'echo told > told; exit 5' TERM; echo > ready; while :; do sleep 0.02; done";
    let mut meter = Running::start(bench.wattle(&["meter", "--json", "cost.json", "--", "sh", "-c", script]));
    while !bench.join("ready").exists() {
        sleep(Duration::from_millis(5));
    }
    meter.signal(Signal::TERM);
    assert_eq!(meter.0.wait().unwrap().code(), Some(5));
    assert!(bench.join("told").exists());
    assert!(!record(&bench, "cost.json").complete);
}

#[test]
fn an_estimate_counts_the_whole_tree_of_processes() {
    let bench = Workbench::new();
    let energy = |name: &str, script: &str| {
        let json = format!("{name}.json");
        expect(0, bench.wattle(&["meter", "--json", &json, "--", "sh", "-c", script]));
        let record = record(&bench, &json);
        let cpu = record.sensors.iter().find(|s| s.id == "cpu:estimate");
        cpu.map(|cpu| cpu.energy_j.get() / record.duration_s.get())
    };
    // A grandchild works while its parents wait.
    let busy = "timeout 1.5 sh -c 'while :; do :; done'; true";
    let (idle, busy) = (energy("idle", "sleep 0.5"), energy("busy", busy));
    if let (Some(idle), Some(busy)) = (idle, busy) {
        assert!(busy > idle * 1.05, "{busy} W busy, {idle} W idle");
    }
}

/// Processor time of a metered shell script.
fn cpu_seconds(bench: &Workbench, script: &str) -> f64 {
    expect(0, bench.wattle(&["meter", "--json", "cost.json", "--", "sh", "-c", script]));
    record(bench, "cost.json").resources.cpu_s.unwrap().get()
}

/// A worker that is busy for a second or so, counted in its own processor time.
const WORKER: &str = "ulimit -t 1; while :; do :; done";

#[test]
fn processes_that_leave_the_tree_are_counted() {
    let bench = Workbench::new();
    fs::write(bench.join("worker.sh"), WORKER).unwrap();
    let wait = "while [ ! -e done ]; do sleep 0.05; done; rm done";
    for start in [
        // The subshell ends at once, and the worker has no parent but whoever adopts it.
        "(sh -c 'sh worker.sh; touch done' > /dev/null 2>&1 &)",
        // A daemon: forked twice, in a session of its own.
        "(setsid sh -c '(sh worker.sh; touch done) &' > /dev/null 2>&1 &)",
        "nohup sh -c 'sh worker.sh; touch done' > /dev/null 2>&1 &",
    ] {
        let seconds = cpu_seconds(&bench, &format!("{start}\n{wait}"));
        assert!((0.9..2.5).contains(&seconds), "{start}: {seconds} s");
    }
}

#[test]
fn the_command_is_over_when_a_shell_would_say_so_and_what_goes_on_is_named() {
    let bench = Workbench::new();
    let start = std::time::Instant::now();
    let script = "(sleep 20 > /dev/null 2>&1 &) ; exit 3";
    let said = expect(3, bench.wattle(&["meter", "--json", "cost.json", "--", "sh", "-c", script]));
    assert!(start.elapsed() < Duration::from_secs(15), "it did not wait");
    assert!(said.contains("still running"), "{said}");
    let command = record(&bench, "cost.json").command.unwrap();
    assert_eq!((command.exit_status, command.left_running), (3, 1));
    let said = expect(0, bench.wattle(&["meter", "--json", "cost.json", "--", "true"]));
    assert!(!said.contains("still running"), "{said}");
    assert!(!fs::read_to_string(bench.join("cost.json")).unwrap().contains("left_running"));
}

#[test]
fn processor_time_is_the_same_on_the_screen_and_in_the_record() {
    let bench = Workbench::new();
    let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
    let said = expect(0, bench.wattle(&["meter", "--json", "cost.json", "--", "sh", "-c", script]));
    let cpu_s = record(&bench, "cost.json").resources.cpu_s.unwrap();
    assert!(cpu_s.get() > 0.0, "a command shorter than the time between two looks");
    let shown = wattle_report::words::quantity::duration(cpu_s);
    assert!(said.contains(&format!("CPU time {shown}")), "{shown}: {said}");
}

#[test]
fn a_parent_that_ignores_its_children_does_not_lose_the_exit_status() {
    let bench = Workbench::new();
    let mut command = Command::new("sh");
    let script = format!("trap '' CHLD; exec {} -q meter -- sh -c 'exit 3'", env!("CARGO_BIN_EXE_wattle"));
    command.current_dir(bench.path()).args(["-c", &script]);
    expect(3, command);
}

#[test]
fn a_board_that_is_not_there_is_warned_of_and_stands_in_the_record() {
    let bench = Workbench::new();
    let args = ["meter", "--json", "cost.json", "--gpus", "0,7", "--", "true"];
    let said = expect(0, with_boards(bench.wattle(&args), "2"));
    assert!(said.contains("--gpus 7") && said.contains("boards here: 0 ("), "{said}");
    let cost = record(&bench, "cost.json");
    assert_eq!((n_boards(&cost), cost.command.unwrap().unmetered_boards), (1, vec![7]));
    let mut command = bench.wattle(&args);
    command.env("NVML_LIBRARY", "/nonexistent/libnvidia-ml.so.1");
    let said = expect(0, command);
    assert!(said.contains("--gpus 0") && said.contains("--gpus 7"), "{said}");
    assert_eq!(record(&bench, "cost.json").command.unwrap().unmetered_boards, [0, 7]);
    expect(0, with_boards(bench.wattle(&["meter", "--json", "cost.json", "--gpus", "1", "--", "true"]), "2"));
    assert!(record(&bench, "cost.json").command.unwrap().unmetered_boards.is_empty());
}

#[test]
fn a_shown_board_that_gives_no_reading_is_named_as_not_metered() {
    let bench = Workbench::new();
    let mut command = with_boards(bench.wattle(&["meter", "--json", "cost.json", "--", "true"]), "1");
    command.env("NVML_STANDIN_NOT_SUPPORTED", "energy,power,instant,average");
    let said = expect(0, command);
    assert!(said.contains("not metered"), "{said}");
    assert_eq!(record(&bench, "cost.json").unmetered_devices, [format!("gpu:{}", nvml_standin::uuid(0))]);
}

#[test]
fn a_guessed_processor_is_called_one_where_its_figure_is_shown() {
    let bench = Workbench::new();
    let said = expect(0, bench.wattle(&["meter", "--json", "cost.json", "--", "true"]));
    let cost = record(&bench, "cost.json");
    // Where RAPL can be read there is nothing to guess.
    let Some(cpu) = cost.sensors.iter().find(|sensor| sensor.id == "cpu:estimate") else { return };
    assert!(cpu.flags.contains(&Flag::GuessedTdp) && cpu.uncertainty_j.is_none(), "{cpu:?}");
    let assumption = cpu.assumption.as_ref().unwrap();
    assert!(said.contains(&format!("assumes {assumption}")) && assumption.contains("a guess"), "{said}");
    assert_eq!(cost.energy_uncertainty_j, None);
    let output = bench.wattle(&["devices"]).output().unwrap();
    let devices = String::from_utf8(output.stdout).unwrap();
    assert!(devices.contains("a guess") && devices.contains("energy.cpu_tdp_w"), "{devices}");
}

#[test]
fn a_country_is_named_as_people_name_it() {
    let bench = Workbench::new();
    for (region, iso3) in [("UK", "GBR"), ("de", "DEU"), ("FR", "FRA"), ("Germany", "DEU"), ("usa", "USA")] {
        expect(0, bench.wattle(&["meter", "--json", "cost.json", "--region", region, "--", "true"]));
        assert_eq!(record(&bench, "cost.json").carbon.region, iso3, "{region}");
    }
    let said = expect(2, bench.wattle(&["meter", "--region", "Germny", "--", "true"]));
    assert!(said.contains("--region") && said.contains("Germany (DEU)"), "{said}");
}

#[test]
fn no_call_of_nvml_that_hangs_holds_a_command_or_changes_its_status() {
    let bench = Workbench::new();
    let mut hanging: Vec<String> = Vec::new();
    for call in [
        "nvmlInit_v2",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetName",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetFieldValues",
        "nvmlDeviceGetComputeRunningProcesses_v3",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ] {
        hanging.push(call.to_owned());
    }
    // While the command runs.
    hanging.push("nvmlDeviceGetTotalEnergyConsumption@0.4,nvmlDeviceGetFieldValues@0.4".to_owned());
    let commands: Vec<_> = hanging
        .iter()
        .enumerate()
        .map(|(i, hang)| {
            let json = format!("record-{i}.json");
            let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; sleep 1.5; exit 7";
            let mut command = with_board(bench.wattle(&["meter", "--json", &json, "--", "sh", "-c", script]));
            command.env("NVML_STANDIN_HANG", hang).stdout(Stdio::null()).stderr(Stdio::piped());
            (json, hang, command.spawn().unwrap())
        })
        .collect();
    for (json, hang, command) in commands {
        let output = command.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{hang}: {said}");
        let record = Record::from_json(fs::read_to_string(bench.join(&json)).unwrap().trim()).unwrap();
        let cpu = record.sensors.iter().find(|sensor| sensor.kind == SensorKind::Cpu).unwrap();
        assert!(cpu.energy_j.get() > 0.0, "{hang}: the processor's energy was lost with the board's");
        assert!(said.contains("driver hangs"), "{hang}: {said}");
    }
}

#[test]
fn a_record_that_cannot_be_written_does_not_change_the_status_of_the_command() {
    let bench = Workbench::new();
    let output =
        bench.wattle(&["meter", "--json", "/dev/full", "--", "sh", "-c", "exit 7"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("/dev/full"), "{said}");
}
