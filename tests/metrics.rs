//! Live figures as Prometheus reads them, while a run or a command is under way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::{fs, io};

use rustix::process::Signal;

use crate::workbench::{Running, Workbench, expect, with_board};

/// The answer to a request such as `GET /metrics`, head and body.
fn get(addr: &str, request: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.to_owned(), body.to_owned()))
}

fn page(addr: &str) -> String {
    let (head, body) = get(addr, "GET /metrics").unwrap();
    assert!(head.contains(" 200 ") && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    body
}

/// The value of the one line of `name` that has all of `labels`.
fn value(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_it = |line: &&str| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    };
    let line = page.lines().find(is_it)?;
    line.rsplit(' ').next().unwrap().parse().ok()
}

/// Waits for what a program says of its address.
fn address(said: impl Fn() -> String) -> String {
    loop {
        if let Some((_, rest)) = said().split_once("live figures at http://") {
            return rest.split_once("/metrics").unwrap().0.to_owned();
        }
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_shows_its_sensors_and_its_progress_while_it_goes_on() {
    let bench = Workbench::new();
    let args = [
        "energy.gpus=all",
        "energy.metrics_addr=127.0.0.1:0",
        "cost.price_per_kwh=0.3",
        "carbon.intensity_g_per_kwh=100",
        "evaluate.every_steps=10",
        "train.epochs=1000",
    ];
    let args: Vec<&str> = args.iter().flat_map(|pair| ["--set", pair]).chain(["--out", "run"]).collect();
    let run = Running::start(with_board(bench.train(&args)));
    let addr = address(|| fs::read_to_string(bench.join("run/train.log")).unwrap_or_default());
    while value(&page(&addr), "wattle_run_loss", &["split=\"val\""]).is_none() {
        sleep(Duration::from_millis(5));
    }
    let board = ["kind=\"gpu\"", "method=\"counter\""];
    let (first, step) = (page(&addr), bench.steps("run").len());
    assert_eq!(value(&first, "wattle_sensor_power_watts", &board), Some(300.0), "{first}");
    while bench.steps("run").len() < step + 200 {
        sleep(Duration::from_millis(5));
    }
    let second = page(&addr);
    for (name, labels) in [
        ("wattle_sensor_energy_joules_total", &board[..]),
        ("wattle_sensor_energy_joules_total", &["kind=\"cpu\""]),
        ("wattle_run_step", &[]),
        ("wattle_run_tokens", &[]),
        ("wattle_run_energy_joules", &[]),
        ("wattle_run_emissions_grams", &[]),
        ("wattle_run_cost", &["currency=\"EUR\""]),
    ] {
        let (before, after) = (value(&first, name, labels), value(&second, name, labels));
        assert!(before < after && before.is_some(), "{name}{labels:?}: {before:?}, {after:?}");
    }
    let of_run = |name: &str| value(&second, name, &["run=\"small-"]).unwrap();
    let kwh = of_run("wattle_run_energy_joules") / 3.6e6;
    assert!((of_run("wattle_run_emissions_grams") / kwh - 100.0).abs() < 1e-6);
    assert!((of_run("wattle_run_cost") / kwh - 0.3).abs() < 1e-6);
    assert_eq!(of_run("wattle_run_planned_steps"), 12_000.0);

    // What is shown is what is written.
    let shown = of_run("wattle_run_step");
    let written = loop {
        match bench.steps("run").into_iter().find(|event| event.step as f64 == shown) {
            Some(event) => break event,
            None => sleep(Duration::from_millis(5)),
        }
    };
    assert_eq!(of_run("wattle_run_tokens"), written.tokens as f64);
    let loss = value(&second, "wattle_run_loss", &["split=\"train\""]).unwrap();
    assert_eq!(loss, f64::from(written.loss));

    assert!(get(&addr, "GET /").unwrap().0.contains(" 404 "));
    assert!(get(&addr, "POST /metrics").unwrap().0.contains(" 405 "));
    run.signal(Signal::TERM);
}

/// What a process holds: threads, open files, and the most memory that it ever had, in kB.
fn held(pid: u32) -> (usize, usize, u64) {
    let entries = |name: &str| fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    (entries("task"), entries("fd"), peak.trim_end_matches("kB").trim().parse().unwrap())
}

/// Hostile clients at a time, and in all unless `WATTLE_HOSTILE_CLIENTS` says otherwise.
const CLIENTS: u64 = 150;

#[test]
fn hostile_clients_cost_a_run_neither_threads_nor_files_nor_memory_nor_its_end() {
    let bench = Workbench::new();
    let args = ["--set", "energy.metrics_addr=127.0.0.1:0", "--set", "train.epochs=1000", "--out", "run"];
    let mut run = Running::start(bench.train(&args));
    let addr = address(|| fs::read_to_string(bench.join("run/train.log")).unwrap_or_default());
    while bench.steps("run").len() < 20 {
        sleep(Duration::from_millis(5));
    }
    let (threads, files, memory) = held(run.0.id());

    // Whole connections beyond the kernel's queue are refused or wait; those of a crowd stay open until the next.
    let connect = || TcpStream::connect_timeout(&addr.parse().unwrap(), Duration::from_millis(200));
    let n_clients = fuzz::size("WATTLE_HOSTILE_CLIENTS", CLIENTS);
    let mut clients: Vec<TcpStream> = Vec::new();
    for n in 0..n_clients {
        if n % CLIENTS == 0 {
            clients.clear();
        }
        let Ok(mut client) = connect() else { continue };
        client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        // Whatever a server does with these, even closing them, is fine.
        let _ = match n % 4 {
            0 => client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"),
            1 => client.write_all(&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000)),
            2 => client.write_all(&[b"GET /metrics HTTP/1.1\r\n", &b"x: y\r\n".repeat(100_000)[..]].concat()),
            _ => Ok(()),
        };
        clients.push(client);
    }
    println!("attack: hostile clients: {n_clients} cases, 0 failures");
    let steps = bench.steps("run").len();
    while bench.steps("run").len() < steps + 500 {
        sleep(Duration::from_millis(5));
    }
    let (more_threads, more_files, more_memory) = held(run.0.id());
    // The server's eight connections, and the trainer's own files of a checkpoint.
    assert!(more_threads <= threads + 1, "{threads} threads, then {more_threads}");
    assert!(more_files <= files + 8 + 4, "{files} files, then {more_files}");
    assert!(more_memory <= memory + 16 * 1024, "{memory} kB, then {more_memory}");

    let asked = std::time::Instant::now();
    run.signal(Signal::TERM);
    assert_eq!(run.0.wait().unwrap().code(), Some(75));
    assert!(asked.elapsed() < Duration::from_secs(30), "the end waited for clients");
    drop(clients);
}

#[test]
fn figures_for_other_machines_need_a_token() {
    let bench = Workbench::new();
    let args = ["--set", "energy.metrics_addr=0.0.0.0:0", "--set", "train.epochs=1000", "--out", "run"];
    let said = expect(0, bench.train(&["--set", "energy.metrics_addr=0.0.0.0:0", "--out", "open"]));
    assert!(said.contains("WATTLE_METRICS_TOKEN") && said.contains("are not served"), "{said}");

    let mut command = bench.train(&args);
    command.env("WATTLE_METRICS_TOKEN", "s3cret");
    let run = Running::start(command);
    let addr = address(|| fs::read_to_string(bench.join("run/train.log")).unwrap_or_default());
    let addr = addr.replace("0.0.0.0", "127.0.0.1");
    assert!(get(&addr, "GET /metrics").unwrap().0.contains(" 401 "));
    let with_token = "GET /metrics HTTP/1.0\r\nAuthorization: Bearer s3cret\r\nX: ";
    assert!(get(&addr, with_token).unwrap().0.contains(" 200 "));
    run.signal(Signal::TERM);
}

#[test]
fn an_address_that_is_taken_costs_the_figures_and_not_the_run() {
    let bench = Workbench::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("energy.metrics_addr={}", taken.local_addr().unwrap());
    let said = expect(0, bench.train(&["--out", "run", "--set", &addr]));
    assert!(said.contains(&addr.replace('=', " = ")) && said.contains("are not served"), "{said}");
    assert_eq!(bench.steps("run").len(), 36);
}

#[test]
fn a_metered_command_shows_its_sensors() {
    let bench = Workbench::new();
    let said = fs::File::create(bench.join("said")).unwrap();
    let mut command =
        with_board(bench.wattle(&["meter", "--metrics-addr", "127.0.0.1:0", "--", "sleep", "100"]));
    command.stdout(Stdio::null()).stderr(said);
    let mut metering = Running(command.spawn().unwrap());
    let addr = address(|| fs::read_to_string(bench.join("said")).unwrap());
    let energy =
        || value(&page(&addr), "wattle_sensor_energy_joules_total", &["run=\"command-", "kind=\"gpu\""]);
    let first = energy();
    while energy() <= first {
        sleep(Duration::from_millis(20));
    }
    metering.signal(Signal::TERM);
    assert_eq!(metering.0.wait().unwrap().code(), Some(128 + 15));
}
