//! A folder of its own for each test, and the binary to run in it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use wattle_runlog::event::StepEvent;
use wattle_runlog::{Event, EventBody, LineFile, Record};

/// Settings of a run of 36 steps that takes about a second: three epochs, dropout, checkpoints at odd steps.
const SMALL: &[&str] = &[
    "run.name=small",
    "data.input=[\"text.txt\"]",
    "data.val_fraction=0.2",
    "tokenizer.kind=chars",
    "model.n_layers=2",
    "model.n_heads=2",
    "model.d_model=16",
    "model.context=16",
    "model.dropout=0.1",
    "schedule.warmup_steps=4",
    "train.batch_size=8",
    "train.micro_batch_size=3",
    "train.threads=1",
    "checkpoint.every_steps=5",
    "checkpoint.keep=2",
];

/// A folder with a text in it.
pub struct Workbench {
    dir: TempDir,
}

impl Workbench {
    pub fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// One on a file system in memory, where there is one: thousands of commands then do not wait for a disk.
    pub fn in_memory() -> Self {
        Self::within(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn within(dir: TempDir) -> Self {
        let text: String =
            (0..124).map(|i| format!("{} and {} make {}. ", i % 7, i % 5, i % 7 + i % 5)).collect();
        fs::write(dir.path().join("text.txt"), text).unwrap();
        Self { dir }
    }

    /// Makes the content of this folder that of another one.
    pub fn fill_from(&self, other: &Self) {
        for name in self.list(".") {
            let path = self.join(&name);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
        }
        let copied = Command::new("cp").arg("-a").arg(other.join(".")).arg(self.path()).status().unwrap();
        assert!(copied.success());
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The binary, in this folder, seeing nothing of the machine's own settings.
    pub fn wattle(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wattle"));
        command.current_dir(self.path()).args(args).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", self.join("cache"));
        command.env("XDG_DATA_HOME", self.join("data"));
        for name in ["RUST_LOG", "NVML_LIBRARY", "CUDA_VISIBLE_DEVICES"] {
            command.env_remove(name);
        }
        command
    }

    /// `wattle train` of the small run with more arguments.
    pub fn train(&self, args: &[&str]) -> Command {
        let mut command = self.wattle(&["train", "--device", "cpu"]);
        SMALL.iter().for_each(|pair| {
            command.args(["--set", pair]);
        });
        command.args(args);
        command
    }

    /// Every whole event of a run.
    pub fn events(&self, run: &str) -> Vec<Event> {
        let path = self.join(run).join("events.jsonl");
        if !path.exists() {
            return Vec::new();
        }
        LineFile::read(&path, Event::from_json).unwrap().entries
    }

    /// The steps of a run, in the order in which they were made.
    pub fn steps(&self, run: &str) -> Vec<StepEvent> {
        let step = |event: Event| match event.body {
            EventBody::Step(step) => Some(step),
            _ => None,
        };
        self.events(run).into_iter().filter_map(step).collect()
    }

    /// Every record of a run.
    /// Every step with the bits of its loss, in order; a step that was made again to the same loss is there once.
    pub fn losses(&self, run: &str) -> Vec<(u64, u32)> {
        let mut losses: Vec<_> = self.steps(run).iter().map(|s| (s.step, s.loss.to_bits())).collect();
        losses.sort_unstable();
        losses.dedup();
        losses
    }

    pub fn records(&self, run: &str) -> Vec<Record> {
        LineFile::read(&self.join(run).join("emissions.jsonl"), Record::from_json).unwrap().entries
    }

    /// Every file below a folder with its content, and every link with where it points.
    pub fn content(&self, dir: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut content = BTreeMap::new();
        let mut folders = vec![self.join(dir)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let (path, kind) = (entry.path(), entry.file_type().unwrap());
                if kind.is_dir() {
                    folders.push(path);
                } else if kind.is_symlink() {
                    content.insert(
                        path.clone(),
                        fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
                    );
                } else {
                    content.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        content
    }

    /// Names in a folder, sorted.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The command with a board that draws a steady 300 W.
pub fn with_board(mut command: Command) -> Command {
    command.env("NVML_LIBRARY", nvml_standin::library()).env("NVML_STANDIN_POWER", "steady:300");
    command
}

/// Waits until `is_so`, which a working program brings about within a second or so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child that does not outlive its test.
pub struct Running(pub Child);

impl Running {
    pub fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs to the end; the exit status must be `code`. Returns what it printed to standard error.
pub fn expect(code: i32, mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{command:?}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr
}
