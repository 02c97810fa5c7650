//! Waiting that spins a bounded time, then parks.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// Checks between two clock reads.
const LOOKS: u32 = 64;

/// A value on separate cache lines (two, because processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub T);

/// Where threads wait for a condition that others satisfy by sequentially consistent writes.
#[derive(Debug)]
pub(crate) struct Parking {
    /// How long a waiter spins before it parks.
    spin: Duration,
    parked: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Parking {
    pub fn new(spin: Duration) -> Self {
        Self {
            spin,
            parked: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }
    }

    /// Whether there are more threads than cores, which makes spinning useless.
    pub fn never_spins(&self) -> bool {
        self.spin.is_zero()
    }

    /// Waits until `released`. Returns whether it parked.
    pub fn wait(&self, released: impl Fn() -> bool) -> bool {
        let spun = self.spin(&released);
        if !spun {
            self.park(&released);
        }
        !spun
    }

    /// Wakes parked threads after a write that may release them.
    pub fn wake(&self) {
        if self.parked.load(SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
    }

    fn spin(&self, released: impl Fn() -> bool) -> bool {
        if self.spin.is_zero() {
            return released();
        }
        let mut since = None;
        loop {
            for _ in 0..LOOKS {
                if released() {
                    return true;
                }
                std::hint::spin_loop();
            }
            // A pause takes 10 to 150 cycles, depending on the processor, so the bound is a time
            // rather than a number of checks.
            if since.get_or_insert_with(Instant::now).elapsed() >= self.spin {
                return false;
            }
        }
    }

    fn park(&self, released: impl Fn() -> bool) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the last check: the releasing thread either sees the count, or its write
        // is seen here.
        self.parked.fetch_add(1, SeqCst);
        while !released() {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.fetch_sub(1, SeqCst);
    }
}
