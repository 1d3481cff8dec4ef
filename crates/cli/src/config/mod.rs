//! From a preset, a file and `--set` to one checked configuration.

mod init_from;
mod keys;
mod presets;
mod resolve;
mod settle;

pub use keys::{nearest, parse_toml};
pub use presets::Preset;
pub use resolve::{Layer, Sources, resolve, resolve_quietly};
