//! A barrier that spins a bounded time, then parks, and that a panicking worker poisons.

use std::sync::{
    Condvar, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// A worker panicked: leave the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned;

/// Where `count` workers meet.
#[derive(Debug)]
pub(crate) struct Barrier {
    count: usize,
    /// Looks at the generation before a waiter parks.
    spins: u32,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    poisoned: AtomicBool,
    parked: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Barrier {
    pub fn new(count: usize, spins: u32) -> Self {
        Self {
            count,
            spins,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Waits until all have come. What each did before happens before what any does after.
    pub fn wait(&self) -> Result<(), Poisoned> {
        let generation = self.generation.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) + 1 == self.count {
            self.arrived.store(0, SeqCst);
            self.generation.store(generation.wrapping_add(1), SeqCst);
            self.wake_parked();
        } else if !self.spin(generation) {
            self.park(generation);
        }
        if self.poisoned.load(SeqCst) {
            Err(Poisoned)
        } else {
            Ok(())
        }
    }

    /// Lets everyone go, now and at every later wait.
    pub fn poison(&self) {
        self.poisoned.store(true, SeqCst);
        self.wake_parked();
    }

    fn released(&self, generation: usize) -> bool {
        self.generation.load(SeqCst) != generation || self.poisoned.load(SeqCst)
    }

    fn spin(&self, generation: usize) -> bool {
        for _ in 0..self.spins {
            if self.released(generation) {
                return true;
            }
            std::hint::spin_loop();
        }
        false
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
