//! Several ways to compute one thing, and which of them a board takes.
//!
//! An operation that can be computed in more than one way names its job and its ways to [`Board::choose`](super::Board::choose). The board
//! takes the way that was chosen for the job, by a measurement ([`select`](super::select)) or by a file, else the first.
//! All ways of a job compute the same up to rounding; a run is the same to the bit only with the same choices.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use super::{BoardError, Elem};

/// What is computed: an operation, the type of its elements, and the sizes that its speed depends on.
///
/// Jobs are the same by their text; how much work one is serves to say how well a way does it.
#[derive(Clone, Debug)]
pub struct Job {
    text: String,
    work: Work,
}

/// How much work a job is, however it is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes that have to be read and written once each; what lies in a cache from before counts too.
    pub bytes: u64,
    /// Floating-point operations of matrix products; 0 for a job that is bound by memory.
    pub flops: u64,
}

impl Job {
    /// The job of `op` at these sizes, each with its name.
    pub fn new(op: &str, elem: Elem, sizes: &[(&str, usize)]) -> Self {
        let sizes: String = sizes.iter().map(|(name, size)| format!(" {name}={size}")).collect();
        Self::named(format!("{op} {}{sizes}", elem.suffix()))
    }

    /// A job by its text.
    pub fn named(text: impl Into<String>) -> Self {
        Self { text: text.into(), work: Work::default() }
    }

    /// The same, which moves so many bytes at least.
    pub fn moving(mut self, bytes: usize) -> Self {
        self.work.bytes = bytes as u64;
        self
    }

    /// The same, with so many floating-point operations.
    pub fn computing(mut self, flops: usize) -> Self {
        self.work.flops = flops as u64;
        self
    }

    /// Its text, as files and tables show it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How much work it is; zeros where that was not stated.
    pub fn work(&self) -> Work {
        self.work
    }
}

impl PartialEq for Job {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Job {}

impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Job {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One way to do a job.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// Its name, unique within the job.
    pub name: &'a str,
    /// Does it. Done twice, it computes the same, except where it adds to its result or works in place.
    pub run: &'a dyn Fn() -> Result<(), BoardError>,
}

impl<'a> Way<'a> {
    /// A way by its name.
    pub fn new(name: &'a str, run: &'a dyn Fn() -> Result<(), BoardError>) -> Self {
        Self { name, run }
    }
}

impl fmt::Debug for Way<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Way").field(&self.name).finish()
    }
}

/// Which way each job is done.
#[derive(Debug, Default)]
pub struct Choices {
    chosen: RwLock<BTreeMap<Job, String>>,
    /// Ways that are taken wherever there is one of that name and nothing else was chosen.
    preferred: RwLock<Vec<String>>,
    /// The way that is being tried, wherever there is one of that name.
    tried: RwLock<Option<String>>,
    /// Counts changes, for whoever keeps what it made of a choice.
    generation: AtomicU64,
}

impl Choices {
    /// The way that was chosen for `job`.
    pub fn of(&self, job: &Job) -> Option<String> {
        self.chosen.read().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
    }

    /// Takes `way` for `job` from now on.
    pub fn set(&self, job: &Job, way: &str) {
        self.chosen.write().unwrap_or_else(PoisonError::into_inner).insert(job.clone(), way.to_owned());
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes the way called `name` for every job that has one and for which none was chosen.
    pub fn prefer(&self, name: &str) {
        self.preferred.write().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// What `f` gives while every job that has a way called `name` is done in it, even where another was chosen.
    pub fn trying<R>(&self, name: &str, f: impl FnOnce() -> R) -> R {
        let set = |name: Option<String>| {
            *self.tried.write().unwrap_or_else(PoisonError::into_inner) = name;
            self.generation.fetch_add(1, Ordering::Relaxed);
        };
        set(Some(name.to_owned()));
        let result = f();
        set(None);
        result
    }

    /// All that was chosen.
    pub fn all(&self) -> BTreeMap<Job, String> {
        self.chosen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number that changes with every change of the choices.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// The way to do `job`: the one that is tried, else the chosen one, else a preferred one, else the first.
    ///
    /// # Errors
    /// [`BoardError::NoWay`] if one was chosen that is not among `ways`.
    pub fn pick<'w, 'a>(&self, job: &Job, ways: &'w [Way<'a>]) -> Result<&'w Way<'a>, BoardError> {
        let called = |name: &str| ways.iter().find(|way| way.name == name);
        let tried = self.tried.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(way) = tried.as_ref().and_then(|name| called(name)) {
            return Ok(way);
        }
        if let Some(chosen) = self.of(job) {
            return called(&chosen)
                .ok_or_else(|| BoardError::NoWay { job: job.as_str().to_owned(), way: chosen });
        }
        let preferred = self.preferred.read().unwrap_or_else(PoisonError::into_inner);
        let preferred = preferred.iter().find_map(|name| called(name));
        Ok(preferred.unwrap_or_else(|| ways.first().expect("a job has at least one way")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_way_comes_before_a_preferred_one_and_that_before_the_first() {
        let choices = Choices::default();
        let job = Job::new("classifier_bwd", Elem::Bf16, &[("n", 4096), ("v", 50_304)]);
        assert_eq!(job.as_str(), "classifier_bwd bf16 n=4096 v=50304");
        let nothing = || Ok(());
        let ways = ["plain", "shared", "other"].map(|name| Way::new(name, &nothing));
        let picked = |choices: &Choices| choices.pick(&job, &ways).map(|way| way.name.to_owned());
        assert_eq!(picked(&choices).unwrap(), "plain");
        choices.prefer("other");
        assert_eq!(picked(&choices).unwrap(), "other");
        let before = choices.generation();
        choices.set(&job, "shared");
        assert_eq!(picked(&choices).unwrap(), "shared");
        assert_ne!(choices.generation(), before);
        choices.trying("other", || assert_eq!(picked(&choices).unwrap(), "other"));
        choices.trying("of another job", || assert_eq!(picked(&choices).unwrap(), "shared"));
        assert_eq!(picked(&choices).unwrap(), "shared");
        choices.set(&job, "gone");
        assert!(picked(&choices).unwrap_err().to_string().contains("gone"));
    }
}
