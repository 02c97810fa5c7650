//! A barrier that spins for a bounded time, then parks, and never waits for a worker that has left.

use std::{
    sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use crate::parking::{CachePadded, Parking};

/// The region ends early: return from it. A worker panicked or stopped the region, or returned
/// while others waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// All workers must leave.
const STOPPED: u8 = 1;
/// A worker returned from the region.
const LEFT: u8 = 2;
/// A worker returned from the region while others waited.
const UNEVEN: u8 = 4;

/// A barrier for `count` workers.
///
/// Its only state is one counter of arrivals: the `k`-th meeting is over when it reaches `k ·
/// count`. It is never reset, so the last arrival releases the others, and only one cache line
/// moves between cores. With two pinned threads, this takes about 0.6 × the time of a separate
/// counter and generation on two cache lines; that design may be faster with very many threads.
#[derive(Debug)]
pub(crate) struct Barrier {
    count: usize,
    arrivals: CachePadded<AtomicUsize>,
    /// [`STOPPED`], [`LEFT`], [`UNEVEN`].
    state: AtomicU8,
    parking: Parking,
}

impl Barrier {
    pub fn new(count: usize, spin: Duration) -> Self {
        Self {
            count,
            arrivals: CachePadded::default(),
            state: AtomicU8::new(0),
            parking: Parking::new(spin),
        }
    }

    /// Waits for all workers; returns `Ok` exactly when all have arrived. Everything a worker did
    /// before happens before anything any worker does afterwards.
    pub fn wait(&self) -> Result<(), Poisoned> {
        // A worker told to leave does not arrive, so a full count means that all workers arrived.
        if self.state.load(SeqCst) & STOPPED != 0 {
            return Err(Poisoned);
        }
        if self.count == 1 {
            return Ok(());
        }
        let mine = self.arrivals.0.fetch_add(1, SeqCst) + 1;
        let all = mine.next_multiple_of(self.count);
        if mine == all {
            self.parking.wake();
            return Ok(());
        }
        self.parking.wait(|| self.released(all));
        if self.is_deserted(all) {
            self.end(STOPPED | UNEVEN);
        }
        if self.have_met(all) {
            Ok(())
        } else {
            Err(Poisoned)
        }
    }

    /// Releases all workers, now and at every later wait.
    pub fn stop(&self) {
        self.end(STOPPED);
    }

    /// Records that a worker returned from the region; workers that would now wait forever are
    /// released.
    pub fn leave(&self) {
        if self.count > 1 {
            self.end(LEFT);
        }
    }

    /// Whether a worker left while others waited and before the region was stopped.
    pub fn was_uneven(&self) -> bool {
        self.state.load(SeqCst) & UNEVEN != 0
    }

    fn end(&self, state: u8) {
        self.state.fetch_or(state, SeqCst);
        self.parking.wake();
    }

    fn have_met(&self, all: usize) -> bool {
        self.arrivals.0.load(SeqCst) >= all
    }

    fn released(&self, all: usize) -> bool {
        self.have_met(all) || self.state.load(SeqCst) != 0
    }

    /// Whether workers waiting for `all` arrivals wait for one that left. The state is read first:
    /// a worker that left has passed all of its barriers, so arrivals read afterwards include it.
    fn is_deserted(&self, all: usize) -> bool {
        let state = self.state.load(SeqCst);
        state & LEFT != 0 && state & STOPPED == 0 && !self.have_met(all)
    }
}
