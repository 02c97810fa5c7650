//! What a step takes, for the profile.

use std::time::Instant;

use ryz_kvcache::BLOCK_TOKENS;
use ryz_profile::{Phase, Step};

use super::Executor;
use crate::profiler::{RecordedStep, operations_of_a_step};

impl Executor {
    /// Sets the clock of the step that begins, where the engine is being profiled.
    pub(super) fn record(&mut self, now: Instant) -> Option<RecordedStep> {
        let profiler = &self.shared.profiler;
        let profiled = profiler.is_recording();
        let observer = profiler.observer();
        let recording = profiled || observer.is_some();
        if profiled {
            profiler.caches.open(&self.lease);
        }
        // Of steps that were not recorded.
        self.state.take_screened();
        let mut clock = self.state.clock();
        if recording != clock.is_recording() || recording {
            let mut room = if profiled { profiler.lock().room() } else { 0 };
            if observer.is_some() {
                room = room.max(operations_of_a_step(self.model.config().num_hidden_layers));
            }
            clock.set_recording(recording, room);
            clock.begin();
        }
        recording.then(|| RecordedStep {
            step: Step::default(),
            began: now,
            profiled,
            observer,
        })
    }

    /// What the scheduled step will read and compute.
    pub(super) fn count(&mut self, step: &mut Step) {
        step.weight_bytes = self.model.weight_bytes_per_token() as u64;
        if let Some(draft) = &mut self.draft {
            step.weight_bytes +=
                draft.take_passes() * draft.model().weight_bytes_per_token() as u64;
        }
        let block_bytes = self.cache.config().bytes_per_block().unwrap_or(0);
        let position_bytes = block_bytes / BLOCK_TOKENS;
        for scheduled in &self.core.step {
            let Some(sequence) = self.core.scheduler.get(scheduled.id) else {
                continue;
            };
            if sequence.is_decoding() {
                step.decoded_tokens += scheduled.tokens;
            } else {
                step.prompt_tokens += scheduled.tokens;
            }
            step.kv_bytes += ((sequence.held() + scheduled.tokens) * position_bytes) as u64;
        }
    }

    /// Takes the step into the profile.
    pub(super) fn book(&mut self, mut recorded: RecordedStep) {
        let mut profile = recorded.profiled.then(|| self.shared.profiler.lock());
        for (layer, activity) in self.state.take_activity().enumerate() {
            recorded.step.skipped_bytes += activity.skipped_bytes;
            if let Some(profile) = &mut profile {
                profile.add_activity(layer, activity);
            }
        }
        let read = &mut recorded.step.weight_bytes;
        *read = read.saturating_sub(recorded.step.skipped_bytes);
        let screened = self.state.take_screened();
        if screened.steps > 0 {
            let whole = screened.steps * self.model.head_bytes() as u64;
            *read = read.saturating_sub(whole) + screened.read_bytes;
            recorded.step.skipped_bytes += whole.saturating_sub(screened.read_bytes);
        }
        let mut clock = self.state.clock();
        clock.lap(Phase::Schedule, None);
        clock.end();
        recorded.step.wall = recorded.began.elapsed();
        if let Some(observer) = recorded.observer {
            observer.step(clock.operations());
        }
        match profile {
            Some(mut profile) => profile.add_step(recorded.step, &mut clock),
            None => clock.clear(),
        }
    }
}
