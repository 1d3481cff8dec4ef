//! A command run on the user's behalf: signals are passed on to it, and its exit status back.
//!
//! A command that is metered is started by [`RunningCommand::start`], which also makes this process the parent of
//! descendants whose own parent ends before them (`(worker &)`, daemons). Without that they would leave the tree of
//! processes and with it the account. They are reaped as they end; the command itself is over when its first process
//! is, as for a shell, whether or not others go on.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, set_child_subreaper, wait, waitid,
};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::origin::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

/// The binary that runs now, also where another has taken its place since.
#[cfg(feature = "train")]
pub const THIS_BINARY: &str = "/proc/self/exe";

/// Signals that are passed on.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// What a shell answers for a command that is not there.
const NOT_FOUND: u8 = 127;
/// What a shell answers for a file that cannot be run.
const NOT_EXECUTABLE: u8 = 126;

/// Why a command did not start, and the exit status for it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", program.display())]
pub struct NotStarted {
    program: OsString,
    /// As a shell would answer.
    pub status: u8,
    source: io::Error,
}

/// A running command.
pub struct RunningCommand {
    child: Child,
    /// The child as long as it has not been waited for: its number is free for others after that.
    pid: Arc<Mutex<Option<Pid>>>,
    signals: signal_hook::iterator::Handle,
}

impl RunningCommand {
    /// Starts `command`, a program and its arguments, and adopts its orphans from now on.
    ///
    /// # Errors
    /// If it is not there or cannot be run.
    pub fn start(command: &[OsString]) -> Result<Self, NotStarted> {
        if let Err(error) = set_child_subreaper(Some(getpid())) {
            tracing::warn!("processes that leave the command's tree will not be counted: {error}");
        }
        let (program, arguments) = command.split_first().expect("the command line asks for one at least");
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts a command that is made ready.
    ///
    /// # Errors
    /// If it is not there or cannot be run.
    pub fn spawn(mut command: Command) -> Result<Self, NotStarted> {
        let program = command.get_program().to_owned();
        let fault = |source: io::Error| NotStarted {
            program: program.clone(),
            status: if source.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE },
            source,
        };
        // Whoever started this process may ignore SIGCHLD, and then nobody would learn how a child ended.
        signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false))).map_err(fault)?;
        // Listened for before the child is there, so that none ends this process and leaves the child.
        let mut signals = SignalsInfo::<WithOrigin>::new(PASSED_ON).map_err(fault)?;
        let child = command.spawn().map_err(fault)?;
        let pid = Arc::new(Mutex::new(Some(Pid::from_child(&child))));
        let (handle, target) = (signals.handle(), Arc::clone(&pid));
        thread::spawn(move || {
            for origin in &mut signals {
                // What a terminal sends, it sends to the child too.
                if origin.cause != Cause::Kernel {
                    pass_on(&target, origin.signal);
                }
            }
        });
        Ok(Self { child, pid, signals: handle })
    }

    /// Waits for its end, and reaps orphans meanwhile.
    ///
    /// # Errors
    /// If the system does not say how it ended.
    pub fn wait(self) -> io::Result<ExitStatus> {
        let status = loop {
            // Not reaped yet: until the signals' thread knows, the command's number must stay its own.
            match waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.reap()? {
                break status;
            }
        };
        self.signals.close();
        // Orphans that ended with the command are part of it.
        while wait(WaitOptions::NOHANG).is_ok_and(|reaped| reaped.is_some()) {}
        Ok(status)
    }

    /// Reaps one process that has ended; how the command ended, if it was that.
    fn reap(&self) -> io::Result<Option<ExitStatus>> {
        let mut own = self.pid.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((pid, status)) = wait(WaitOptions::NOHANG)? else { return Ok(None) };
        if pid != Pid::from_child(&self.child) {
            return Ok(None);
        }
        own.take();
        Ok(Some(ExitStatus::from_raw(status.as_raw())))
    }
}

/// The exit status of this process for that of a child: its own, or 128 + the signal that ended it.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn pass_on(target: &Mutex<Option<Pid>>, signal: i32) {
    let target = target.lock().unwrap_or_else(PoisonError::into_inner);
    if let (Some(pid), Some(signal)) = (*target, Signal::from_named_raw(signal)) {
        // It can only have ended in the meantime.
        let _ = kill_process(pid, signal);
    }
}
