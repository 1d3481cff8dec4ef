//! Random numbers that are a pure function of what they are for.
//!
//! Every draw is addressed, never consumed: [`Stream`] names a seed, a purpose and a step, and an element
//! index picks the number. So a run can stop anywhere and resume without a generator's state, a batch can be
//! split into micro-batches without changing one dropout mask, and the same numbers come out on any number of
//! threads and on any device.
//!
//! - [`philox`]: the Philox4x32-10 block function,
//! - [`stream`]: uniform and normal draws by element,
//! - [`permutation`]: an order of `0..n` that takes no memory.

pub mod philox;
pub mod stream;

pub mod permutation;

pub use permutation::Permutation;
pub use stream::{Purpose, Stream};
