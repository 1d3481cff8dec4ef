//! State that a thread borrows for a piece of work and gives back, so that there are as many as threads.

use std::sync::{Mutex, PoisonError};

/// A pool of states, made where all are lent.
#[derive(Debug, Default)]
pub(crate) struct Scratch<T>(Mutex<Vec<T>>);

impl<T: Default> Scratch<T> {
    /// Runs `work` with a state that nobody else holds.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut state = self.states().pop().unwrap_or_default();
        let result = work(&mut state);
        self.states().push(state);
        result
    }

    /// All states.
    pub(crate) fn into_states(self) -> Vec<T> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn states(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
