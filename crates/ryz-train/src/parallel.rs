//! Hands independent tasks to scoped threads; what a task computes never depends on which thread took it.

use std::sync::Mutex;

/// Calls `work` on every task with up to `threads` threads.
pub(crate) fn each<T: Send>(threads: usize, tasks: Vec<T>, work: impl Fn(T) + Sync) {
    if threads <= 1 || tasks.len() <= 1 {
        tasks.into_iter().for_each(work);
        return;
    }
    let workers = threads.min(tasks.len());
    let queue = Mutex::new(tasks.into_iter());
    let take = || {
        queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .next()
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(task) = take() {
                    work(task);
                }
            });
        }
    });
}
