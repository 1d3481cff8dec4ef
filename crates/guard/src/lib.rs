//! Calls into other libraries on files of unknown origin: a panic there is an error here.
//!
//! A parser that was written for files of its own making panics on a damaged one. [`guard`] turns that into an error
//! that can name the file. It does not help against an abort (memory that runs out, a stack that overflows): whatever
//! could lead to one must be refused before the call.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught by [`guard`].
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Calls `call`. What `call` had borrowed mutably may be half changed after an error and should be dropped.
///
/// # Errors
/// The message of a panic on this thread, which is not printed then.
pub fn guard<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    silence_guarded_threads();
    let was_guarded = IS_GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(was_guarded);
    outcome.map_err(|payload| message(payload.as_ref()))
}

/// Puts a panic hook before the present one that passes on what no [`guard`] catches.
fn silence_guarded_threads() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                report(panic);
            }
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_guarded_panic_is_an_error_and_is_not_printed() {
        static PRINTED: AtomicU32 = AtomicU32::new(0);
        set_hook(Box::new(|_| {
            PRINTED.fetch_add(1, Ordering::Relaxed);
        }));
        let nothing: [u32; 0] = [];
        assert_eq!(guard(|| 1), Ok(1));
        assert_eq!(guard(|| panic!("as {}", "said")), Err::<(), _>("as said".to_owned()));
        assert!(guard(|| nothing[nothing.len()]).unwrap_err().contains("out of bounds"));
        // Also around another that caught one.
        assert!(guard(|| assert!(guard(|| panic!()).is_ok())).is_err());
        assert_eq!(PRINTED.load(Ordering::Relaxed), 0);
        assert!(catch_unwind(|| panic!()).is_err());
        assert_eq!(PRINTED.load(Ordering::Relaxed), 1);
    }
}
