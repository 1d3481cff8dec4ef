//! Finds the way of training that costs least, by short metered windows in turns.
//!
//! Ways that do the same work, a token for a token, differ in micro-batch, recomputation, threads, power limit or clock.
//! Each of them trains for some seconds at a time, in an order that lets a drift of the machine fall on all alike; what is
//! worse by more than its error drops out, and what is left within one per cent is called level.
//!
//! - [`window`]: what a way cost in some seconds
//! - [`way`]: what differs from way to way
//! - [`goal`]: what is sought
//! - [`race`]: ways against each other, until one is ahead by more than the error
//! - [`search`]: one race for each thing that may be changed, then the best against what was there

pub mod goal;
pub mod race;
pub mod search;
pub mod way;
pub mod window;

pub use goal::Goal;
pub use race::{Contender, Dropped, Entrant, Failure, Finish, Race, Rules};
pub use search::{Axis, Saving, Search, Settings, Tuned};
pub use way::Way;
pub use window::Window;
