//! From a preset, a file and `--set` to one checked configuration.

mod init_from;
mod keys;
mod layer;
mod presets;
mod resolve;
mod settle;

pub use keys::{nearest, parse_toml};
pub use layer::Layer;
pub use presets::Preset;
pub use resolve::{Sources, data_with, mixture_in, resolve, resolve_quietly, said_by};
