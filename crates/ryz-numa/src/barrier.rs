//! A barrier that spins a bounded time, then parks, and that no one waits at for a worker that will not come.

use std::{
    sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use crate::parking::{CachePadded, Parking};

/// The region ends early: return from it. A worker panicked, one stopped the region, or one left it while others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// Everyone is to leave.
const STOPPED: u8 = 1;
/// Someone returned from the region.
const LEFT: u8 = 2;
/// Someone returned from the region while others waited.
const UNEVEN: u8 = 4;

/// Where `count` workers meet.
///
/// One counter of arrivals is all there is: the `k`-th meeting is over when it reaches `k · count`. It is never reset, so
/// the last arrival is the release, and one cache line changes hands. With two pinned threads that takes about 0.6 × the
/// time of a counter and a generation on lines of their own, which is what may pay with very many threads.
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

    /// Waits until all have come: `Ok` exactly when they have. What each did before happens before what any does after.
    pub fn wait(&self) -> Result<(), Poisoned> {
        // Who is told to leave does not arrive: no one is counted twice, so that a full count means all.
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

    /// Lets everyone go, now and at every later wait.
    pub fn stop(&self) {
        self.end(STOPPED);
    }

    /// Tells that a worker returned from the region: who waits now waits for ever, and is let go instead.
    pub fn leave(&self) {
        if self.count > 1 {
            self.end(LEFT);
        }
    }

    /// Whether a worker left while others waited and no one had stopped the region.
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

    /// Whether those who wait for `all` wait for one who left. The state is read first: a worker that left had come to
    /// all barriers before, so that arrivals read afterwards count it there.
    fn is_deserted(&self, all: usize) -> bool {
        let state = self.state.load(SeqCst);
        state & LEFT != 0 && state & STOPPED == 0 && !self.have_met(all)
    }
}
