//! The grid beside a real run: a provider on this machine whose electricity becomes dirty and clean again.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use wattle_runlog::event::PauseReason;
use wattle_runlog::grid::{GridBasis, GridEntry};
use wattle_runlog::record::RecordKind;
use wattle_runlog::{EventBody, Joules, LineFile, Record, StopReason};

use crate::workbench::{Running, Workbench, expect, with_board};

/// The length of the provider's intervals.
const LEN_MS: i64 = 250;
/// Intervals that are forecast.
const AHEAD: i64 = 400;

/// Answers as the provider of Great Britain does, with short intervals.
struct Provider {
    url: String,
    /// The intensity now, in grams a kilowatt-hour.
    now_g: Arc<AtomicU64>,
    /// Head lines of every request.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    /// A provider whose figures are `forecast` of the start of an interval and what the intensity is now; they come true.
    fn start(now_g: u64, forecast: impl Fn(i64, u64) -> u64 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (now_g, asked) = (Arc::new(AtomicU64::new(now_g)), Arc::new(Mutex::new(Vec::new())));
        let (shown, seen) = (now_g.clone(), asked.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let now_g = shown.load(Ordering::SeqCst);
                let head = head(&stream);
                let body = match head.contains("fw48h") {
                    false => intervals(0..1, |from| (forecast(from, now_g), Some(forecast(from, now_g)))),
                    true => intervals(0..AHEAD, |from| (forecast(from, now_g), None)),
                };
                seen.lock().unwrap().push(head);
                answer(&mut stream, "200 OK", &body);
            }
        });
        Self { url, now_g, asked }
    }

    /// One whose electricity stays what it is, as far as it can foretell.
    fn steady(now_g: u64) -> Self {
        Self::start(now_g, |_, now_g| now_g)
    }

    fn set(&self, now_g: u64) {
        self.now_g.store(now_g, Ordering::SeqCst);
    }

    /// `wattle train` of a run of some seconds, with this provider and more settings.
    fn train(&self, bench: &Workbench, run: &str, more: &[&str]) -> Command {
        let url = format!("grid.url={}", self.url);
        let settings = ["grid.provider=uk", &url].into_iter().chain(more.iter().copied());
        train(bench, run, &settings.collect::<Vec<_>>())
    }
}

/// A run of some seconds.
fn train(bench: &Workbench, run: &str, more: &[&str]) -> Command {
    let some_seconds = ["train.epochs=40", "model.d_model=32", "model.context=32"];
    let settings = some_seconds.iter().chain(more).flat_map(|pair| ["--set", pair]);
    bench.train(&settings.chain(["--out", run, "--resume=auto"]).collect::<Vec<_>>())
}

fn head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    // What a client that gave up is told does not matter.
    let _ = stream.write_all(
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
            .as_bytes(),
    );
}

/// Intervals from the one that holds now on: what is forecast for each, and what it was.
fn intervals(which: std::ops::Range<i64>, figures: impl Fn(i64) -> (u64, Option<u64>)) -> String {
    let first = Timestamp::now().as_millisecond() / LEN_MS;
    let time = |interval: i64| Timestamp::from_millisecond(interval * LEN_MS).unwrap();
    let interval = |i: i64| {
        let (forecast, actual) = figures((first + i) * LEN_MS);
        let actual = actual.map_or("null".to_owned(), |actual| actual.to_string());
        format!(
            r#"{{"from":"{}","to":"{}","intensity":{{"forecast":{forecast},"actual":{actual}}}}}"#,
            time(first + i),
            time(first + i + 1)
        )
    };
    format!(r#"{{"data":[{}]}}"#, which.map(interval).collect::<Vec<_>>().join(","))
}

/// Waits until a run has as many pauses.
fn wait_for_pauses(bench: &Workbench, run: &str, n: usize) {
    while pauses(bench, run).len() < n {
        sleep(Duration::from_millis(5));
    }
}

/// The steps at which a run paused, and what for.
fn pauses(bench: &Workbench, run: &str) -> Vec<(u64, PauseReason)> {
    let pause = |body| match body {
        EventBody::Pause { step, reason, .. } => Some((step, reason)),
        _ => None,
    };
    bench.events(run).into_iter().filter_map(|event| pause(event.body)).collect()
}

fn stop(bench: &Workbench, run: &str) -> Option<(u64, StopReason)> {
    match bench.events(run).last()?.body {
        EventBody::Stop { step, reason } => Some((step, reason)),
        _ => None,
    }
}

/// Lets a run that pauses above 200 g/kWh begin, makes its electricity dirty, and waits until it paused.
fn paused(bench: &Workbench, provider: &Provider, run: &str, more: &[&str]) -> Running {
    let child = Running::start(provider.train(bench, run, &[&["grid.pause_above_g=200"], more].concat()));
    while bench.steps(run).len() < 5 {
        sleep(Duration::from_millis(2));
    }
    provider.set(500);
    wait_for_pauses(bench, run, 1);
    child
}

fn weights(bench: &Workbench, run: &str) -> Vec<u8> {
    let newest =
        bench.list(&format!("{run}/checkpoints")).into_iter().rfind(|name| name.starts_with("step-"));
    fs::read(bench.join(run).join("checkpoints").join(newest.unwrap()).join("model.safetensors")).unwrap()
}

#[test]
fn a_run_that_paused_is_the_same_to_the_bit_and_its_idle_joules_and_what_they_saved_are_told() {
    let bench = Workbench::new();
    expect(0, train(&bench, "plain", &[]));
    let provider = Provider::steady(100);
    let mut child = paused(&bench, &provider, "run", &[]);
    sleep(Duration::from_millis(600));
    let made = bench.steps("run").len();
    sleep(Duration::from_millis(200));
    assert_eq!(bench.steps("run").len(), made, "it stands still");
    provider.set(100);
    assert!(child.0.wait().unwrap().success());
    assert_eq!(bench.losses("run"), bench.losses("plain"));
    assert!(weights(&bench, "run") == weights(&bench, "plain"), "other weights");

    let found = pauses(&bench, "run");
    assert!(found[0].0 >= 5 && found[0].1 == PauseReason::Above, "{found:?}");
    let records = bench.records("run");
    let whole = records.last().unwrap();
    assert!(whole.phases.paused > Joules::ZERO, "{whole:?}");
    let of_epochs = records.iter().filter(|record| record.kind == RecordKind::Epoch);
    let booked: Joules = of_epochs.map(|record| record.phases.paused).sum();
    assert!((booked - whole.phases.paused).get().abs() < 1e-6);
    let grid = whole.carbon.grid.as_ref().unwrap();
    assert_eq!((grid.origin.provider.as_str(), grid.origin.zone.as_str()), ("uk", "GB"));
    assert!(grid.known_fraction() > 0.99 && grid.live_fraction > 0.5, "{grid:?}");
    let mean = whole.carbon.intensity_g_per_kwh.get();
    assert!(mean > 100.0 && mean < 500.0, "dirty joules have the dirty price: {mean}");

    let output = bench.wattle(&["report", "run", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let waiting = &report["waiting"];
    let figure = |key: &str| waiting[key].as_f64().unwrap();
    assert!(figure("time_s") > 0.8 && figure("idle_j") > 0.0, "{waiting}");
    assert!(figure("at_once_g") > figure("work_g"), "at once it would have met the dirty seconds: {waiting}");
    let net = figure("at_once_g") - figure("work_g") - figure("idle_g");
    assert!((figure("saved_g") - net).abs() < 1e-12);
    let text = String::from_utf8(bench.wattle(&["report", "run"]).output().unwrap().stdout).unwrap();
    for words in ["  waiting ", "  saved ", "paused", "direct CO2, by the moment of use"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let compared = bench.wattle(&["compare", "plain", "run"]).output().unwrap().stdout;
    let compared = String::from_utf8(compared).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        compared.contains("some waited for cleaner electricity, and their energy counts it"),
        "{compared}"
    );
    let before = compared.split(" g/kWh (GB)").next().unwrap();
    assert!(before.rsplit(' ').next().unwrap().len() <= "499.9".len(), "one decimal: {compared}");
    let page = fs::read_to_string(bench.join("run/report.html")).unwrap();
    assert!(page.contains("Waiting for cleaner electricity took") && page.contains("shade paused"));
    let log = fs::read_to_string(bench.join("run/train.log")).unwrap();
    assert!(log.contains("paused at 500 g/kWh, above grid.pause_above_g = 200"), "{log}");
}

#[test]
fn a_signal_in_a_pause_leaves_a_checkpoint_and_the_run_goes_on_from_it() {
    let bench = Workbench::new();
    expect(0, train(&bench, "plain", &[]));
    let provider = Provider::steady(100);
    let mut child = paused(&bench, &provider, "run", &["checkpoint.every_steps=0"]);
    child.signal(Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(75));
    let step = pauses(&bench, "run")[0].0;
    assert_eq!(stop(&bench, "run"), Some((step, StopReason::Signal)));
    provider.set(100);
    expect(0, provider.train(&bench, "run", &["grid.pause_above_g=200", "checkpoint.every_steps=0"]));
    assert_eq!(bench.losses("run"), bench.losses("plain"));
    assert_eq!(stop(&bench, "run").map(|(_, reason)| reason), Some(StopReason::Done));
}

#[test]
fn what_a_run_drew_that_was_killed_in_a_pause_is_booked_as_idle_and_at_the_grids_price() {
    let bench = Workbench::new();
    let provider = Provider::steady(100);
    let child = paused(&bench, &provider, "run", &[]);
    // Beyond the second after which the trace is made durable.
    sleep(Duration::from_millis(1500));
    child.signal(Signal::KILL);
    drop(child);
    provider.set(100);
    expect(0, train(&bench, "run", &[]));
    let records = bench.records("run");
    let tail = records.iter().find(|record| record.kind == RecordKind::Interrupted).unwrap();
    assert!(tail.phases.paused.get() > 0.5 * tail.energy_j.get(), "{tail:?}");
    let grid = tail.carbon.grid.as_ref().unwrap();
    assert!(grid.known_fraction() > 0.9, "{grid:?}");
    assert!(tail.carbon.intensity_g_per_kwh.get() > 100.0, "{:?}", tail.carbon);
}

#[test]
fn idle_joules_count_against_a_budget() {
    let bench = Workbench::new();
    let provider = Provider::steady(500);
    let settings = ["grid.pause_above_g=200", "energy.gpus=all", "budget.max_energy_kwh=0.0005"];
    expect(0, with_board(provider.train(&bench, "run", &settings)));
    assert_eq!(stop(&bench, "run"), Some((0, StopReason::Budget)));
    assert_eq!(pauses(&bench, "run"), [(0, PauseReason::Above)]);
    let whole = bench.records("run").pop().unwrap();
    assert!(whole.phases.paused.get() > 0.5 * whole.energy_j.get(), "{:?}", whole.phases);
}

#[test]
fn a_run_starts_in_the_cleanest_hours_and_ends_as_one_that_did_not_wait() {
    let bench = Workbench::new();
    expect(0, train(&bench, "plain", &[]));
    // Clean from eight seconds after the first question on: ten steps take less, also beside other tests.
    let clean_from = Mutex::new(None);
    let provider = Provider::start(500, move |from, _| {
        let now = Timestamp::now().as_millisecond();
        let clean_from = *clean_from.lock().unwrap().get_or_insert(now + 8_000);
        if from >= clean_from { 20 } else { 500 }
    });
    let settings = ["grid.start=cleanest", "grid.deadline=1m30s"];
    let said = expect(0, provider.train(&bench, "run", &settings));
    assert!(said.contains("for 20 g/kWh instead of"), "{said}");
    let found = pauses(&bench, "run");
    assert!(found.len() == 1 && found[0].1 == PauseReason::Cleanest && found[0].0 >= 10, "{found:?}");
    assert_eq!(bench.losses("run"), bench.losses("plain"));
    let entries = LineFile::read(&bench.join("run/grid.jsonl"), GridEntry::from_json).unwrap().entries;
    assert!(entries.iter().any(|entry| entry.basis == GridBasis::Forecast && entry.g_per_kwh.get() == 20.0));
}

#[test]
fn a_provider_that_does_not_answer_holds_nothing_up_and_the_table_prices_instead() {
    let bench = Workbench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("grid.url=http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = [
        "grid.provider=uk",
        &url,
        "grid.pause_above_g=1",
        "grid.start=cleanest",
        "grid.deadline=1h",
        "carbon.region=FRA",
    ];
    let said = expect(0, train(&bench, "run", &settings));
    assert_eq!(said.matches("grid: http://").count(), 1, "once: {said}");
    assert!(said.contains("a table or a fixed intensity prices energy"), "{said}");
    let whole = bench.records("run").pop().unwrap();
    assert_eq!(whole.carbon.grid.as_ref().unwrap().known_fraction(), 0.0);
    assert!(whole.carbon.basis.contains("100.0 % by lifecycle of FRA"), "{}", whole.carbon.basis);
    assert_eq!(pauses(&bench, "run"), []);
}

/// A provider that wants a key: answers for the zone DE, and refuses other keys than "s3cret-key".
fn with_key() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("grid.url=http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let head = head(&stream);
            let now = Timestamp::now();
            let body =
                format!(r#"{{"zone":"DE","carbonIntensity":321,"datetime":"{now}","isEstimated":true}}"#);
            match (head.contains("auth-token: s3cret-key"), head.contains("zone=DE")) {
                (false, _) => answer(&mut stream, "401 Unauthorized", "{}"),
                (true, false) => answer(&mut stream, "404 Not Found", r#"{"error":"no such zone"}"#),
                (true, true) => answer(&mut stream, "200 OK", &body),
            }
            seen.lock().unwrap().push(head);
        }
    });
    (url, asked)
}

#[test]
fn a_key_comes_from_the_environment_and_is_written_nowhere() {
    let bench = Workbench::new();
    let (url, _asked) = with_key();
    let settings = ["grid.provider=electricity_maps", "grid.zone=DE", &url, "train.max_steps=3"];
    let mut command = train(&bench, "run", &settings);
    command.env("ELECTRICITY_MAPS_API_KEY", "s3cret-key");
    let said = expect(0, command);
    let whole = bench.records("run").pop().unwrap();
    assert_eq!(whole.carbon.intensity_g_per_kwh.get().round(), 321.0);
    let grid = whole.carbon.grid.as_ref().unwrap();
    assert!(grid.estimated_fraction > 0.99 && grid.origin.counts == "lifecycle", "{grid:?}");
    assert!(!said.contains("s3cret"));
    for (path, content) in bench.content(".") {
        assert!(!content.windows(6).any(|bytes| bytes == b"s3cret"), "{}", path.display());
    }
}

#[test]
fn a_wrong_key_or_zone_is_refused_before_anything_is_made() {
    let bench = Workbench::new();
    let (url, _asked) = with_key();
    let url = url.as_str();
    let open_line = "grid.url=http://203.0.113.1";
    for (zone, url, key, words) in [
        (
            "grid.zone=DE",
            Some(url),
            Some("other"),
            "refused the key in ELECTRICITY_MAPS_API_KEY (401 Unauthorized)",
        ),
        ("grid.zone=XX", Some(url), Some("s3cret-key"), "grid.zone = \"XX\": "),
        ("grid.zone=DE", None, None, "ELECTRICITY_MAPS_API_KEY, which is not set"),
        ("grid.zone=DE", Some(open_line), Some("s3cret-key"), "is sent over https alone"),
    ] {
        let settings: Vec<&str> = ["grid.provider=electricity_maps", zone].into_iter().chain(url).collect();
        let mut command = train(&bench, "run", &settings);
        command.env_remove("ELECTRICITY_MAPS_API_KEY");
        key.iter().for_each(|key| {
            command.env("ELECTRICITY_MAPS_API_KEY", key);
        });
        let said = expect(2, command);
        assert!(said.contains(words) && !said.contains("s3cret"), "{said}");
        assert!(!bench.join("run").exists());
    }
}

#[test]
fn a_dry_run_says_what_would_be_asked_and_asks_nobody() {
    let bench = Workbench::new();
    let provider = Provider::steady(100);
    let url = format!("grid.url={}", provider.url);
    let settings = [
        "grid.provider=uk",
        "grid.zone=GB-13",
        &url,
        "grid.start=cleanest",
        "grid.deadline=8h",
        "grid.pause_above_g=250",
    ];
    let args = settings.iter().flat_map(|pair| ["--set", pair]).chain(["--dry-run"]).collect::<Vec<_>>();
    let output = bench.train(&args).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for words in [
        &format!("would ask {}/regional/regionid/13 and {}/regional/intensity/", provider.url, provider.url),
        "in the cleanest hours that end by 8h",
        "while the grid emits at most 250 g/kWh",
        "nothing yet: no run on this machine has asked",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(provider.asked.lock().unwrap().len(), 0);
}

/// The record of `wattle meter` with a board and more flags, and what it said.
fn metered(bench: &Workbench, args: &[&str], key: Option<&str>, seconds: &str) -> (Record, String) {
    let args = [&["meter", "--json", "cost.json", "--gpus", "all"], args, &["--", "sleep", seconds]].concat();
    let mut command = with_board(bench.wattle(&args));
    key.iter().for_each(|key| {
        command.env("ELECTRICITY_MAPS_API_KEY", key);
    });
    let said = expect(0, command);
    (Record::from_json(fs::read_to_string(bench.join("cost.json")).unwrap().trim()).unwrap(), said)
}

#[test]
fn a_metered_command_pays_for_each_joule_what_it_cost_at_its_moment() {
    let bench = Workbench::new();
    let provider = Provider::steady(100);
    let now_g = provider.now_g.clone();
    std::thread::spawn(move || {
        sleep(Duration::from_millis(1500));
        now_g.store(500, Ordering::SeqCst);
    });
    let (record, said) = metered(&bench, &["--grid", "uk", "--grid-url", &provider.url], None, "3");
    let grid = record.carbon.grid.as_ref().unwrap();
    assert_eq!((grid.origin.provider.as_str(), grid.origin.zone.as_str()), ("uk", "GB"));
    assert!(grid.live_fraction > 0.5 && grid.known_fraction() > 0.9, "{grid:?}");
    let mean = record.carbon.intensity_g_per_kwh.get();
    assert!(mean > 150.0 && mean < 450.0, "{mean}");
    let grams = mean * record.facility_kwh;
    assert!((record.emissions_g.get() - grams).abs() < 1e-9 * grams, "{record:?}");
    assert!(said.contains("g/kWh in GB by uk (direct CO2, by the moment of use: "), "{said}");
}

#[test]
fn metered_commands_share_answers_and_a_key_is_written_nowhere() {
    let bench = Workbench::new();
    let (url, asked) = with_key();
    let url = url.trim_start_matches("grid.url=");
    let args = ["--grid", "electricity_maps", "--grid-zone", "DE", "--grid-url", url];
    for _ in 0..2 {
        let (record, said) = metered(&bench, &args, Some("s3cret-key"), "0.3");
        assert_eq!(record.carbon.intensity_g_per_kwh.get().round(), 321.0);
        assert!(!said.contains("s3cret"));
    }
    assert_eq!(asked.lock().unwrap().len(), 1, "the second command was told what the first had asked");
    for (path, content) in bench.content(".") {
        assert!(!content.windows(6).any(|bytes| bytes == b"s3cret"), "{}", path.display());
    }
}

#[test]
fn a_metered_command_whose_provider_is_silent_is_priced_by_its_region_and_told_so() {
    let bench = Workbench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let args = ["--grid", "uk", "--grid-url", &url, "--region", "FRA"];
    let (record, said) = metered(&bench, &args, None, "0.3");
    assert!(said.contains("a fixed intensity prices energy"), "{said}");
    assert_eq!(record.carbon.grid.as_ref().unwrap().known_fraction(), 0.0);
    assert!(record.carbon.basis.contains("100.0 % by lifecycle of FRA"), "{}", record.carbon.basis);
}

#[test]
fn a_metered_command_does_not_start_with_a_key_or_zone_that_is_refused() {
    let bench = Workbench::new();
    let (url, _asked) = with_key();
    let url = url.trim_start_matches("grid.url=");
    for (args, words) in [
        (&["--grid", "electricity_maps", "--grid-zone", "DE", "--grid-url", url][..], "refused the key"),
        (
            &["--grid", "electricity_maps", "--grid-zone", "DE"],
            "--grid = \"electricity_maps\": expected a key",
        ),
        (&["--grid", "electricity_maps"], "--grid-zone is not set: expected a zone key"),
        (&["--grid", "uk", "--grid-zone", "DE"], "--grid-zone = \"DE\": expected \"GB\""),
        (&["--grid-zone", "DE"], "name it with --grid"),
        (&["--grid", "coal"], "possible values: none, electricity_maps, uk"),
    ] {
        let mut command = bench.wattle(&[&["meter"], args, &["--", "touch", "started"]].concat());
        command.env_remove("ELECTRICITY_MAPS_API_KEY");
        if args.contains(&"--grid-url") {
            command.env("ELECTRICITY_MAPS_API_KEY", "other");
        }
        let said = expect(2, command);
        assert!(said.contains(words), "{said}");
        assert!(!bench.join("started").exists());
    }
}
