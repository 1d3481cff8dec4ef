//! How far a preparation has come.

/// What preparation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Writing the embedded corpus.
    Generating,
    /// Counting and validating the input.
    Counting,
    /// Training a vocabulary.
    TrainingTokenizer,
    /// Writing token shards.
    Tokenizing,
    /// Comparing tokens with their hashes.
    Verifying,
}

/// How far preparation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub stage: Stage,
    /// How much of it is done.
    pub done: u64,
    /// How much of it there is.
    pub total: u64,
    /// In what: "chars" or "bytes".
    pub unit: &'static str,
}

/// What tells `progress` how many of `total` bytes of input are done.
pub(crate) fn in_bytes(stage: Stage, total: u64, progress: &mut dyn FnMut(Progress)) -> impl FnMut(u64) {
    move |done| progress(Progress { stage, done: done.min(total), total, unit: "bytes" })
}
