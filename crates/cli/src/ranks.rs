//! The other processes that a launcher started beside this one.

use std::ffi::OsString;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use wattle_dist::{EXIT_PARTED, Fabric, Launched, connect};
use wattle_session::SessionError;
use wattle_train::device::DeviceChoice;
use wattle_train::{Ranks, TrainError};

/// How long ranks may take to find one another.
const START: Duration = Duration::from_secs(300);

/// How long another rank may take to say why the run ends.
pub const SENTENCE: Duration = Duration::from_millis(500);

/// How a launcher started this process, if one did and its variables can be read.
fn launched() -> Option<Launched> {
    Launched::here().ok().flatten()
}

/// Whether a launcher started this process as another rank than the first: what there is to say, that one says.
pub fn is_follower() -> bool {
    launched().is_some_and(|launched| launched.rank > 0)
}

/// Ends a rank other than the first whose command line is wrong, if it was to train: the first one says what is wrong.
pub fn leave_faults_to_the_first(arguments: &[OsString]) {
    let is_training = arguments.iter().skip(1).any(|argument| argument == "train");
    if is_training && is_follower() {
        let_the_first_speak();
        std::process::exit(2);
    }
}

/// Gives rank 0 the time to say what is wrong on all: its launcher then ends this rank before it says so once more.
pub fn let_the_first_speak() {
    if is_follower() {
        std::thread::sleep(SENTENCE);
    }
}

/// Refuses a command that one process does alone, were a launcher to start it several times.
///
/// # Errors
/// If a launcher started this process as one of several.
pub fn refuse_several(command: &str) -> Result<(), SessionError> {
    let world = launched().and_then(|launched| launched.world).unwrap_or(1);
    if world == 1 {
        return Ok(());
    }
    let_the_first_speak();
    Err(SessionError::config(format!(
        "{command} was started {world} times by a launcher, and is done by one process: start it once, without mpirun or srun"
    )))
}

/// Takes what a launcher said to this process from a child, which is to train alone.
pub fn leave(command: &mut Command) {
    Launched::variables().for_each(|name| {
        command.env_remove(name);
    });
}

/// Ranks on this machine, this one included.
pub fn local_world() -> usize {
    launched().and_then(|launched| launched.local_world).unwrap_or(1)
}

/// Ends this process, and the others as far as the launcher sees to that, after the ranks have parted in training. The
/// lowest rank that is left says why. A launcher that ends all since one has ended signals the others first: where that
/// `is_signalled`, it is the launcher that says so.
pub fn part(ranks: &Ranks, error: &TrainError, is_signalled: bool) -> ! {
    let own = ranks.share().rank;
    let lost: &[usize] = if let TrainError::Parted { cause, .. } = error { cause.ranks() } else { &[] };
    let is_lowest = (0..own).all(|other| lost.contains(&other));
    match is_lowest && !(own > 0 && is_signalled) {
        true => tracing::error!("{error}"),
        false => std::thread::sleep(SENTENCE),
    }
    ranks.fabric().abort(EXIT_PARTED)
}

/// Sets what NCCL reads from the environment, where a launcher started this process.
///
/// # Safety
/// No other thread has been started.
pub unsafe fn prepare() {
    if let Some(launched) = launched() {
        // SAFETY: the caller's.
        unsafe { wattle_dist::nccl::prepare(&launched) };
    }
}

/// Finds the other ranks, and the device of this one where `asked` leaves that open. In training each waits for the others for
/// `deadline_s`.
///
/// # Errors
/// If a launcher started this process and the others cannot be reached, or its machine has no GPU for it.
pub fn find(deadline_s: f64, asked: DeviceChoice) -> Result<(Ranks, DeviceChoice), SessionError> {
    match meet(asked) {
        Ok((fabric, device)) => Ok((Ranks::new(fabric, Duration::from_secs_f64(deadline_s)), device)),
        // It is wrong on all of them, unless the launcher's variables are left over in an ordinary shell.
        Err(error) if is_follower() => {
            let_the_first_speak();
            tracing::error!("{error}");
            Err(SessionError::ToldByLeader { is_usage: true })
        }
        Err(error) => Err(SessionError::config(error.to_string())),
    }
}

fn meet(asked: DeviceChoice) -> Result<(Arc<dyn Fabric>, DeviceChoice), TrainError> {
    let launched = launched().filter(|launched| launched.world != Some(1));
    let device = match &launched {
        // Ranks without a number on their machine get the same GPU, and are told so.
        Some(launched) => asked.of_rank(launched.local_rank.unwrap_or(0))?,
        None => asked,
    };
    let gpu = launched.and_then(|_| device.gpu());
    Ok((connect(gpu, START)?, device))
}
