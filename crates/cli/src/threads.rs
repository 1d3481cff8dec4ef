//! How many threads compute.

/// [`wattle_session::set_threads`], at the start of a command.
pub fn set_threads(threads: usize) {
    // SAFETY: this process has one thread so far: the sampler and all pools start later.
    unsafe { wattle_session::set_threads(threads) }
}
