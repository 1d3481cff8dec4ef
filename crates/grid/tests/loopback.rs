//! Providers on this machine: they answer, are busy, fall behind, fall silent, and have another idea of the time.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use wattle_grid::{Grid, GridConfig, GridError};
use wattle_runlog::grid::GridUse;
use wattle_runlog::{GramsPerKwh, MonotonicNs};

/// What a request was: its path and when it came.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    at: Instant,
}

/// An answer: status line, more headers, body.
type Answer = (&'static str, String, String);

/// A server that answers each request as a script says, by the number of the request and its path.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(script: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(&stream, &seen, &script);
            }
        });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    fn wait_for(&self, n: usize) -> Vec<Asked> {
        while self.asked().len() < n {
            sleep(Duration::from_millis(5));
        }
        self.asked()
    }

    fn config(&self, provider: &str, cache: &tempfile::TempDir, more: &str) -> GridConfig {
        let toml = format!(
            "provider = {provider:?}\nurl = {:?}\ncache_dir = {:?}\n{more}",
            self.url,
            cache.path().display().to_string()
        );
        let config: GridConfig = toml::from_str(&toml).unwrap();
        assert_eq!(config.faults(), Vec::<String>::new());
        config
    }
}

fn answer(mut stream: &TcpStream, seen: &Mutex<Vec<Asked>>, script: &dyn Fn(usize, &str) -> Answer) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(path) = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)) else { return };
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(Asked { path: path.clone(), at: Instant::now() });
        seen.len() - 1
    };
    let (status, headers, body) = script(number, &path);
    // What a client that gave up is told does not matter.
    let _ = stream.write_all(
        format!(
            "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
}

fn ok(body: String) -> Answer {
    ("200 OK", String::new(), body)
}

fn status(line: &'static str) -> Answer {
    (line, String::new(), String::new())
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

fn time(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// A national answer with one interval.
fn uk(from_ms: i64, to_ms: i64, actual: f64) -> String {
    format!(
        r#"{{"data":[{{"from":"{}","to":"{}","intensity":{{"forecast":1,"actual":{actual},"index":"low"}}}}]}}"#,
        time(from_ms),
        time(to_ms)
    )
}

fn uk_hour(actual: f64) -> String {
    uk(now_ms() - 1_800_000, now_ms() + 1_800_000, actual)
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn start(config: &GridConfig) -> Grid {
    Grid::start(config).unwrap().unwrap()
}

fn now(grid: &Grid) -> Option<(GramsPerKwh, GridUse)> {
    grid.known().at(MonotonicNs::now())
}

#[test]
fn each_interval_is_asked_for_once() {
    const LEN_MS: i64 = 300;
    let intervals = Arc::new(Mutex::new(Vec::new()));
    let asked_for = intervals.clone();
    let server = Server::start(move |_, path| {
        assert_eq!(path, "/intensity");
        let interval = now_ms() / LEN_MS;
        asked_for.lock().unwrap().push(interval);
        ok(uk(interval * LEN_MS, (interval + 1) * LEN_MS, interval as f64 % 1000.0))
    });
    let cache = dir();
    let grid = start(&server.config("uk", &cache, ""));
    server.wait_for(5);
    let asked = intervals.lock().unwrap().clone();
    assert!(asked.windows(2).all(|pair| pair[0] < pair[1]), "{asked:?}");
    let learnt = grid.news(7);
    assert!(learnt.len() >= 4 && learnt.iter().all(|entry| entry.segment == 7 && entry.origin.zone == "GB"));
    for entry in &learnt {
        assert_eq!(entry.to_ns.0 - entry.from_ns.0, LEN_MS as u64 * 1_000_000);
        let interval: Timestamp = entry.from.parse().unwrap();
        // Wall times are rounded to milliseconds.
        let interval = (interval.as_millisecond() + 1) / LEN_MS;
        assert_eq!(entry.g_per_kwh.get(), interval as f64 % 1000.0);
    }
}

#[test]
fn what_one_process_was_told_another_does_not_ask_again() {
    let server = Server::start(|_, _| ok(uk_hour(250.0)));
    let cache = dir();
    let config = server.config("uk", &cache, "");
    let (first, second) = (start(&config), start(&config));
    assert_eq!(server.asked().len(), 1);
    assert_eq!(now(&first), Some((GramsPerKwh(250.0), GridUse::Live)));
    assert_eq!(now(&second), now(&first));
    // A run that wants a forecast finds none, and asks for both.
    let forecast = server.config("uk", &cache, "pause_above_g = 100.0");
    drop(start(&forecast));
    let paths: Vec<String> = server.asked().into_iter().map(|asked| asked.path).collect();
    assert!(
        paths.len() == 3 && paths[2].starts_with("/intensity/") && paths[2].ends_with("/fw48h"),
        "{paths:?}"
    );
    drop(start(&forecast));
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn a_provider_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
    let server = Server::start(|number, _| match number {
        0 => ("429 Too Many Requests", "retry-after: 3\r\n".to_owned(), String::new()),
        _ => ok(uk_hour(250.0)),
    });
    let cache = dir();
    let config = server.config("uk", &cache, "");
    let grid = start(&config);
    assert_eq!(now(&grid), None);
    // Another process does not ask meanwhile either.
    let other = start(&config);
    assert_eq!((now(&other), server.asked().len()), (None, 1));
    let asked = server.wait_for(2);
    assert!(asked[1].at - asked[0].at >= Duration::from_millis(2990), "{asked:?}");
    while now(&grid).is_none() || now(&other).is_none() {
        sleep(Duration::from_millis(5));
    }
    assert_eq!(server.asked().len(), 2, "one of them asked for both");
}

#[test]
fn in_an_outage_the_last_figure_holds_for_another_interval_and_then_nothing_is_known() {
    const LEN_MS: i64 = 400;
    let server = Server::start(|number, _| match number {
        0 => ok(uk(now_ms() - 10, now_ms() - 10 + LEN_MS, 250.0)),
        1..=4 => status("503 Service Unavailable"),
        _ => ok(uk_hour(100.0)),
    });
    let cache = dir();
    let grid = start(&server.config("uk", &cache, ""));
    let known = grid.known();
    let row = known.rows()[0];
    let at = |ms: u64| known.at(MonotonicNs(row.from.0 + ms * 1_000_000)).map(|(_, by)| by);
    assert_eq!([200, 600, 1000].map(at), [Some(GridUse::Live), Some(GridUse::Held), None]);
    // It answers again.
    server.wait_for(6);
    while now(&grid).is_none_or(|(intensity, _)| intensity != GramsPerKwh(100.0)) {
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_is_not_there_is_an_outage_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let server = Server { url, asked: Arc::default() };
    let cache = dir();
    let grid = start(&server.config("uk", &cache, "start = \"cleanest\"\ndeadline = \"8h\""));
    assert_eq!(now(&grid), None);
}

#[test]
fn a_stale_figure_is_not_taken_for_that_of_now() {
    let server = Server::start(|_, _| {
        let hours_ago = time(now_ms() - 5 * 3_600_000);
        ok(format!(r#"{{"zone":"DE","carbonIntensity":300,"datetime":"{hours_ago}","isEstimated":false}}"#))
    });
    let cache = dir();
    let grid = start(&server.config("electricity_maps", &cache, "zone = \"DE\""));
    assert_eq!((now(&grid), grid.known().rows().len()), (None, 1));
}

#[test]
fn a_zone_that_the_provider_does_not_know_is_an_error_that_names_it() {
    let unknown = Server::start(|_, _| {
        ("404 Not Found", String::new(), r#"{"error":"Zone 'XX' does not exist."}"#.to_owned())
    });
    let elsewhere = Server::start(|_, path| {
        assert_eq!(path, "/carbon-intensity/latest?zone=XX");
        let now = time(now_ms());
        ok(format!(r#"{{"zone":"FR","carbonIntensity":30,"datetime":"{now}"}}"#))
    });
    for (server, words) in [(unknown, "does not exist"), (elsewhere, "answered for FR")] {
        let cache = dir();
        let error = Grid::start(&server.config("electricity_maps", &cache, "zone = \"XX\"")).err().unwrap();
        assert!(matches!(error, GridError::UnknownZone { .. }), "{error}");
        let said = error.to_string();
        assert!(said.starts_with("grid.zone = \"XX\"") && said.contains(words), "{said}");
    }
}

#[test]
fn a_start_in_the_cleanest_hours_needs_a_provider_that_has_a_forecast() {
    let server = Server::start(|_, path| match path.contains("latest") {
        true => ok(format!(r#"{{"zone":"DE","carbonIntensity":30,"datetime":"{}"}}"#, time(now_ms()))),
        false => status("403 Forbidden"),
    });
    let cache = dir();
    let cleanest = "zone = \"DE\"\nstart = \"cleanest\"\ndeadline = \"8h\"";
    let error = Grid::start(&server.config("electricity_maps", &cache, cleanest)).err().unwrap();
    assert!(matches!(error, GridError::NoForecast { .. }), "{error}");
    // A pause needs none.
    let grid = start(&server.config("electricity_maps", &cache, "zone = \"DE\"\npause_above_g = 10.0"));
    assert_eq!(now(&grid), Some((GramsPerKwh(30.0), GridUse::Live)));
}

#[test]
fn where_this_machines_clock_is_wrong_the_providers_counts() {
    // The provider lives three days ahead, and says so.
    const AHEAD_MS: i64 = 3 * 86_400_000;
    let server = Server::start(|_, _| {
        let there = now_ms() + AHEAD_MS;
        let date = Timestamp::from_millisecond(there).unwrap().strftime("%a, %d %b %Y %H:%M:%S GMT");
        ("200 OK", format!("date: {date}\r\n"), uk(there - 60_000, there + 60_000, 250.0))
    });
    let cache = dir();
    let config = server.config("uk", &cache, "");
    let grid = start(&config);
    assert_eq!(now(&grid), Some((GramsPerKwh(250.0), GridUse::Live)));
    let there = grid.clock().wall_ns_at(MonotonicNs::now()) / 1_000_000 - now_ms();
    assert!((there - AHEAD_MS).abs() < 60_000, "{there}");
    // What is kept for others follows the monotonic clock: it is fresh, whatever the wall clock says.
    let other = start(&config);
    assert_eq!((now(&other), server.asked().len()), (now(&grid), 1));
}

#[test]
fn a_redirect_is_not_followed_and_nonsense_is_no_figure() {
    let other = Server::start(|_, _| ok(uk_hour(1.0)));
    let location = format!("location: {}/intensity\r\n", other.url);
    let redirect = Server::start(move |_, _| ("302 Found", location.clone(), String::new()));
    let nonsense = Server::start(|_, _| ok("<html>maintenance</html>".to_owned()));
    for server in [&redirect, &nonsense] {
        let cache = dir();
        assert_eq!(now(&start(&server.config("uk", &cache, ""))), None);
    }
    assert_eq!(other.asked().len(), 0);
}

#[test]
fn a_forecast_that_says_the_same_again_is_no_news() {
    const LEN_MS: i64 = 200;
    let server = Server::start(|_, path| {
        let first = now_ms() / LEN_MS;
        let n = if path.ends_with("fw48h") { 50 } else { 1 };
        let intervals: Vec<String> = (first..first + n)
            .map(|i| {
                let (from, to) = (time(i * LEN_MS), time((i + 1) * LEN_MS));
                format!(r#"{{"from":"{from}","to":"{to}","intensity":{{"forecast":{}}}}}"#, i % 500)
            })
            .collect();
        ok(format!(r#"{{"data":[{}]}}"#, intervals.join(",")))
    });
    let cache = dir();
    let grid = start(&server.config("uk", &cache, "pause_above_g = 1000.0"));
    assert_eq!(grid.news(0).len(), 50);
    server.wait_for(8);
    let news = grid.news(0);
    assert!(!news.is_empty() && news.len() < 50, "one an interval: {}", news.len());
}

#[test]
fn nobody_is_asked_unless_that_is_wanted() {
    assert!(Grid::start(&GridConfig::default()).unwrap().is_none());
}
