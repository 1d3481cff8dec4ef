//! Work on a sequence of items by all threads, with the results in order.
//!
//! One thread reads, the threads of rayon's current pool work on a window of items at a time, one thread writes.
//! While a window is worked on, the next is read and the one before is written. What is in memory at a time is at
//! most two windows of items, one read and one worked on, and two of results. The results do not hang on the
//! number of threads, and of several faults the first in the order of items is told.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::ScopedJoinHandle;

use rayon::prelude::*;

use crate::error::DataError;

/// Items of a window for each thread: enough that a thread which is done early finds another.
const ITEMS_PER_THREAD: usize = 4;

/// Where a reader puts its items.
pub(crate) struct Feed<I>(SyncSender<(u64, I)>);

impl<I> Feed<I> {
    /// Hands `item` on, `done` bytes into the input. `false` if nobody wants more.
    #[must_use]
    pub(crate) fn give(&self, done: u64, item: I) -> bool {
        self.0.send((done, item)).is_ok()
    }
}

/// Gives every item of `read` to `work`, on all threads, and the results to `write`, in order. `on_done` hears
/// how far the input was worked on. Returns what `read` returns.
///
/// # Errors
/// The first error of `read`, `work` or `write`.
pub(crate) fn ordered<I: Send, O: Send, R: Send>(
    read: impl FnOnce(Feed<I>) -> Result<R, DataError> + Send,
    work: impl Fn(I) -> Result<O, DataError> + Sync,
    mut write: impl FnMut(O) -> Result<(), DataError> + Send,
    on_done: &mut dyn FnMut(u64),
) -> Result<R, DataError> {
    let window = ITEMS_PER_THREAD * rayon::current_num_threads();
    std::thread::scope(|scope| {
        let (feed, items) = sync_channel(window);
        let (results, to_write) = sync_channel::<Vec<O>>(1);
        let reader = scope.spawn(move || read(Feed(feed)));
        let writer = scope.spawn(move || to_write.iter().flatten().try_for_each(&mut write));
        let worked = work_through(items, window, work, &results, on_done);
        drop(results);
        let (read, written) = (join(reader), join(writer));
        written?;
        worked?;
        read
    })
}

fn work_through<I: Send, O: Send>(
    items: Receiver<(u64, I)>,
    window: usize,
    work: impl Fn(I) -> Result<O, DataError> + Sync,
    results: &SyncSender<Vec<O>>,
    on_done: &mut dyn FnMut(u64),
) -> Result<(), DataError> {
    loop {
        let batch: Vec<(u64, I)> = items.iter().take(window).collect();
        let Some(&(done, _)) = batch.last() else { return Ok(()) };
        let worked: Vec<Result<O, DataError>> =
            batch.into_par_iter().with_max_len(1).map(|(_, item)| work(item)).collect();
        if results.send(worked.into_iter().collect::<Result<_, _>>()?).is_err() {
            // The writer ended early: its error is the one to tell.
            return Ok(());
        }
        on_done(done);
    }
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(item: u64) -> DataError {
        DataError::Changed { expected: 0, got: item }
    }

    fn run(n: u64, bad_read: u64, bad_work: u64, bad_write: u64) -> Result<Vec<u64>, u64> {
        let mut written = Vec::new();
        let result = ordered(
            |feed| {
                for i in 0..n {
                    if i == bad_read {
                        return Err(fault(i));
                    }
                    if !feed.give(i + 1, i) {
                        break;
                    }
                }
                Ok(())
            },
            |i| if i == bad_work { Err(fault(i)) } else { Ok(i * i) },
            |i| {
                written.push(i);
                if i == bad_write * bad_write { Err(fault(i)) } else { Ok(()) }
            },
            &mut |done| assert!(done <= n),
        );
        match result {
            Ok(()) => Ok(written),
            Err(DataError::Changed { got, .. }) => Err(got),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn results_are_in_order_on_any_number_of_threads_and_the_first_fault_is_told() {
        const NONE: u64 = 1 << 20;
        for n_threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| {
                assert_eq!(run(0, NONE, NONE, NONE), Ok(vec![]));
                assert_eq!(run(1000, NONE, NONE, NONE), Ok((0..1000).map(|i| i * i).collect()));
                assert_eq!(run(1000, 900, NONE, NONE), Err(900));
                assert_eq!(run(1000, 900, 400, NONE), Err(400));
                assert_eq!(run(1000, NONE, 500, 10), Err(100));
            });
        }
    }
}
