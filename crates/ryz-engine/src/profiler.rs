//! The profile of an engine: recorded by the engine thread, read by anyone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ryz_profile::{Phase, Profile, Snapshot, SpanId, Step};

use crate::engine::Engine;

/// Always there; a branch a phase while it is off.
#[derive(Debug)]
pub(crate) struct Profiler {
    recording: AtomicBool,
    profile: Mutex<Profile>,
}

impl Profiler {
    pub fn new(layers: usize) -> Self {
        Self {
            recording: AtomicBool::new(false),
            profile: Mutex::new(Profile::new(layers, 0)),
        }
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
}

/// Most single operations that a trace keeps: some 150 MiB of JSON.
const MAX_OPERATIONS: usize = 1 << 20;

impl Engine {
    /// Starts recording into an empty profile, and keeps up to `operations` single operations for a trace (at most
    /// 1,048,576; 0 keeps none). Costs less than a hundredth of the time of a step.
    pub fn start_profiling(&self, operations: usize) {
        let profiler = &self.inner.shared.profiler;
        let layers = self.inner.info.layers;
        *profiler.lock() = Profile::new(layers, operations.min(MAX_OPERATIONS));
        profiler.recording.store(true, Ordering::Relaxed);
    }

    /// Stops recording; what was recorded stays.
    pub fn stop_profiling(&self) {
        self.inner
            .shared
            .profiler
            .recording
            .store(false, Ordering::Relaxed);
    }

    /// Whether it records.
    pub fn is_profiling(&self) -> bool {
        self.inner.shared.profiler.is_recording()
    }

    /// What was recorded.
    pub fn profile(&self) -> Snapshot {
        let mut snapshot = self.inner.shared.profiler.lock().snapshot();
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
