//! An end for calls that can block forever.

use std::ffi::c_int;
use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The exit status of a rank that has lost the others.
pub const EXIT_PARTED: u8 = 76;

/// Runs `call`; if that takes longer than `within`, prints `what` and ends the process with `exit_code`.
///
/// For calls that take no deadline and cannot be left half-way: starting, finalizing and aborting a library.
pub(crate) fn watched<T>(within: Duration, what: &str, exit_code: u8, call: impl FnOnce() -> T) -> T {
    let (done, is_done) = mpsc::channel::<()>();
    let what = format!("{what} did not return within {} s", within.as_secs());
    thread::spawn(move || {
        if is_done.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Without `eprintln!`, which panics where nobody reads.
            let _ = writeln!(std::io::stderr(), "{what}; this process ends");
            exit_now(exit_code);
        }
    });
    let result = call();
    drop(done);
    result
}

/// Ends the process at once: no destructor, no handler of a library that waits for other ranks.
pub(crate) fn exit_now(exit_code: u8) -> ! {
    unsafe extern "C" {
        fn _exit(status: c_int) -> !;
    }
    // SAFETY: the C library's, which never returns.
    unsafe { _exit(exit_code.into()) }
}
