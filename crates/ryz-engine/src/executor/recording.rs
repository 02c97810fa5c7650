//! What a step takes, for the profile.

use std::time::{Duration, Instant};

use ryz_kvcache::BLOCK_TOKENS;
use ryz_profile::{Phase, Step};

use super::Executor;
use crate::profiler::{RecordedStep, operations_of_a_step};

/// A step that takes less is short: looking at its phases costs two microseconds, which is to stay below 1 %.
const SHORT: Duration = Duration::from_micros(400);
/// Of so many short steps that decode as many tokens, one after another, the phases of one are looked at.
const EVERY: u32 = 16;

/// Which steps are looked at as a whole, and of which the time alone is taken.
#[derive(Default)]
pub(super) struct Sampling {
    /// The tokens that the last whole step decoded, where it was short and did nothing else.
    short: Option<usize>,
    /// Steps since.
    since: u32,
    /// Bytes that it did not read because of what was zero.
    skipped_bytes: u64,
}

impl Sampling {
    /// Whether `step` is like the last whole one, so that it need not be looked at.
    fn passes(&mut self, step: &Step) -> bool {
        let alike = step.prompt_tokens == 0 && self.short == Some(step.decoded_tokens);
        self.since += 1;
        alike && self.since < EVERY
    }

    fn looked(&mut self, step: &Step, skipped_bytes: u64) {
        let short = step.prompt_tokens == 0 && step.wall < SHORT;
        *self = Self {
            short: short.then_some(step.decoded_tokens),
            since: 0,
            skipped_bytes,
        };
    }
}

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
            whole: true,
            observer,
        })
    }

    /// Stops the clock of a scheduled step of which the time alone is taken; not where single operations are kept or observed, and not
    /// before the profile has a step to go by.
    pub(super) fn sample(&mut self, recorded: &mut RecordedStep) {
        let every = recorded.observer.is_some() || {
            let profile = self.shared.profiler.lock();
            profile.room() > 0 || !profile.has_decode()
        };
        if self.sampling.passes(&recorded.step) && !every {
            recorded.whole = false;
            let mut clock = self.state.clock();
            clock.set_recording(false, 0);
            clock.clear();
        }
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
        if !recorded.whole {
            recorded.step.skipped_bytes = self.sampling.skipped_bytes;
        }
        let skipped_of_zeros = recorded.step.skipped_bytes;
        let read = &mut recorded.step.weight_bytes;
        *read = read.saturating_sub(recorded.step.skipped_bytes);
        let screened = self.state.take_screened();
        if screened.steps > 0 {
            let whole = screened.steps * self.model.head_bytes() as u64;
            *read = read.saturating_sub(whole) + screened.read_bytes;
            recorded.step.skipped_bytes += whole.saturating_sub(screened.read_bytes);
        }
        let mut clock = self.state.clock();
        if recorded.whole {
            clock.lap(Phase::Schedule, None);
            clock.end();
        }
        recorded.step.wall = recorded.began.elapsed();
        if recorded.whole {
            self.sampling.looked(&recorded.step, skipped_of_zeros);
        }
        if let Some(observer) = recorded.observer {
            observer.step(clock.operations());
        }
        match profile {
            Some(mut profile) if recorded.whole => profile.add_step(recorded.step, &mut clock),
            Some(mut profile) => profile.add_time_of(recorded.step),
            None => clock.clear(),
        }
    }
}
