//! Energy in grams and in money: prices, records, and what the records of a run add up to.

pub mod carbon;
pub mod continuity;
pub mod intensity_table;
pub mod interrupted;
pub mod ledger;
pub mod pauses;
pub mod pricing;
pub mod projection;
pub mod region;
pub mod reprice;
pub mod tally;
pub mod tokens_beside;
pub mod waiting;

mod priced;
mod totals;
