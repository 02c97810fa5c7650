//! A few threads that take work by turns, started as they are needed.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::EngineError;
use crate::threads::spawn_with_stack;

/// Threads that are never waited for: one that is still at work when its engine is gone ends with that work.
pub(super) struct Pool<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    work: Box<dyn Fn(T) + Send + Sync>,
    name: &'static str,
    stack: usize,
    most: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    idle: usize,
    threads: usize,
    stopped: bool,
}

impl<T: Send + 'static> Pool<T> {
    /// At most `most` threads with stacks of so many bytes, which do this. It must not panic.
    pub fn new(
        name: &'static str,
        stack: usize,
        most: usize,
        work: impl Fn(T) + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            idle: 0,
            threads: 0,
            stopped: false,
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                wake: Condvar::new(),
                work: Box::new(work),
                name,
                stack,
                most,
            }),
        }
    }

    /// Has it done. After [`Pool::stop`] it is dropped.
    pub fn push(&self, task: T) -> Result<(), EngineError> {
        let mut state = self.inner.lock();
        if state.stopped {
            drop(state);
            drop(task);
            return Ok(());
        }
        state.waiting.push_back(task);
        if state.waiting.len() > state.idle && state.threads < self.inner.most {
            let inner = Arc::clone(&self.inner);
            match spawn_with_stack(self.inner.name, self.inner.stack, move || inner.run()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    let task = state.waiting.pop_back();
                    drop(state);
                    drop(task);
                    return Err(error);
                }
                // Those that are there will do.
                Err(_) => {}
            }
        }
        drop(state);
        self.inner.wake.notify_one();
        Ok(())
    }

    /// Ends the threads, each after what it is at, and drops what waits.
    pub fn stop(&self) {
        let mut state = self.inner.lock();
        state.stopped = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.inner.wake.notify_all();
        drop(waiting);
    }
}

impl<T> Inner<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return;
            }
            if let Some(task) = state.waiting.pop_front() {
                drop(state);
                (self.work)(task);
                state = self.lock();
                continue;
            }
            state.idle += 1;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
