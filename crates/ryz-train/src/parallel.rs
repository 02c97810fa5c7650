//! Distributes independent tasks over scoped threads; a task's result never depends on its thread.

use std::sync::Mutex;

/// Stack size of a thread in bytes, regardless of RUST_MIN_STACK.
pub(crate) const STACK: usize = 2 << 20;

/// Calls `work` on every task, on up to `threads` threads.
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
    let share = || {
        while let Some(task) = take() {
            work(task);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers {
            let thread = std::thread::Builder::new().stack_size(STACK);
            // If the system cannot create more threads, the existing ones do all tasks.
            if thread.spawn_scoped(scope, share).is_err() {
                break;
            }
        }
        share();
    });
}
