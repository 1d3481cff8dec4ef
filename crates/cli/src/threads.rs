//! How many threads compute, and how they wait.

/// candle and rayon read their environment when they are first used. What the user has set there stands, but
/// for the number of threads where `threads` is not 0 (`train.threads`).
///
/// candle's threads spin for 25,000 rounds before they sleep, which buys next to no speed and, between the small
/// operations of a small model, costs some 40 % of the processor's energy; and where something else wants a
/// core, they take the time that others need. 2,000 rounds keep the speed.
pub fn set_threads(threads: usize) {
    let n = match threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
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
            // SAFETY: this process has one thread so far: the sampler and all pools start later.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
