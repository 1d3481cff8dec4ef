//! Fetching from a real server on this machine, which breaks off, lies, and changes its files.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wattle_data::{DataConfig, DataError, DatasetManifest, FetchProgress, Fetched, Fetcher, Format, Token};

/// A request, header names in lower case.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    headers: HashMap<String, String>,
}

impl Request {
    fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let path = lines.next()?.split(' ').nth(1)?.to_owned();
        let pairs = lines.take_while(|line| !line.is_empty());
        let headers = pairs.filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        });
        Some(Self { path, headers: headers.collect() })
    }

    /// Where the range that is asked for starts.
    fn start(&self) -> Option<usize> {
        self.headers.get("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

type Script = dyn Fn(usize, &Request, &mut TcpStream) + Send + Sync;

/// A server that answers each request as a script says, by the number of the request.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(script: impl Fn(usize, &Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, script): (_, Arc<Script>) = (requests.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (seen, script) = (seen.clone(), script.clone());
                std::thread::spawn(move || {
                    let Some(request) = Request::read(&stream) else { return };
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request.clone());
                        seen.len() - 1
                    };
                    script(number, &request, &mut stream);
                });
            }
        });
        Self { address, requests }
    }

    fn n_requests(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    fn request(&self, number: usize) -> Request {
        self.requests.lock().unwrap()[number].clone()
    }

    /// A manifest of the file `text.txt` here, with `more` keys of the file.
    fn manifest(&self, more: &str) -> DatasetManifest {
        self.manifest_with("format = \"text\"", more)
    }

    fn manifest_with(&self, top: &str, more: &str) -> DatasetManifest {
        let toml = format!(
            "name = \"test\"\ntitle = \"T\"\ndescription = \"D\"\nhomepage = \"http://home\"\nlicence = \"L\"\n{top}\n\
             [[file]]\nurl = \"http://{}/dir/text.txt\"\n{more}\n",
            self.address
        );
        DatasetManifest::parse("test.toml", &toml).unwrap()
    }
}

/// A file of 60,000 bytes; every seed gives another.
fn content(seed: u32) -> Vec<u8> {
    let byte = |i: u32| b'a' + (i.wrapping_add(seed << 16).wrapping_mul(2_654_435_761) >> 28) as u8;
    (0..60_000).map(byte).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a client that gave up is told does not matter.
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

fn head(stream: &mut TcpStream, status: &str, headers: &str) {
    send(stream, format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").as_bytes());
}

/// Answers as a good server does: a range if it is asked for and the file is still the same.
fn serve(request: &Request, stream: &mut TcpStream, content: &[u8], etag: &str) {
    let (start, total) = begin(request, stream, content, etag);
    send(stream, &content[start..total]);
}

/// The head of a good server's answer; returns the range that is to follow.
fn begin(request: &Request, stream: &mut TcpStream, content: &[u8], etag: &str) -> (usize, usize) {
    let total = content.len();
    let is_same = request.headers.get("if-range").is_none_or(|validator| validator == etag);
    let start = request.start().filter(|&start| is_same && start < total);
    let etag = if etag.is_empty() { String::new() } else { format!("ETag: {etag}\r\n") };
    match start {
        Some(start) => {
            let length = total - start;
            let range = format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
            head(stream, "206 Partial Content", &format!("Content-Length: {length}\r\n{range}{etag}"));
        }
        None => head(stream, "200 OK", &format!("Content-Length: {total}\r\n{etag}")),
    }
    (start.unwrap_or(0), total)
}

/// Patient enough for a slow machine, and quick to try again.
fn fetcher() -> Fetcher {
    Fetcher { attempts: 3, backoff: Duration::from_millis(1), ..Fetcher::default() }
}

fn fetch(manifest: &DatasetManifest, cache: &Path) -> Result<Fetched, DataError> {
    fetcher().fetch(manifest, cache, &mut |_| {})
}

fn assert_fetched(fetched: &Fetched, content: &[u8]) {
    let file = &fetched.files[0];
    assert_eq!((file.bytes, file.sha256.clone()), (content.len() as u64, sha256(content)));
    assert!(fs::read(&file.path).unwrap() == content);
    let dir = file.path.parent().unwrap();
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [".lock", "text.txt"], "something was left over");
}

/// That nothing in the cache passes for a whole file.
fn assert_nothing_complete(cache: &Path) {
    assert!(!cache.join("downloads/test/text.txt").exists());
}

#[test]
fn the_files_of_these_tests_differ() {
    assert!(content(1) != content(2) && content(0) != content(1));
}

#[test]
fn a_file_is_fetched_once_and_its_hash_noted() {
    let server = Server::start(|_, request, stream| serve(request, stream, &content(1), "\"v1\""));
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest("");
    let mut last = (0, None);
    let mut progress = |progress: FetchProgress<'_>| {
        assert!(progress.file == "text.txt" && progress.done >= last.0);
        last = (progress.done, progress.total);
    };
    let fetched = fetcher().fetch(&manifest, cache.path(), &mut progress).unwrap();
    assert_eq!(last, (60_000, Some(60_000)));
    assert_fetched(&fetched, &content(1));
    assert_eq!(fetch(&manifest, cache.path()).unwrap(), fetched);
    assert_eq!(server.n_requests(), 1);
    assert_eq!(server.request(0).path, "/dir/text.txt");
    let lock = fs::read_to_string(cache.path().join("datasets.lock.toml")).unwrap();
    assert!(lock.contains(&sha256(&content(1))) && lock.contains("bytes = 60000"), "{lock}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let server = Server::start(|number, request, stream| {
        let (start, total) = begin(request, stream, &content(1), "\"v1\"");
        // The first three answers end after 10,000 bytes each, more often than attempts without progress allow.
        send(stream, &content(1)[start..if number < 3 { start + 10_000 } else { total }]);
    });
    let cache = tempfile::tempdir().unwrap();
    assert_fetched(&fetch(&server.manifest(""), cache.path()).unwrap(), &content(1));
    let starts: Vec<_> = (0..server.n_requests()).map(|number| server.request(number).start()).collect();
    assert_eq!(starts, [None, Some(10_000), Some(20_000), Some(30_000)]);
    assert_eq!(server.request(1).headers["if-range"], "\"v1\"");
}

#[test]
fn what_a_killed_process_left_is_taken_up() {
    let server = Server::start(|_, request, stream| serve(request, stream, &content(1), "\"v1\""));
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest("");
    let dir = cache.path().join("downloads/test");
    fs::create_dir_all(&dir).unwrap();
    let url = &manifest.files[0].url;
    for (len, validator, start) in [(777, "v1", Some(777)), (777, "v0", Some(777)), (0, "v1", None)] {
        fs::write(dir.join("text.txt.part"), &content(if validator == "v1" { 1 } else { 2 })[..len]).unwrap();
        let origin = format!("url = \"{url}\"\nvalidator = '\"{validator}\"'\n");
        fs::write(dir.join("text.txt.part.toml"), origin).unwrap();
        // A part of another file is not gone on with: the server sees that and sends all of it.
        assert_fetched(&fetch(&manifest, cache.path()).unwrap(), &content(1));
        assert_eq!(server.request(server.n_requests() - 1).start(), start);
        fs::remove_file(dir.join("text.txt")).unwrap();
    }
    // Without a note of what it is part of, and without a known hash, a part is worth nothing.
    fs::remove_file(cache.path().join("datasets.lock.toml")).unwrap();
    fs::write(dir.join("text.txt.part"), &content(2)[..777]).unwrap();
    assert_fetched(&fetch(&manifest, cache.path()).unwrap(), &content(1));
    assert_eq!(server.request(server.n_requests() - 1).start(), None);
}

#[test]
fn a_file_that_changes_between_the_parts_is_fetched_anew() {
    let server = Server::start(|number, request, stream| {
        if number == 0 {
            let (_, total) = begin(request, stream, &content(1), "\"v1\"");
            send(stream, &content(1)[..total / 2]);
        } else {
            serve(request, stream, &content(2), "\"v2\"");
        }
    });
    let cache = tempfile::tempdir().unwrap();
    assert_fetched(&fetch(&server.manifest(""), cache.path()).unwrap(), &content(2));
}

#[test]
fn a_server_that_goes_on_with_another_file_is_not_believed() {
    let server = Server::start(|number, request, stream| {
        if number == 0 {
            let (_, total) = begin(request, stream, &content(1), "\"v1\"");
            send(stream, &content(1)[..total / 2]);
        } else {
            // Ranges, but no If-Range.
            let mut request = request.clone();
            request.headers.remove("if-range");
            serve(&request, stream, &content(2), "\"v2\"");
        }
    });
    let cache = tempfile::tempdir().unwrap();
    assert_fetched(&fetch(&server.manifest(""), cache.path()).unwrap(), &content(2));
}

#[test]
fn a_server_without_ranges_starts_again_from_zero() {
    let server = Server::start(|number, _, stream| {
        head(stream, "200 OK", "Content-Length: 60000\r\nETag: \"v1\"\r\n");
        send(stream, &content(1)[..if number == 0 { 12_345 } else { 60_000 }]);
    });
    let cache = tempfile::tempdir().unwrap();
    assert_fetched(&fetch(&server.manifest(""), cache.path()).unwrap(), &content(1));
    assert_eq!(server.request(1).start(), Some(12_345));
}

#[test]
fn a_length_that_never_comes_is_an_error_with_both_figures() {
    let server = Server::start(|_, request, stream| {
        let (start, _) = begin(request, stream, &content(1), "\"v1\"");
        send(stream, &content(1)[start..50_000.max(start)]);
    });
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&server.manifest(""), cache.path()).unwrap_err().to_string();
    assert!(error.contains("after 50000 of 60000 bytes") && error.contains("run the same again"), "{error}");
    assert_nothing_complete(cache.path());
    assert_eq!(fs::metadata(cache.path().join("downloads/test/text.txt.part")).unwrap().len(), 50_000);
}

#[test]
fn a_length_that_is_not_the_manifests_is_refused_before_the_body() {
    let server = Server::start(|_, request, stream| serve(request, stream, &content(1), ""));
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&server.manifest("bytes = 60001"), cache.path()).unwrap_err();
    assert!(matches!(error, DataError::FetchLength { expected: 60_001, got: 60_000, .. }), "{error}");
    assert_nothing_complete(cache.path());
    // A body of unknown length is counted when it is there.
    let server = Server::start(|_, _, stream| {
        head(stream, "200 OK", "");
        send(stream, &content(1));
    });
    let error = fetch(&server.manifest("bytes = 60001"), cache.path()).unwrap_err();
    assert!(matches!(error, DataError::FetchLength { expected: 60_001, got: 60_000, .. }), "{error}");
    assert_fetched(&fetch(&server.manifest("bytes = 60000"), cache.path()).unwrap(), &content(1));
}

#[test]
fn wrong_bytes_are_removed_and_both_hashes_told() {
    let server = Server::start(|_, request, stream| serve(request, stream, &content(2), "\"v1\""));
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest(&format!("sha256 = \"{}\"", sha256(&content(1))));
    let error = fetch(&manifest, cache.path()).unwrap_err().to_string();
    assert!(error.contains(&sha256(&content(1))) && error.contains(&sha256(&content(2))), "{error}");
    assert!(error.contains("datasets/"), "{error}");
    assert_nothing_complete(cache.path());
    assert!(!cache.path().join("downloads/test/text.txt.part").exists());
}

#[test]
fn another_hash_than_the_first_is_refused_until_its_entry_is_deleted() {
    let server =
        Server::start(|number, request, stream| serve(request, stream, &content(number.min(1) as u32), ""));
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest("");
    let fetched = fetch(&manifest, cache.path()).unwrap();
    fs::remove_file(&fetched.files[0].path).unwrap();
    let error = fetch(&manifest, cache.path()).unwrap_err().to_string();
    for needle in
        [&sha256(&content(0)), &sha256(&content(1)), "delete its entry", "datasets.lock.toml", "text.txt"]
    {
        assert!(error.contains(needle), "{error}");
    }
    let lock = cache.path().join("datasets.lock.toml");
    fs::write(&lock, fs::read_to_string(&lock).unwrap().split("[[file]]").next().unwrap()).unwrap();
    assert_fetched(&fetch(&manifest, cache.path()).unwrap(), &content(1));
}

#[test]
fn a_file_that_was_tampered_with_is_fetched_again_and_a_right_one_adopted() {
    let server = Server::start(|_, request, stream| serve(request, stream, &content(1), ""));
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest(&format!("sha256 = \"{}\"", sha256(&content(1))));
    let path = fetch(&manifest, cache.path()).unwrap().files[0].path.clone();
    fs::write(&path, "cut short").unwrap();
    assert_fetched(&fetch(&manifest, cache.path()).unwrap(), &content(1));
    assert_eq!(server.n_requests(), 2);
    // A right file that nobody noted down, as one put there by hand.
    fs::remove_file(cache.path().join("datasets.lock.toml")).unwrap();
    assert_fetched(&fetch(&manifest, cache.path()).unwrap(), &content(1));
    assert_eq!(server.n_requests(), 2);
}

#[test]
fn what_the_server_refuses_is_not_asked_again() {
    let server = Server::start(|_, _, stream| head(stream, "404 Not Found", "Content-Length: 0\r\n"));
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&server.manifest(""), cache.path()).unwrap_err().to_string();
    assert!(error.contains("404 Not Found") && error.contains("http://home"), "{error}");
    assert_eq!(server.n_requests(), 1);
    assert_nothing_complete(cache.path());
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let server = Server::start(|number, request, stream| match number {
        0 => head(stream, "503 Service Unavailable", "Content-Length: 0\r\n"),
        1 => head(stream, "429 Too Many Requests", "Content-Length: 0\r\nRetry-After: 0\r\n"),
        _ => serve(request, stream, &content(1), ""),
    });
    let cache = tempfile::tempdir().unwrap();
    assert_fetched(&fetch(&server.manifest(""), cache.path()).unwrap(), &content(1));
    let busy =
        Server::start(|_, _, stream| head(stream, "500 Internal Server Error", "Content-Length: 0\r\n"));
    let error = fetch(&busy.manifest(""), tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
    assert!(error.contains("500") && error.contains("progress: 3"), "{error}");
}

#[test]
fn redirects_go_where_the_manifest_lets_them() {
    let server = Server::start(|_, request, stream| match request.path.as_str() {
        "/dir/text.txt" => head(stream, "302 Found", "Location: /moved/x?y=1\r\nContent-Length: 0\r\n"),
        "/moved/x?y=1" => {
            let port = request.headers["host"].rsplit_once(':').unwrap().1.to_owned();
            let location = format!("Location: http://localhost:{port}/there\r\nContent-Length: 0\r\n");
            head(stream, "307 Temporary Redirect", &location);
        }
        _ => serve(request, stream, &content(1), ""),
    });
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(&server.manifest(""), cache.path()).unwrap_err().to_string();
    assert!(error.contains("http://localhost") && error.contains("redirect_hosts"), "{error}");
    let allowed = server.manifest_with("format = \"text\"\nredirect_hosts = [\"localhost\"]", "");
    assert_fetched(&fetch(&allowed, cache.path()).unwrap(), &content(1));
    let round = Server::start(|_, request, stream| {
        let location = format!("Location: {}\r\nContent-Length: 0\r\n", request.path);
        head(stream, "302 Found", &location);
    });
    assert!(
        fetch(&round.manifest(""), cache.path().join("other").as_path())
            .unwrap_err()
            .to_string()
            .contains("redirects")
    );
}

#[test]
fn a_token_is_shown_to_its_host_and_to_nobody_a_redirect_leads_to() {
    let content = content(77);
    let copy = content.clone();
    let elsewhere = Server::start(move |_, request, stream| serve(request, stream, &copy, ""));
    // Another name of this machine is another host.
    let target = format!("http://localhost:{}/text.txt", elsewhere.address.rsplit_once(':').unwrap().1);
    let server = Server::start(move |_, request, stream| {
        match request.headers.get("authorization").map(String::as_str) {
            Some("Bearer hf_test") => {
                head(stream, "302 Found", &format!("Location: {target}\r\nContent-Length: 0\r\n"));
            }
            _ => head(stream, "401 Unauthorized", "Content-Length: 0\r\n"),
        }
    });
    let manifest = server.manifest_with("format = \"text\"\nredirect_hosts = [\"localhost\"]", "");
    let cache = tempfile::tempdir().unwrap();
    let said = fetch(&manifest, cache.path()).unwrap_err().to_string();
    assert!(said.contains("401") && said.contains("HF_TOKEN") && said.contains("http://home"), "{said}");
    let with_token = Fetcher { token: Some(Token::new("127.0.0.1", "hf_test")), ..fetcher() };
    let fetched = with_token.fetch(&manifest, cache.path(), &mut |_| {}).unwrap();
    assert_fetched(&fetched, &content);
    assert!(!elsewhere.request(0).headers.contains_key("authorization"));
}

#[test]
fn a_slow_drip_comes_through_and_a_stall_is_cut() {
    let server = Server::start(|_, request, stream| {
        let (start, total) = begin(request, stream, &content(1), "\"v1\"");
        for piece in content(1)[start..total].chunks(6_000) {
            std::thread::sleep(Duration::from_millis(80));
            send(stream, piece);
        }
    });
    let cache = tempfile::tempdir().unwrap();
    // All of it takes 800 ms and more: longer than the idle time, which each piece keeps.
    let drip = Fetcher { idle_timeout: Duration::from_millis(600), ..fetcher() };
    let fetched = drip.fetch(&server.manifest(""), cache.path(), &mut |_| {}).unwrap();
    assert_fetched(&fetched, &content(1));

    let server = Server::start(|number, request, stream| {
        let (start, total) = begin(request, stream, &content(1), "\"v1\"");
        if number == 0 {
            send(stream, &content(1)[start..9_000]);
            std::thread::sleep(Duration::from_secs(20));
        } else {
            send(stream, &content(1)[start..total]);
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let fetched = drip.fetch(&server.manifest(""), cache.path(), &mut |_| {}).unwrap();
    assert_fetched(&fetched, &content(1));
    assert_eq!(server.request(1).start(), Some(9_000));
}

#[test]
fn nobody_at_the_address_is_an_error_with_a_remedy() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let nobody = Server { address, requests: Arc::default() };
    let error = fetch(&nobody.manifest(""), tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
    assert!(error.contains("check the network") && error.contains("https_proxy"), "{error}");
}

#[test]
fn a_disk_that_cannot_be_written_is_told_as_such() {
    let server = Server::start(|_, request, stream| serve(request, stream, &content(1), ""));
    let cache = tempfile::tempdir().unwrap();
    fs::write(cache.path().join("downloads"), "a file where a folder should be").unwrap();
    let error = fetch(&server.manifest(""), cache.path()).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("data.cache_dir"), "{error}");
    assert_eq!(server.n_requests(), 0);
}

#[test]
fn several_at_a_time_fetch_it_once() {
    let server = Server::start(|_, request, stream| {
        std::thread::sleep(Duration::from_millis(50));
        serve(request, stream, &content(1), "");
    });
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest("");
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| fetch(&manifest, cache.path()).unwrap())).collect();
        runs.into_iter().for_each(|run| assert_fetched(&run.join().unwrap(), &content(1)));
    });
    assert_eq!(server.n_requests(), 1);
}

#[test]
fn what_was_fetched_can_be_prepared() {
    let text = "Once.\n<|endoftext|>\nTwice upon a time.\n<|endoftext|>\n";
    let server = Server::start(move |_, request, stream| serve(request, stream, text.as_bytes(), ""));
    let cache = tempfile::tempdir().unwrap();
    let manifest = server.manifest_with("format = \"separated\"\nseparator = \"<|endoftext|>\"", "");
    let fetched = fetch(&manifest, cache.path()).unwrap();
    let data = fetched.data_config(&DataConfig { val_fraction: 0.5, ..DataConfig::default() });
    assert_eq!(data.input_formats().unwrap(), [Format::Separated { line: "<|endoftext|>".to_owned() }]);
    let out = cache.path().join("out");
    let dataset = wattle_data::prepare_into(&out, &data, &Default::default(), &mut |_| {}).unwrap();
    let documents = dataset.manifest.documents.unwrap();
    assert_eq!((documents.train, documents.val), (1, 1));
}
