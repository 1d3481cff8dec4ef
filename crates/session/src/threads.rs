//! How many threads compute, and how they wait.

use wattle_meter::Workload;
use wattle_meter::sensors::share::CpuShare;

/// Processors that this process may use.
pub fn n_processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Sets how many threads candle and rayon start, and how they wait. Both read their environment at their first use, so
/// a program calls this before anything else.
///
/// `threads` is `train.threads`: 0 takes every processor that the process may use, and leaves variables that are set
/// already as they are.
///
/// candle's threads spin for 25,000 rounds before they sleep, which buys next to no speed and, between the small
/// operations of a small model, costs some 40 % of the processor's energy; and where something else wants a
/// core, they take the time that others need. 2,000 rounds keep the speed.
///
/// # Safety
/// No other thread may be running: the environment is changed.
pub unsafe fn set_threads(threads: usize) {
    // SAFETY: as for this function.
    unsafe { set_threads_of_rank(threads, 1) }
}

/// [`set_threads`] of one of `local_world` ranks on this machine, which share its processors.
///
/// # Safety
/// As for [`set_threads`].
pub unsafe fn set_threads_of_rank(threads: usize, local_world: usize) {
    let n = match threads {
        0 => fair_share(local_world),
        n => n,
    };
    let n = n.to_string();
    let variables = [
        ("RAYON_NUM_THREADS", n.as_str()),
        ("CANDLE_NUM_THREADS", &n),
        ("CANDLE_BARRIER_POOL_SPIN_LIMIT", "2000"),
    ];
    for (name, value) in variables {
        let is_asked = threads > 0 && name.ends_with("NUM_THREADS");
        if is_asked || std::env::var_os(name).is_none() {
            // SAFETY: the caller has no other thread that could read the environment.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// Processors for one of some ranks. Launchers bind ranks to some processors, to a socket that several of them share, or to
/// none.
fn fair_share(local_world: usize) -> usize {
    let online = CpuShare::of(Workload::ThisProcess).host;
    let fair = (online / local_world.max(1) as f64) as usize;
    n_processors().min(fair.max(1))
}

/// What is wrong if `threads` (`train.threads`) asks for another number than this process computes with; it cannot be
/// changed any more.
pub(crate) fn mismatch(threads: usize) -> Option<String> {
    let running = rayon::current_num_threads();
    (threads != 0 && threads != running).then(|| {
        format!(
            "train.threads = {threads}, but this process computes with {running}: call set_threads({threads}) first of \
             all, or set it to 0"
        )
    })
}
