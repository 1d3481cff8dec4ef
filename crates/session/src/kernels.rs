//! Which kernels a run on a board takes: those of its checkpoint, of a file, or chosen by measuring.

use std::path::Path;

use wattle_ops::board::Board;
use wattle_runlog::RunDir;
use wattle_runlog::run_dir::write_atomic;
use wattle_train::{KERNELS_FILE, Kernels, TrainError, Trainer};

use crate::error::SessionError;

/// The choices to start from.
///
/// A resumed run takes those of its checkpoint, so that it is the same to the bit; a new one takes those of `file`
/// (`train.kernels`). Choices that were made on another board, or with other versions, mean nothing here: a resumed run
/// then warns and chooses anew, and a file is refused.
///
/// # Errors
/// If a file cannot be read, or `file` is from elsewhere.
pub(crate) fn to_start_from(
    checkpoint: Option<&Path>,
    file: Option<&Path>,
    board: &dyn Board,
) -> Result<Option<Kernels>, SessionError> {
    let stored = checkpoint.map(|dir| dir.join(KERNELS_FILE)).filter(|path| path.exists());
    if let Some(path) = stored {
        let kernels = Kernels::read(&path)?;
        let differences = kernels.differences(board);
        if differences.is_empty() {
            return Ok(Some(kernels));
        }
        tracing::warn!(
            "kernels are chosen anew, so the resumed run is not the same to the bit: {} was made elsewhere ({})",
            path.display(),
            differences.join("; ")
        );
        return Ok(None);
    }
    let Some(path) = file else { return Ok(None) };
    let kernels = Kernels::read(path)?;
    match kernels.differences(board).as_slice() {
        [] => Ok(Some(kernels)),
        differences => Err(TrainError::Kernels {
            path: path.to_owned(),
            reason: format!("these choices were made elsewhere ({})", differences.join("; ")),
        }
        .into()),
    }
}

/// Writes `kernels.json` to the run directory, unless it is there already with the same choices. Returns its content.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn keep(dir: &RunDir, trainer: &Trainer<'_>) -> Result<Option<String>, SessionError> {
    let Some(kernels) = trainer.kernels() else { return Ok(None) };
    let n_measured = trainer.measured().len();
    if n_measured > 0 {
        tracing::info!("kernels for {n_measured} jobs chosen by measuring");
    }
    let (path, text) = (dir.path().join(KERNELS_FILE), kernels.to_json());
    let is_kept = Kernels::read(&path).is_ok_and(|kept| kept.are_those_of(&kernels));
    if !is_kept {
        write_atomic(&path, text.as_bytes())?;
    }
    Ok(Some(text))
}
