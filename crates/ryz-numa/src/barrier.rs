//! A barrier that spins a bounded time, then parks, and that no one waits at for a worker that will not come.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// The region ends early: return from it. A worker panicked, one stopped the region, or one left it while others wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// Everyone is to leave.
const STOPPED: u8 = 1;
/// Someone returned from the region.
const LEFT: u8 = 2;
/// Someone returned from the region while others waited.
const UNEVEN: u8 = 4;

/// Looks between two readings of the clock.
const LOOKS: u32 = 64;

/// A value on cache lines of its own (two, which processors fetch together): who arrives does not disturb who looks.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

/// Where `count` workers meet.
#[derive(Debug)]
pub(crate) struct Barrier {
    count: usize,
    /// How long a waiter spins before it parks.
    spin: Duration,
    arrived: Apart<AtomicUsize>,
    /// Times that all have met.
    generation: Apart<AtomicUsize>,
    /// [`STOPPED`], [`LEFT`], [`UNEVEN`].
    state: AtomicU8,
    parked: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    pub fn new(count: usize, spin: Duration) -> Self {
        Self {
            count,
            spin,
            arrived: Apart::default(),
            generation: Apart::default(),
            state: AtomicU8::new(0),
            parked: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
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
        let generation = self.generation.0.load(SeqCst);
        if self.arrived.0.fetch_add(1, SeqCst) + 1 == self.count {
            self.arrived.0.store(0, SeqCst);
            let next = generation.wrapping_add(1);
            self.generation.0.store(next, SeqCst);
            self.wake_parked();
            return Ok(());
        }
        if !self.spin(generation) {
            self.park(generation);
        }
        if self.is_deserted(generation) {
            self.end(STOPPED | UNEVEN);
        }
        if self.generation.0.load(SeqCst) == generation {
            Err(Poisoned)
        } else {
            Ok(())
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
        self.wake_parked();
    }

    fn released(&self, generation: usize) -> bool {
        self.generation.0.load(SeqCst) != generation || self.state.load(SeqCst) != 0
    }

    /// Whether the waiters of `generation` wait for one who left. The state is read first: a worker that left had met
    /// everyone at all barriers before, so that a generation read afterwards counts those.
    fn is_deserted(&self, generation: usize) -> bool {
        let state = self.state.load(SeqCst);
        state & LEFT != 0 && state & STOPPED == 0 && self.generation.0.load(SeqCst) == generation
    }

    fn spin(&self, generation: usize) -> bool {
        if self.spin.is_zero() {
            return self.released(generation);
        }
        let mut since = None;
        loop {
            for _ in 0..LOOKS {
                if self.released(generation) {
                    return true;
                }
                std::hint::spin_loop();
            }
            // A pause takes 10 to 150 cycles, by processor: the bound is a time, not a number of looks.
            if since.get_or_insert_with(Instant::now).elapsed() >= self.spin {
                return false;
            }
        }
    }

    fn park(&self, generation: usize) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the last look: whoever releases either sees the count or is seen here.
        self.parked.fetch_add(1, SeqCst);
        while !self.released(generation) {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.fetch_sub(1, SeqCst);
    }

    fn wake_parked(&self) {
        if self.parked.load(SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }
}
