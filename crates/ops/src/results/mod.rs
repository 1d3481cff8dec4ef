//! What a step says: the sums of its losses and hits, and the norm of its gradient.

pub mod board;
