//! Ranks: processes that train one model together, and what they tell one another.
//!
//! - [`fabric`]: the calls, whatever carries them
//! - [`place`]: which rank this is, of how many, on which machine
//! - [`solo`]: one rank alone
//! - [`threads`]: ranks that are threads of one process

pub mod error;
pub mod fabric;
pub mod place;
pub mod solo;
pub mod threads;

pub use error::DistError;
pub use fabric::Fabric;
pub use place::Place;
pub use solo::Solo;
pub use threads::Threads;
