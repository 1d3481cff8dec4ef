//! System calls that fail on request: `inject.c`, loaded before libc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which calls of a kind fail, and how. As text it is what `inject.c` reads.
#[derive(Clone, Copy)]
pub struct Fault {
    pub call: &'static str,
    pub effect: &'static str,
    pub when: When,
}

#[derive(Clone, Copy)]
pub enum When {
    /// The n-th call alone.
    Once(u64),
    /// Every n-th call.
    Every(u64),
    /// The n-th call and all that follow.
    From(u64),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, n) = match self.when {
            When::Once(n) => ('@', n),
            When::Every(n) => ('%', n),
            When::From(n) => ('+', n),
        };
        write!(f, "{}:{}{sign}{n}", self.call, self.effect)
    }
}

/// The library, and a log of what it sees.
pub struct Injector {
    dir: tempfile::TempDir,
}

/// A call that the injector saw.
pub struct Seen {
    pub call: String,
    pub path: PathBuf,
    pub failed: bool,
}

impl Injector {
    pub fn new() -> Self {
        let injector = Self { dir: tempfile::tempdir().unwrap() };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/inject.c");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]);
        let status = cc.arg(injector.library()).arg(source).status().unwrap();
        assert!(status.success(), "cc could not make the injector");
        injector
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("libinject.so")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Makes calls about files below `under` fail as `fault` says; without one they are only noted.
    pub fn inject(&self, command: &mut Command, under: &Path, fault: Option<Fault>) {
        // What an earlier command left.
        let _ = fs::remove_file(self.log());
        command.env("LD_PRELOAD", self.library()).env("FAULTS_LOG", self.log()).env("FAULTS_UNDER", under);
        if let Some(fault) = fault {
            command.env("FAULTS", fault.to_string());
        }
    }

    /// Every call of the last command.
    pub fn seen(&self) -> Vec<Seen> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let seen = |line: &str| {
            let mut words = line.split(' ');
            let [call, path] = [(); 2].map(|()| words.next().unwrap());
            Seen { call: call.to_owned(), path: path.into(), failed: words.next().is_some() }
        };
        text.lines().map(seen).collect()
    }
}
