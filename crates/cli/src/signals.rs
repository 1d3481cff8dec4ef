//! SIGINT, SIGTERM and SIGHUP: the first asks for a checkpoint and an end, the second ends at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Whether a signal has asked the process to end.
#[derive(Clone, Default)]
pub struct StopSignal(Arc<AtomicBool>);

impl StopSignal {
    /// Starts listening.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> io::Result<Self> {
        let asked = Self::default();
        for signal in [SIGINT, SIGTERM].into_iter().chain(hang_up()) {
            // The order matters: the second signal finds the flag set and ends the process as a shell would
            // report it, 128 + signal; the first sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, asked.0.clone())?;
            flag::register(signal, asked.0.clone())?;
        }
        // A file that grows past a limit (ulimit -f) is then an error with a path, and not a sudden death.
        flag::register(SIGXFSZ, Arc::default())?;
        Ok(asked)
    }

    /// Starts to take note of signals, and leaves it to children that they are passed on to what the second does.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn note() -> io::Result<Self> {
        let asked = Self::default();
        for signal in [SIGINT, SIGQUIT, SIGTERM].into_iter().chain(hang_up()) {
            flag::register(signal, asked.0.clone())?;
        }
        Ok(asked)
    }

    /// Whether it came.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// SIGHUP, unless the process was started with it ignored, as `nohup` does; then it stays ignored.
fn hang_up() -> Option<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (ignored & (1 << (SIGHUP - 1)) == 0).then_some(SIGHUP)
}
