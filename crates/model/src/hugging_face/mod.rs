//! Weights and configuration in Hugging Face's layout: a directory with `config.json` and safetensors files.
//!
//! - [`Directory`]: a directory that somebody else may have written, checked and then loaded
//! - [`stand_in`]: what a file is that Git LFS or a server left in its place
//! - [`write_safetensors`], [`read_safetensors`], [`load_weights`]: single files of our own

mod adopt;
mod config_json;
mod directory;
mod json_file;
mod load;
mod load_weights;
mod safetensors;
mod stand_in;
mod weight_files;

pub(crate) use config_json::ConfigJson;
pub use directory::Directory;
pub(crate) use json_file::read_json_text;
pub use load_weights::load_weights;
pub(crate) use safetensors::{bytes_of, write_views};
pub use safetensors::{read_safetensors, write_safetensors};
pub(crate) use stand_in::refuse_stand_in;
pub use stand_in::stand_in;
