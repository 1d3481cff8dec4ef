//! What every campaign has in common: its size, a limit for each process, and a list of what went wrong.

use std::ffi::OsStr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, setrlimit};

/// What a process may take before it counts as one that hangs: a guard, and no measure of speed.
const HANGS_AFTER_S: &str = "60";
/// What a process may map before an allocation fails: a size taken from a damaged file is then seen.
const ADDRESS_SPACE: u64 = 8 << 30;

/// Cases and what went wrong with them.
pub struct Campaign {
    name: &'static str,
    cases: u64,
    failures: Vec<String>,
}

/// How a process ended, and what it said.
pub struct Ended {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// The command, for a shell in the folder that it ran in.
    pub shown: String,
}

impl Campaign {
    pub fn new(name: &'static str) -> Self {
        Self { name, cases: 0, failures: Vec::new() }
    }

    /// Counts a case; `check` says what is wrong with it.
    pub fn case(&mut self, about: &str, check: impl FnOnce() -> Result<(), String>) {
        self.cases += 1;
        if let Err(wrong) = check() {
            eprintln!("{}: {about}: {wrong}", self.name);
            self.failures.push(format!("{about}: {wrong}"));
        }
    }

    /// Prints the figures, and fails if any case did.
    #[expect(clippy::print_stdout, reason = "scripts/attack.sh collects them")]
    pub fn end(self) {
        println!("attack: {}: {} cases, {} failures", self.name, self.cases, self.failures.len());
        assert!(self.cases > 0, "{}: nothing was tried", self.name);
        assert!(self.failures.is_empty(), "{}:\n{}", self.name, self.failures.join("\n"));
    }
}

/// Runs a command within the limits of time and memory.
pub fn run(command: &Command) -> Ended {
    let mut guarded = Command::new("timeout");
    guarded.args(["--signal=KILL", HANGS_AFTER_S]).arg(command.get_program()).args(command.get_args());
    guarded.stdin(Stdio::null()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(name, value),
            None => guarded.env_remove(name),
        };
    }
    let limit = Rlimit { current: Some(ADDRESS_SPACE), maximum: Some(ADDRESS_SPACE) };
    // SAFETY: between fork and exec the closure makes one system call and touches nothing else.
    unsafe { guarded.pre_exec(move || Ok(setrlimit(Resource::As, limit)?)) };
    let output = guarded.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    // `timeout` dies of what its command died of, or says 128 and the signal.
    let code = output.status.code().or(output.status.signal().map(|signal| 128 + signal)).unwrap();
    Ended { code, stdout: output.stdout, stderr, shown: shown(command) }
}

/// The command as it is typed, with what its environment has to hold.
fn shown(command: &Command) -> String {
    let quoted = |text: &OsStr| format!("'{}'", text.to_string_lossy().replace('\'', "'\\''"));
    let set = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let set = set.map(|(name, value)| format!("{}={}", name.display(), quoted(value)));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    set.chain(words).collect::<Vec<_>>().join(" ")
}

impl Ended {
    /// Whether it ended by itself, with a status that it means, and without the marks of a crash.
    pub fn in_order(&self) -> Result<(), String> {
        let status = match self.code {
            0..=2 => None,
            137 => Some("it hangs or takes all memory".to_owned()),
            code => Some(format!("exit status {code}")),
        };
        let panicked = self.stderr.contains("panicked").then(|| "it panicked".to_owned());
        match status.or(panicked) {
            None => Ok(()),
            Some(wrong) => Err(self.wrong(&wrong)),
        }
    }

    /// Whether the exit status is this one.
    pub fn is(&self, code: i32) -> Result<(), String> {
        self.in_order()?;
        if self.code == code {
            Ok(())
        } else {
            Err(self.wrong(&format!("exit status {}, not {code}", self.code)))
        }
    }

    /// What is wrong, with how to see it again.
    pub fn wrong(&self, what: &str) -> String {
        format!("{what}\n  {}\n  said: {}", self.shown, self.stderr.trim().replace('\n', "\n        "))
    }
}
