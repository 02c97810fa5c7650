//! Recording where the time goes.

use std::sync::Arc;
use std::time::Duration;

use ryz_profile::{CacheProfile, Snapshot, SpanId};

use super::Engine;
use crate::error::EngineError;
use crate::profiler::ProfileObserver;

impl Engine {
    /// Starts recording into an empty profile, and keeps up to `operations` single operations for a trace (at most
    /// 1,048,576; 0 keeps none). Costs some twenty nanoseconds a phase of a layer.
    pub fn start_profiling(&self, operations: usize) {
        let layers = self.inner.info.layers;
        self.inner.state.profiler.start(layers, operations);
    }

    /// Stops recording; what was recorded stays.
    pub fn stop_profiling(&self) {
        self.inner.state.profiler.stop();
    }

    /// Whether it records.
    pub fn is_profiling(&self) -> bool {
        self.inner.state.profiler.is_recording()
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
        self.inner.state.profiler.set_observer(observer, every);
        Ok(())
    }

    /// What was recorded.
    pub fn profile(&self) -> Snapshot {
        let profiler = &self.inner.state.profiler;
        let mut snapshot = profiler.lock().snapshot();
        if let Some(counted) = profiler.caches.read() {
            snapshot.cache = CacheProfile::new(counted, snapshot.tokens);
        }
        snapshot.memory_high_water_bytes = self.memory_stats().high_water as u64;
        snapshot
    }

    /// The single operations recorded, as a Chrome trace (JSON).
    pub fn profile_trace(&self) -> String {
        self.inner.state.profiler.lock().trace()
    }

    /// Starts a timer of the program's own within the last one that runs; `None` when 256 run already.
    pub fn start_timer(&self, name: &str) -> Option<SpanId> {
        self.inner.state.profiler.lock().start_timer(name)
    }

    /// Ends a timer and says how long it ran; `None` when there is no such timer.
    pub fn end_timer(&self, id: SpanId) -> Option<Duration> {
        self.inner.state.profiler.lock().end_timer(id)
    }
}
