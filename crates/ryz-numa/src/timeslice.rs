//! Predicts when the system will preempt a thread in favor of another program.
//!
//! On a core that two programs use, a thread runs for a time slice, then waits about as long: some
//! milliseconds, during which all workers wait for any chunk that it holds. The thread therefore
//! measures how long it may run, and yields its core just before the slice ends, when it holds
//! nothing. Its share of the core stays the same.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// A longer gap between two clock reads means an interruption, or a chunk of a long batch. Yielding
/// the core tells them apart: in the second case, no other program takes it.
const INTERRUPTED: Duration = Duration::from_micros(700);

/// Yielding takes longer than this if another program uses the core.
const TAKEN: Duration = Duration::from_micros(30);

/// Minimum plausible slice; shorter ones are other interruptions.
const SHORTEST: Duration = Duration::from_millis(1);

/// Maximum slice; beyond it, yielding is not worthwhile.
const LONGEST: Duration = Duration::from_millis(12);

/// After this long without preemption, the core counts as uncontended.
const QUIET: Duration = Duration::from_millis(100);

/// A thread's knowledge of its core. Only the thread writes it; others read whether the core is
/// contended.
#[derive(Debug)]
pub(crate) struct Timeslice {
    epoch: Instant,
    /// When it began to run, in nanoseconds like all times here.
    since: AtomicU64,
    /// Whether a slice began at that time.
    began: AtomicBool,
    /// How long it may run.
    length: AtomicU64,
    /// When its core was last preempted, or 0.
    taken: AtomicU64,
}

impl Default for Timeslice {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            since: AtomicU64::new(0),
            began: AtomicBool::new(false),
            length: AtomicU64::new(LONGEST.as_nanos() as u64),
            taken: AtomicU64::new(0),
        }
    }
}

impl Timeslice {
    /// Records that it runs since `now`: it woke, possibly in the middle of a slice.
    pub fn wake(&self, now: Instant) {
        self.run_since(now, false);
    }

    /// Whether other programs use the core.
    pub fn is_contended(&self, now: Instant) -> bool {
        let taken = self.taken.load(Relaxed);
        taken > 0 && self.nanos(now).saturating_sub(taken) < QUIET.as_nanos() as u64
    }

    /// Whether the core is about to be preempted.
    pub fn is_over(&self, now: Instant) -> bool {
        let ran = self.nanos(now).saturating_sub(self.since.load(Relaxed));
        ran >= self.length.load(Relaxed) && self.is_contended(now)
    }

    /// Records a chunk that ran from `start` to `end`.
    pub fn worked(&self, start: Instant, end: Instant) {
        if end - start < INTERRUPTED {
            return;
        }
        let ran = self.nanos(start).saturating_sub(self.since.load(Relaxed));
        let ran = ran.max(SHORTEST.as_nanos() as u64);
        let known = self.length.load(Relaxed);
        if self.began.load(Relaxed) {
            // End slightly before the preemption.
            self.length.store(known.min(ran / 10 * 9), Relaxed);
        }
        self.taken.store(self.nanos(end), Relaxed);
        self.run_since(end, true);
    }

    /// Yields the core.
    pub fn give_away(&self) {
        let start = Instant::now();
        std::thread::yield_now();
        self.gave_away(start, Instant::now());
    }

    fn gave_away(&self, start: Instant, end: Instant) {
        let taken = end - start >= TAKEN;
        if taken {
            // Slices vary, so probe whether they have become longer.
            let length = self.length.load(Relaxed);
            let longer = length + length / 32;
            self.length
                .store(longer.min(LONGEST.as_nanos() as u64), Relaxed);
            self.taken.store(self.nanos(end), Relaxed);
        }
        self.run_since(end, taken);
    }

    fn run_since(&self, now: Instant, began: bool) {
        self.since.store(self.nanos(now), Relaxed);
        self.began.store(began, Relaxed);
    }

    fn nanos(&self, at: Instant) -> u64 {
        // Offset by 1, so that 0 means never.
        1 + (at - self.epoch).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that is preempted every 4 ms for 4 ms, with chunks of 100 µs.
    struct Contended {
        slice: Timeslice,
        now: Instant,
    }

    impl Contended {
        fn new() -> Self {
            let slice = Timeslice::default();
            let now = slice.epoch;
            slice.wake(now);
            Self { slice, now }
        }

        /// Runs chunks until the slice is reported over, or the core is preempted after `slice` in
        /// total; returns which.
        fn run(&mut self, slice: Duration) -> bool {
            let (began, chunk) = (self.now, Duration::from_micros(100));
            while self.now + chunk < began + slice {
                if self.slice.is_over(self.now) {
                    let start = self.now;
                    self.now += slice;
                    self.slice.gave_away(start, self.now);
                    return true;
                }
                self.slice.worked(self.now, self.now + chunk);
                self.now += chunk;
            }
            let start = self.now;
            self.now += chunk + slice;
            self.slice.worked(start, self.now);
            false
        }
    }

    #[test]
    fn a_core_that_is_taken_every_few_milliseconds_is_given_away_in_time() {
        let mut thread = Contended::new();
        let slice = Duration::from_millis(4);
        // The first shows where a slice begins, the second how long it is.
        assert_eq!([thread.run(slice), thread.run(slice)], [false, false]);
        let in_time = (0..100).filter(|_| thread.run(slice)).count();
        assert!(in_time >= 60, "{in_time} of 100");
    }

    #[test]
    fn shorter_slices_are_learnt_at_once_and_longer_ones_slowly() {
        let mut thread = Contended::new();
        let (long, short) = (Duration::from_millis(8), Duration::from_millis(2));
        for _ in 0..4 {
            thread.run(long);
        }
        thread.run(short);
        assert!(thread.run(short), "known after one");
        let learnt = thread.slice.length.load(Relaxed);
        assert!((0..30).all(|_| thread.run(long)));
        assert!((2 * learnt..3 * learnt).contains(&thread.slice.length.load(Relaxed)));
    }

    #[test]
    fn a_core_that_no_one_takes_is_kept() {
        let mut thread = Contended::new();
        for _ in 0..3 {
            thread.run(Duration::from_millis(4));
        }
        assert!(thread.slice.is_contended(thread.now));
        // Yielded, and it returns at once.
        let later = thread.now + Duration::from_millis(11);
        assert!(thread.slice.is_over(later));
        thread
            .slice
            .gave_away(later, later + Duration::from_micros(1));
        assert!(!thread.slice.is_over(later + Duration::from_millis(1)));
        assert!(
            !thread
                .slice
                .is_over(thread.now + Duration::from_millis(101))
        );
        assert!(
            !thread
                .slice
                .is_contended(thread.now + Duration::from_millis(101))
        );
    }
}
