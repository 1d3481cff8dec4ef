//! What a checkpoint of adapters says of them and of the weights that they belong to.

use std::path::{Path, PathBuf};

use candle_core::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::copies::with_values;
use crate::parameter::Parameter;

/// The file that says which weights adapters belong to.
pub const BASE: &str = "base.json";
/// Name and version of its format.
const BASE_SCHEMA: &str = "wattle.base/1";

/// A model whose adapters are trained.
#[derive(Clone, Debug)]
pub struct AdapterInfo {
    /// The content of `adapter_config.json`.
    pub config_json: Value,
    /// The weights that stay as they are.
    pub base: BaseRecord,
    /// Share of what adapters read that is dropped in training.
    pub dropout: f32,
}

/// Weights that adapters belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// Name and version of the format.
    schema: String,
    /// Where they were read from.
    pub path: Option<PathBuf>,
    /// How many numbers they are.
    pub parameters: u64,
    /// CRC-32C of all of them in `f32`, in the model's order, in hexadecimal.
    pub crc32c: String,
}

impl BaseRecord {
    /// That of weights that were read from `path`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    pub fn of(parameters: &[Parameter], path: Option<&Path>) -> Result<Self> {
        let (mut crc, mut n) = (0, 0);
        for Parameter { var, .. } in parameters {
            crc = with_values(var, |values| crc32c::crc32c_append(crc, bytemuck::cast_slice(values)))?;
            n += var.elem_count() as u64;
        }
        let (schema, path) = (BASE_SCHEMA.to_owned(), path.map(Path::to_owned));
        Ok(Self { schema, path, parameters: n, crc32c: format!("{crc:08x}") })
    }

    /// The content of [`BASE`].
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("a record is plain data")
    }

    /// Refuses a checkpoint in `dir` whose adapters belong to other weights than these.
    ///
    /// # Errors
    /// A sentence that names both, and what to do.
    pub fn check(&self, dir: &Path) -> std::result::Result<(), String> {
        let json = wattle_files::read(&dir.join(BASE), wattle_files::SMALL)
            .map_err(|error| format!("{BASE} cannot be read ({error}); use another checkpoint"))?;
        let theirs: Self = serde_json::from_slice(&json).map_err(|error| {
            format!("{BASE} is not a record of weights ({error}); use another checkpoint")
        })?;
        if (theirs.parameters, &theirs.crc32c) == (self.parameters, &self.crc32c) {
            return Ok(());
        }
        let shown = |path: &Option<PathBuf>| {
            path.as_ref()
                .map_or_else(|| "weights of the program's own".to_owned(), |path| path.display().to_string())
        };
        Err(format!(
            "its adapters belong to the {} weights of {} with CRC-32C {}, and {} has {} with {}: model.init_from has \
             changed since; put the weights back, or start a new run",
            theirs.parameters,
            shown(&theirs.path),
            theirs.crc32c,
            shown(&self.path),
            self.parameters,
            self.crc32c
        ))
    }
}
