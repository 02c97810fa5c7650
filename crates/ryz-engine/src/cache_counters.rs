//! The processor's cache counters on an engine's threads, while it is being profiled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use ryz_numa::Lease;
use ryz_profile::{CacheCounts, ThreadCounters, refusal};

/// Counts from the first recorded step on, whatever the leased threads do: they may work for other engines, too.
#[derive(Debug, Default)]
pub(crate) struct CacheCounters {
    wanted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unused,
    Counting(Vec<ThreadCounters>),
    Stopped(CacheCounts),
    Refused(String),
}

impl CacheCounters {
    /// Forgets what was counted, and has the next recorded step count anew.
    pub fn restart(&self) {
        *self.lock() = State::Unused;
        self.wanted.store(true, Ordering::Release);
    }

    /// Opens the counters on the threads of `lease`, and on the calling one, which computes small steps, if it was asked for since the
    /// last time.
    pub fn open(&self, lease: &Lease) {
        if !self.wanted.load(Ordering::Relaxed) || !self.wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        let opened = Mutex::new(Vec::new());
        let ran = lease.run(|_| {
            let counters = ThreadCounters::open();
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            opened.push(counters);
        });
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !lease.is_inline() {
            opened.push(ThreadCounters::open());
        }
        let opened: Result<Vec<_>, _> = opened.into_iter().collect();
        *self.lock() = match (ran, opened) {
            (Ok(()), Ok(counters)) => State::Counting(counters),
            (Err(error), _) => State::Refused(error.to_string()),
            (_, Err(error)) => State::Refused(refusal(&error)),
        };
    }

    /// Stops counting; what was counted stays.
    pub fn stop(&self) {
        self.wanted.store(false, Ordering::Release);
        let mut state = self.lock();
        if let State::Counting(counters) = &mut *state {
            *state = match sum(counters) {
                Ok(counts) => State::Stopped(counts),
                Err(why) => State::Refused(why),
            };
        }
    }

    /// What was counted; `None` before the first recorded step.
    pub fn read(&self) -> Option<Result<CacheCounts, String>> {
        match &mut *self.lock() {
            State::Unused => None,
            State::Counting(counters) => Some(sum(counters)),
            State::Stopped(counts) => Some(Ok(*counts)),
            State::Refused(why) => Some(Err(why.clone())),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum(counters: &mut [ThreadCounters]) -> Result<CacheCounts, String> {
    let mut sum = CacheCounts::default();
    for thread in counters {
        sum.add(thread.read().map_err(|error| refusal(&error))?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_stay_after_the_stop_or_there_is_a_reason() {
        let lease = Lease::new(2, ryz_numa::Pinning::Off).unwrap();
        let counters = CacheCounters::default();
        counters.open(&lease);
        assert_eq!(counters.read(), None, "nobody asked");
        counters.restart();
        assert_eq!(counters.read(), None, "no step yet");
        counters.open(&lease);
        let running = counters.read().unwrap();
        counters.stop();
        let stopped = counters.read().unwrap();
        match (running, &stopped) {
            (Ok(before), Ok(after)) => assert!(after.references >= before.references),
            (Err(before), Err(after)) => assert!(before == *after && !after.is_empty()),
            other => panic!("{other:?}"),
        }
        assert_eq!(counters.read().unwrap(), stopped);
        counters.open(&lease);
        assert_eq!(counters.read().unwrap(), stopped, "it has stopped");
        counters.restart();
        assert_eq!(counters.read(), None);
    }
}
