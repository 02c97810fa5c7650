//! One step: schedule → run → postprocess.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ryz_kvcache::BLOCK_TOKENS;
use ryz_model::{BatchSequence, LogitDemand, ModelError, Outputs};
use ryz_profile::Phase;

use super::Executor;
use crate::error::EngineError;
use crate::jobs::{Progress, Rows};
use crate::operators::{OperatorEntry, StepOperators};
use crate::request::FinishReason;
use crate::sequence::{Sequence, SequenceId};
use crate::speculation::ProposalRequest;
use crate::submission::{Entry, Task};

/// How long a step waits for a mask behind its forward pass before the others go on without that sequence, and how long where
/// there are no others.
const PATIENCE: Duration = Duration::from_millis(1);
const PATIENCE_ALONE: Duration = Duration::from_millis(20);

impl Executor {
    /// One step; who ended is told behind it. `false` when there was nothing to compute.
    pub(super) fn step(&mut self) -> bool {
        let now = Instant::now();
        let mut recorded = self.record(now);
        self.drop_cancelled();
        self.resume_held();
        let operators = self.follow_operators();
        let core = &mut self.core;
        for sequence in core.scheduler.iter_mut() {
            let unread = core.entries.get(&sequence.id).is_some_and(Entry::is_unread);
            sequence.paused_since = unread.then(|| sequence.paused_since.unwrap_or(now));
            sequence.ahead.clear();
        }
        self.rank_blocks();
        // An operator is shown what a sequence holds, not what it may come to hold.
        if operators.is_empty() {
            self.propose();
        }
        // Of ends that the step has nothing to do with.
        self.tell();
        let core = &mut self.core;
        core.scheduler.schedule(&mut core.pool, now, &mut core.step);
        if core.step.is_empty() {
            return false;
        }
        // Before any of them can say a word: whoever hears one finds it running until its blocks are given back.
        let running = core.scheduler.running();
        let counters = &self.shared.counters;
        counters.running.store(running, Ordering::Relaxed);
        for scheduled in &core.step {
            if let Some(entry) = core.entries.get_mut(&scheduled.id) {
                entry.start(now, &self.shared);
            }
        }
        if let Some(recorded) = &mut recorded {
            self.count(&mut recorded.step);
            self.state.clock().lap(Phase::Schedule, None);
            self.sample(recorded);
        }
        let computed = self.forward(&operators);
        self.drop_failed();
        match computed {
            Ok(()) => {
                self.postprocess();
                self.model.settle_order(&mut self.state);
            }
            Err(ModelError::Aborted) => {} // the cancelled one goes at the next step; others are computed again
            Err(error) => self.fail_step(error),
        }
        if let Some(recorded) = recorded {
            self.book(recorded);
        }
        true
    }

    /// Chooses the tokens of those whose masks have come since their logits were computed.
    fn resume_held(&mut self) {
        let core = &mut self.core;
        let clock = &mut *self.state.clock();
        core.ended.clear();
        for (&id, entry) in &mut core.entries {
            let Task::Generate(generation) = &mut entry.task else {
                continue;
            };
            // One that was pre-empted is computed again first.
            let sequence = core.scheduler.get_mut(id);
            let Some(sequence) = sequence.filter(|sequence| sequence.pending() == 0) else {
                continue;
            };
            if !generation.is_held() || !generation.is_ready(Duration::ZERO) {
                continue;
            }
            let Some(logits) = generation.release() else {
                continue;
            };
            let counters = &self.shared.counters;
            counters.generated_tokens.fetch_add(1, Ordering::Relaxed);
            let longest = sequence.longest(self.context_length);
            let scratch = &mut core.candidates;
            let end = generation.advance(sequence, &logits, scratch, longest, clock);
            if let Some(end) = end {
                core.ended.push(id);
                core.held_ends.push(end);
            }
        }
        for (id, end) in core.ended.drain(..).zip(core.held_ends.drain(..)) {
            core.scheduler.remove(id, &mut core.pool);
            let entry = core.entries.remove(&id);
            let end = entry.map(|entry| entry.end(end, &self.shared));
            core.untold.extend(end);
        }
    }

    /// Has the program rank the blocks of those that must give some back.
    fn rank_blocks(&mut self) {
        let Some(ranker) = self.shared.ranker.get() else {
            return;
        };
        let core = &mut self.core;
        for sequence in core.scheduler.iter_mut() {
            if sequence.paused_since.is_some() {
                continue;
            }
            let entry = core.entries.get(&sequence.id);
            let is_cancelled = || {
                let cancelled = |entry: &Entry| entry.control.cancelled.load(Ordering::SeqCst);
                entry.is_none_or(cancelled) || self.shared.disposed.load(Ordering::SeqCst)
            };
            if let Err(error) = sequence.rank(ranker.as_ref(), &is_cancelled)
                && !is_cancelled()
            {
                core.failed.push((sequence.id, error));
            }
        }
        self.drop_failed();
    }

    /// Has the generations propose tokens beyond the one that is due.
    fn propose(&mut self) {
        let core = &mut self.core;
        let mut wanted = Vec::new();
        for sequence in core.scheduler.iter_mut() {
            if sequence.paused_since.is_some()
                || !sequence.is_decoding()
                || !sequence.retention.may_propose()
            {
                continue;
            }
            let mut room = sequence.longest(self.context_length) - sequence.tokens.len();
            if self.cache.writes_whole_blocks() {
                // The tails reach back to where a step began if it lies in two blocks at most; a block that was full and is
                // gone back into is quantised anew.
                room = room.min(BLOCK_TOKENS - 1);
            }
            let entry = core.entries.get_mut(&sequence.id);
            let Some(Task::Generate(generation)) = entry.map(|entry| &mut entry.task) else {
                continue;
            };
            if let Some(of_draft) = generation.propose(sequence, room) {
                wanted.push((sequence.id, of_draft));
            }
        }
        let Some(draft) = &mut self.draft else {
            return;
        };
        draft.forget(|id| core.scheduler.get(id).is_some());
        let scheduler = &core.scheduler;
        let wish = |&(id, (most, least_chance))| {
            Some(ProposalRequest {
                id,
                tokens: &scheduler.get(id)?.tokens,
                most,
                least_chance,
            })
        };
        let wishes: Vec<_> = wanted.iter().filter_map(wish).collect();
        let proposals = match draft.propose(&self.lease, &wishes) {
            Ok(proposals) => proposals,
            Err(error) => {
                let ids: Vec<_> = wanted.into_iter().map(|(id, _)| id).collect();
                return self.fail_all(&ids, error);
            }
        };
        for ((id, _), proposal) in wanted.into_iter().zip(proposals) {
            if let (Some(sequence), false) = (core.scheduler.get_mut(id), proposal.is_empty()) {
                sequence.ahead.extend(sequence.tokens.last());
                sequence.ahead.extend(proposal);
            }
        }
        self.state.clock().lap(Phase::Draft, None);
    }

    fn forward(&mut self, operators: &[Arc<OperatorEntry>]) -> Result<(), ModelError> {
        let core = &self.core;
        let alone = match core.step.as_slice() {
            [only] => only.id,
            _ => 0,
        };
        // In this order: a cancel either sees who is alone and stops the pass, or is seen here.
        self.shared.interrupt.stop.store(false, Ordering::SeqCst);
        self.shared.interrupt.alone.store(alone, Ordering::SeqCst);
        let is_cancelled = |entry: &Entry| entry.control.cancelled.load(Ordering::SeqCst);
        if core.entries.get(&alone).is_some_and(is_cancelled) {
            return Err(ModelError::Aborted);
        }
        let running = core.scheduler.running_sequences();
        self.cache
            .keep_tails(running.filter_map(Sequence::unfinished_block));
        let sequences = core
            .step
            .iter()
            .filter_map(|s| Some((s, core.scheduler.get(s.id)?)));
        let batch: Vec<BatchSequence<'_>> = sequences
            .map(|(scheduled, sequence)| BatchSequence {
                tokens: sequence.next_tokens(scheduled.tokens),
                start: sequence.cached,
                block_table: &sequence.block_table,
                window: sequence.retention.window,
                mass: sequence.retention.mass(),
                outputs: scheduled.outputs,
                needed: match core.entries.get(&scheduled.id).map(|entry| &entry.task) {
                    Some(Task::Generate(generation)) => {
                        generation.needed(sequence.tokens.len() + scheduled.tokens)
                    }
                    _ => LogitDemand::All,
                },
            })
            .collect();
        debug_assert_eq!(batch.len(), core.step.len());
        let (lease, stop) = (&self.lease, &self.shared.interrupt.stop);
        let (state, cache) = (&mut self.state, &mut self.cache);
        let result = if operators.is_empty() {
            self.model.forward(lease, state, cache, &batch, stop)
        } else {
            let ids: Vec<_> = core.step.iter().map(|scheduled| scheduled.id).collect();
            let mut hooks = StepOperators {
                operators,
                ids: &ids,
                cancelled: &|id| {
                    let entry = core.entries.get(&id);
                    entry.is_none_or(is_cancelled) || self.shared.disposed.load(Ordering::SeqCst)
                },
                failed: Vec::new(),
            };
            let model = &self.model;
            let result = model.forward_with(lease, state, cache, &batch, stop, &mut hooks);
            self.core.failed = hooks.failed;
            result
        };
        self.shared.interrupt.alone.store(0, Ordering::SeqCst);
        result
    }

    fn postprocess(&mut self) {
        let core = &mut self.core;
        let counters = &self.shared.counters;
        counters.steps.fetch_add(1, Ordering::Relaxed);
        let logits = self.state.logits();
        let hidden = self.state.hidden();
        let clock = &mut *self.state.clock();
        let patience = if core.step.len() == 1 {
            PATIENCE_ALONE
        } else {
            PATIENCE
        };
        let mut first = 0;
        core.ended.clear();
        for scheduled in &core.step {
            let count = match scheduled.outputs {
                Outputs::None => 0,
                Outputs::Last => 1,
                Outputs::All => scheduled.tokens,
            };
            let row = first;
            first += count;
            let Some(sequence) = core.scheduler.get_mut(scheduled.id) else {
                continue;
            };
            if !sequence.is_decoding() {
                counters
                    .prompt_tokens
                    .fetch_add(scheduled.tokens as u64, Ordering::Relaxed);
            }
            // Proposed tokens count when they are chosen.
            let ahead = std::mem::take(&mut sequence.ahead);
            let proposed = ahead.get(1..).unwrap_or_default();
            sequence.cached += scheduled.tokens - proposed.len();
            if core.sharing.is_on() {
                sequence.share(&mut core.pool);
            }
            let Some(entry) = core.entries.get_mut(&scheduled.id) else {
                continue;
            };
            if entry.control.cancelled.load(Ordering::SeqCst) {
                continue; // ends at the next step
            }
            let end = match &mut entry.task {
                Task::Generate(generation) if count > 0 => {
                    let mut accepted = 0;
                    let longest = sequence.longest(self.context_length);
                    // Computed again behind a pre-emption: what it kept is of no use.
                    drop(generation.release());
                    let end = loop {
                        let row = logits.row(row + accepted);
                        if !generation.is_ready(patience) {
                            generation.hold(row);
                            break None;
                        }
                        counters.generated_tokens.fetch_add(1, Ordering::Relaxed);
                        let scratch = &mut core.candidates;
                        let end = generation.advance(sequence, row, scratch, longest, clock);
                        if end.is_some() || proposed.get(accepted) != sequence.tokens.last() {
                            break end;
                        }
                        accepted += 1;
                        sequence.cached += 1;
                    };
                    counters.proposed(proposed.len(), accepted);
                    generation.verified(proposed.len(), accepted);
                    if accepted > 0 && core.sharing.is_on() {
                        sequence.share(&mut core.pool);
                    }
                    if end.is_none() && !proposed.is_empty() {
                        sequence.forget_ahead(&mut core.pool);
                    }
                    end
                }
                Task::Generate(_) => None,
                Task::Job(job) => {
                    let rows = Rows {
                        first: row,
                        count,
                        position: sequence.cached - count,
                    };
                    match job.advance(sequence, logits, hidden, rows, &self.cache) {
                        Progress::More => None,
                        Progress::Restart(tokens) => {
                            sequence.restart(tokens, &mut core.pool);
                            None
                        }
                        Progress::Done => Some(Ok(FinishReason::Stop)),
                        Progress::Failed(error) => Some(Err(error)),
                    }
                }
            };
            if let Some(end) = end {
                let end = end.map_err(|error| {
                    let operators = self.shared.operators.snapshot();
                    error.with_operators(operators.iter().map(|it| it.name().to_owned()))
                });
                core.ended.push(scheduled.id);
                let entry = core.entries.remove(&scheduled.id);
                let end = entry.map(|entry| entry.end(end, &self.shared));
                core.untold.extend(end);
            }
        }
        for id in core.ended.drain(..) {
            core.scheduler.remove(id, &mut core.pool);
        }
    }

    /// Requests that the program's code failed for end; the others go on.
    fn drop_failed(&mut self) {
        let core = &mut self.core;
        for (id, error) in core.failed.drain(..) {
            core.scheduler.remove(id, &mut core.pool);
            if let Some(entry) = core.entries.remove(&id) {
                core.untold.push_back(entry.end(Err(error), &self.shared));
            }
        }
    }

    /// Everyone in the step gets the error; the others go on.
    fn fail_step(&mut self, error: ModelError) {
        let ids: Vec<_> = self
            .core
            .step
            .iter()
            .map(|scheduled| scheduled.id)
            .collect();
        self.fail_all(&ids, error);
    }

    fn fail_all(&mut self, ids: &[SequenceId], error: ModelError) {
        let error = Arc::new(error);
        let core = &mut self.core;
        for &id in ids {
            core.scheduler.remove(id, &mut core.pool);
            if let Some(entry) = core.entries.remove(&id) {
                let error = EngineError::Model(Arc::clone(&error));
                core.untold.push_back(entry.end(Err(error), &self.shared));
            }
        }
    }
}
