//! The profile of an engine: recorded by the engine thread, read by anyone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ryz_profile::{CacheProfile, Operation, Phase, Profile, Snapshot, SpanId, Step};

use crate::cache_counters::CacheCounters;
use crate::engine::Engine;
use crate::error::EngineError;

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

impl Profiler {
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

/// Most single operations that a trace keeps: some 150 MiB of JSON.
const MAX_OPERATIONS: usize = 1 << 20;

impl Engine {
    /// Starts recording into an empty profile, and keeps up to `operations` single operations for a trace (at most
    /// 1,048,576; 0 keeps none). Costs some twenty nanoseconds a phase of a layer.
    pub fn start_profiling(&self, operations: usize) {
        let profiler = &self.inner.shared.profiler;
        let layers = self.inner.info.layers;
        *profiler.lock() = Profile::new(layers, operations.min(MAX_OPERATIONS));
        profiler.caches.restart();
        profiler.recording.store(true, Ordering::Relaxed);
    }

    /// Stops recording; what was recorded stays.
    pub fn stop_profiling(&self) {
        let profiler = &self.inner.shared.profiler;
        profiler.recording.store(false, Ordering::Relaxed);
        profiler.caches.stop();
    }

    /// Whether it records.
    pub fn is_profiling(&self) -> bool {
        self.inner.shared.profiler.is_recording()
    }

    /// Lets `observer` hear of the operations of every `every`-th step; `None` of none. There is one at a time.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when `every` is 0.
    pub fn set_profile_observer(
        &self,
        observer: Option<Arc<dyn ProfileObserver>>,
        every: u32,
    ) -> Result<(), EngineError> {
        if every == 0 {
            return Err(EngineError::invalid("rate", "every step or fewer", 0));
        }
        let observed = observer.map(|observer| ObserverSlot {
            observer,
            every,
            waited: every - 1,
        });
        let profiler = &self.inner.shared.profiler;
        *profiler
            .observer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = observed;
        Ok(())
    }

    /// What was recorded.
    pub fn profile(&self) -> Snapshot {
        let profiler = &self.inner.shared.profiler;
        let mut snapshot = profiler.lock().snapshot();
        if let Some(counted) = profiler.caches.read() {
            snapshot.cache = CacheProfile::new(counted, snapshot.tokens);
        }
        snapshot.memory_high_water_bytes = self.memory_stats().high_water as u64;
        snapshot
    }

    /// The single operations recorded, as a Chrome trace (JSON).
    pub fn profile_trace(&self) -> String {
        self.inner.shared.profiler.lock().trace()
    }

    /// Starts a timer of the program's own within the last one that runs; `None` when 256 run already.
    pub fn start_timer(&self, name: &str) -> Option<SpanId> {
        self.inner.shared.profiler.lock().start_timer(name)
    }

    /// Ends a timer and says how long it ran; `None` when there is no such timer.
    pub fn end_timer(&self, id: SpanId) -> Option<Duration> {
        self.inner.shared.profiler.lock().end_timer(id)
    }
}
