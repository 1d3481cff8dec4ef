//! What the trainer has to remember besides weights and moments: `state.json`.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use wattle_runlog::MonotonicNs;

use crate::early_stop::EarlyStop;
use crate::error::TrainError;

/// Name and version of the format of the state.
pub const STATE_SCHEMA: &str = "wattle.state/2";

/// The format before it had a checksum of itself; still read.
const STATE_SCHEMA_1: &str = "wattle.state/1";

/// The trainer's state. Batches, dropout masks and learning rates are functions of seed and step, so there is
/// little.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// [`STATE_SCHEMA`].
    pub schema: String,
    /// The run's seed.
    pub seed: u64,
    /// Finished updates.
    pub step: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Validation losses so far.
    pub early_stop: EarlyStop,
    /// Whether training ended here by early stopping.
    pub stopped_early: bool,
    /// The segment that wrote it.
    pub segment: u32,
    /// When, on that segment's monotonic clock.
    pub t_ns: MonotonicNs,
    /// Every other file of the checkpoint.
    pub files: Vec<FileSum>,
    /// CRC-32C of the rest, in hexadecimal: see [`TrainState::seal`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<String>,
}

/// A file and its checksum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// CRC-32C of its content, in hexadecimal.
    pub crc32c: String,
}

impl TrainState {
    /// The state before the first step.
    pub fn start(seed: u64) -> Self {
        Self {
            schema: STATE_SCHEMA.to_owned(),
            seed,
            step: 0,
            tokens: 0,
            early_stop: EarlyStop::default(),
            stopped_early: false,
            segment: 0,
            t_ns: MonotonicNs(0),
            files: Vec::new(),
            crc32c: None,
        }
    }

    /// The state with its checksum: the CRC-32C of its compact JSON without the checksum.
    #[must_use]
    pub fn seal(self) -> Self {
        let unsealed = Self { crc32c: None, ..self };
        let json = serde_json::to_vec(&unsealed).expect("a state is plain data");
        Self { crc32c: Some(format!("{:08x}", crc32c::crc32c(&json))), ..unsealed }
    }

    /// Reads the state of the checkpoint `dir`.
    ///
    /// # Errors
    /// If `dir` is not a checkpoint of this program.
    pub fn read(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join("state.json");
        let foreign = |reason: String| TrainError::Checkpoint {
            path: path.clone(),
            reason: format!("{reason}; expected a checkpoint that wattle train wrote"),
        };
        let json = wattle_files::read(&path, wattle_files::SMALL)
            .map_err(|e| foreign(format!("cannot be read ({e})")))?;
        let state: Self =
            serde_json::from_slice(&json).map_err(|e| foreign(format!("not a training state ({e})")))?;
        match state.schema.as_str() {
            STATE_SCHEMA if state.crc32c == state.clone().seal().crc32c => {}
            STATE_SCHEMA => {
                return Err(TrainError::Checkpoint {
                    path,
                    reason: format!(
                        "changed since it was written (its checksum does not match); remove {} to resume from the \
                         checkpoint before it",
                        dir.display()
                    ),
                });
            }
            STATE_SCHEMA_1 => {}
            other => return Err(foreign(format!("expected schema {STATE_SCHEMA:?}, got {other:?}"))),
        }
        if let Some(file) = state.files.iter().find(|file| !file.is_inside()) {
            return Err(foreign(format!(
                "files: {:?} is not the name of a file in the checkpoint",
                file.name
            )));
        }
        // What is written next is of the present format.
        Ok(Self { schema: STATE_SCHEMA.to_owned(), crc32c: None, ..state })
    }
}

impl FileSum {
    /// Whether the name is that of a file directly in the checkpoint.
    fn is_inside(&self) -> bool {
        let mut parts = Path::new(&self.name).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(name)), None) if name == self.name.as_str())
    }

    /// The sum of the file `name` in `dir`.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of(dir: &Path, name: &str) -> Result<Self, TrainError> {
        let path = dir.join(name);
        let file = wattle_files::open(&path).map_err(TrainError::io("read", &path))?;
        let (mut bytes, mut crc) = (0u64, 0u32);
        let mut buffer = vec![0u8; 1 << 20];
        loop {
            let len = wattle_files::read_some(&file, &mut buffer).map_err(TrainError::io("read", &path))?;
            if len == 0 {
                return Ok(Self { name: name.to_owned(), bytes, crc32c: format!("{crc:08x}") });
            }
            bytes += len as u64;
            crc = crc32c::crc32c_append(crc, &buffer[..len]);
        }
    }
}
