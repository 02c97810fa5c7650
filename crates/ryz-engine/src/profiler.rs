//! The profile of an engine: recorded by the engine thread, read by anyone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ryz_profile::{Operation, Phase, Profile, Step};

use crate::cache_counters::CacheCounters;

/// Always there; a branch a phase while it is off.
#[derive(Debug)]
pub(crate) struct Profiler {
    recording: AtomicBool,
    profile: Mutex<Profile>,
    pub caches: CacheCounters,
    observer: Mutex<Option<ObserverSlot>>,
}

/// Hears of every operation of a step, after the step, on the engine's thread: it must not block.
pub trait ProfileObserver: Send + Sync {
    /// The operations of one step, in order.
    fn step(&self, operations: &[Operation]);
}

/// An observer and how often it wants to hear.
struct ObserverSlot {
    observer: Arc<dyn ProfileObserver>,
    /// Every how many steps.
    every: u32,
    /// Steps since the last one it heard of.
    waited: u32,
}

impl std::fmt::Debug for ObserverSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed")
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

/// Most single operations that a trace keeps: some 150 MiB of JSON.
const MAX_OPERATIONS: usize = 1 << 20;

impl Profiler {
    /// Starts recording into an empty profile that keeps up to `operations` single operations.
    pub fn start(&self, layers: usize, operations: usize) {
        *self.lock() = Profile::new(layers, operations.min(MAX_OPERATIONS));
        self.caches.restart();
        self.recording.store(true, Ordering::Relaxed);
    }

    /// Stops recording; what was recorded stays.
    pub fn stop(&self) {
        self.recording.store(false, Ordering::Relaxed);
        self.caches.stop();
    }

    /// Lets `observer` hear of every `every`-th step; `None` of none.
    pub fn set_observer(&self, observer: Option<Arc<dyn ProfileObserver>>, every: u32) {
        let observed = observer.map(|observer| ObserverSlot {
            observer,
            every,
            waited: every - 1,
        });
        *self.observer.lock().unwrap_or_else(PoisonError::into_inner) = observed;
    }

    pub fn new(layers: usize) -> Self {
        Self {
            recording: AtomicBool::new(false),
            profile: Mutex::new(Profile::new(layers, 0)),
            caches: CacheCounters::default(),
            observer: Mutex::new(None),
        }
    }

    /// Whoever wants to hear of the step that begins.
    pub fn observer(&self) -> Option<Arc<dyn ProfileObserver>> {
        let mut held = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let observed = held.as_mut()?;
        observed.waited += 1;
        if observed.waited < observed.every {
            return None;
        }
        observed.waited = 0;
        Some(Arc::clone(&observed.observer))
    }

    pub fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    pub fn lock(&self) -> MutexGuard<'_, Profile> {
        self.profile.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Books work that was done beside the steps.
    pub fn beside(&self, phase: Phase, since: Instant) {
        if self.is_recording() {
            self.lock().add_beside(phase, since.elapsed());
        }
    }
}

/// What a step adds up while it is recorded.
pub(crate) struct RecordedStep {
    pub step: Step,
    pub began: Instant,
    /// Whether the profile records, too.
    pub profiled: bool,
    /// Whether its phases are looked at.
    pub whole: bool,
    pub observer: Option<Arc<dyn ProfileObserver>>,
}

/// Operations that a step of a model with so many layers may have, at most.
pub(crate) fn operations_of_a_step(layers: usize) -> usize {
    // Each phase a few times in each layer, and each token of the largest batches sampled and delivered.
    (layers + 1) * 4 * Phase::COUNT + 4096
}
