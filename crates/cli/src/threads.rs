//! How many threads compute.

/// [`wattle_session::set_threads`], at the start of a command.
pub fn set_threads(threads: usize) {
    set_threads_of_rank(threads, 1);
}

/// [`wattle_session::threads::set_threads_of_rank`], at the start of a command.
pub fn set_threads_of_rank(threads: usize, local_world: usize) {
    // SAFETY: this process has one thread so far: the sampler, all pools and MPI start later.
    unsafe { wattle_session::threads::set_threads_of_rank(threads, local_world) }
}
