//! The allocator of the whole program.

/// candle allocates and frees the same large blocks at every step; the system's allocator gives each back to
/// the kernel and takes page after page anew, which costs some 40 % of a step.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives back what was freed but is kept for the next to ask. By itself that happens a second later, and until then
/// what a model was made from would lie beside all that training allocates.
#[cfg(feature = "train")]
pub fn give_back() {
    // SAFETY: it may be called at any time, from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
