//! The engine thread's loop: schedule → run → postprocess. It alone holds what changes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use ryz_kvcache::{BLOCK_TOKENS, BlockPool, KvCache};
use ryz_model::{BatchSequence, Model, ModelError, Outputs, RunState};
use ryz_numa::Lease;
use ryz_profile::{Phase, Step};
use ryz_tokenizer::Tokenizer;

use crate::error::EngineError;
use crate::generation::Generation;
use crate::jobs::{Progress, Rows};
use crate::memory::{self, Compaction};
use crate::operators::{Registered, StepOperators};
use crate::prefix::Sharing;
use crate::profiler::{RecordedStep, operations_of_a_step};
use crate::sampler::Candidates;
use crate::scheduler::{Limits, Scheduled, Scheduler};
use crate::sequence::{Sequence, SequenceId, Wanted};
use crate::shared::{Command, Shared};
use crate::speculation::{Draft, Wish};
use crate::submission::{Entry, Submission, Task, Work};

/// Everything that changes while requests run.
struct Executor {
    model: Model,
    state: RunState,
    cache: KvCache,
    lease: Lease,
    draft: Option<Draft>,
    tokenizer: Tokenizer,
    context_length: usize,
    shared: Arc<Shared>,
    core: Core,
}

/// The part of the state that is not the model's.
struct Core {
    pool: BlockPool,
    sharing: Sharing,
    scheduler: Scheduler,
    entries: HashMap<SequenceId, Entry>,
    candidates: Candidates,
    step: Vec<Scheduled>,
    ended: Vec<SequenceId>,
    /// Requests that operators or the ranker of blocks failed for.
    failed: Vec<(SequenceId, EngineError)>,
    limits: Limits,
    compact_above: f64,
    /// Blocks that were free when the fragmentation was last looked at.
    available: usize,
}

/// What an executor is made from.
pub(crate) struct ExecutorParts {
    pub model: Model,
    pub state: RunState,
    pub cache: KvCache,
    pub pool: BlockPool,
    pub prefix_cache: bool,
    pub compact_above: f64,
    pub lease: Lease,
    pub draft: Option<Draft>,
    pub tokenizer: Tokenizer,
    pub context_length: usize,
    pub limits: Limits,
    pub shared: Arc<Shared>,
}

/// Works until it is told to dispose. A panic on the way ends every live request with an error; later ones are refused.
pub(crate) fn run(parts: ExecutorParts, commands: &Receiver<Command>) {
    let mut executor = Executor::new(parts);
    let worked = catch_unwind(AssertUnwindSafe(|| executor.work(commands)));
    let Err(panic) = worked else { return };
    let message = panic_message(panic.as_ref());
    // Set before anyone is told, so that whoever hears of it and tries again is refused.
    drop(executor.shared.panicked.set(Arc::clone(&message)));
    let error = || EngineError::Panicked {
        message: Arc::clone(&message),
    };
    for (_, entry) in executor.core.entries.drain() {
        // A consumer that panicked may do so again.
        drop(catch_unwind(AssertUnwindSafe(|| {
            entry.fail(error(), &executor.shared)
        })));
    }
    while let Ok(command) = commands.recv() {
        match command {
            Command::Submit(submission) => {
                drop(catch_unwind(AssertUnwindSafe(|| submission.fail(error()))));
            }
            Command::Compact(request) => {
                drop(catch_unwind(AssertUnwindSafe(|| {
                    request.answer(Err(error()))
                })));
            }
            Command::Restore(mut request) => {
                drop(catch_unwind(AssertUnwindSafe(|| {
                    request.answer(Err(error()))
                })));
            }
            Command::Wake | Command::ClearPrefixes => {}
            Command::Dispose => return,
        }
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> Arc<str> {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Arc::from(text.unwrap_or("no message"))
}

impl Executor {
    fn new(parts: ExecutorParts) -> Self {
        let core = Core {
            pool: parts.pool,
            sharing: Sharing::new(parts.prefix_cache),
            scheduler: Scheduler::new(parts.limits),
            entries: HashMap::new(),
            candidates: Candidates::new(parts.model.config().vocab_size),
            step: Vec::new(),
            ended: Vec::new(),
            failed: Vec::new(),
            limits: parts.limits,
            compact_above: parts.compact_above,
            available: 0,
        };
        Self {
            model: parts.model,
            state: parts.state,
            cache: parts.cache,
            lease: parts.lease,
            draft: parts.draft,
            tokenizer: parts.tokenizer,
            context_length: parts.context_length,
            shared: parts.shared,
            core,
        }
    }

    fn work(&mut self, commands: &Receiver<Command>) {
        let mut idle = true;
        self.publish();
        loop {
            if self.receive(commands, idle).is_break() {
                self.end_all();
                return;
            }
            idle = !self.step();
            self.compact_if_fragmented();
            self.publish();
        }
    }

    /// Takes all commands there are; waits for one when there is nothing else to do.
    fn receive(&mut self, commands: &Receiver<Command>, idle: bool) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        if idle {
            let command = if self.core.scheduler.waits_for_paused() {
                commands.recv_timeout(self.core.limits.patience)
            } else {
                commands.recv().map_err(RecvTimeoutError::from)
            };
            match command {
                Ok(command) => self.obey(command)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Break(()),
            }
        }
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Continue(()),
                Err(TryRecvError::Disconnected) => return Break(()),
            }
        }
    }

    fn obey(&mut self, command: Command) -> std::ops::ControlFlow<()> {
        match command {
            Command::Submit(submission) => self.add(*submission),
            Command::Compact(request) => {
                let compaction = self.compact();
                request.answer(Ok(compaction));
            }
            Command::Restore(mut request) => {
                self.follow_operators();
                let (core, cache) = (&mut self.core, &mut self.cache);
                let restored = request.carry_out(cache, &mut core.pool, core.sharing.is_on());
                // Whoever hears of it finds it in the counters.
                self.publish();
                request.answer(restored);
            }
            Command::ClearPrefixes => drop(self.core.pool.drop_kept()),
            Command::Wake => {}
            Command::Dispose => return std::ops::ControlFlow::Break(()),
        }
        std::ops::ControlFlow::Continue(())
    }

    fn add(&mut self, mut submission: Submission) {
        let Some(work) = submission.work.take() else {
            return;
        };
        let control = Arc::clone(&submission.control);
        let tokens = std::mem::take(&mut submission.tokens);
        let id = control.id;
        let eviction = submission.eviction;
        let mut priority = 0;
        let (task, wanted) = match work {
            Work::Generate(parts) => {
                priority = parts.priority;
                let generation =
                    Generation::new(*parts, &tokens, &self.tokenizer, Arc::clone(&control));
                (Task::Generate(Box::new(generation)), Wanted::Last)
            }
            Work::Job(job) => {
                let wanted = job.wanted();
                (Task::Job(job), wanted)
            }
        };
        let entry = Entry {
            control,
            task,
            started: false,
        };
        self.core.entries.insert(id, entry);
        let sequence = Sequence::new(id, tokens, wanted)
            .evicting(eviction, self.context_length)
            .prioritized(priority);
        self.core.scheduler.add(sequence);
    }

    fn compact(&mut self) -> Compaction {
        let core = &mut self.core;
        let compaction = memory::compact(&mut self.cache, &mut core.pool, &mut core.scheduler);
        let counters = &self.shared.counters;
        counters.compactions.fetch_add(1, Ordering::Relaxed);
        counters
            .kv_blocks_moved
            .fetch_add(compaction.moves.len() as u64, Ordering::Relaxed);
        compaction
    }

    /// Compacts once blocks were freed that leave too many holes. Where nothing lives there are none: an idle engine keeps
    /// its pages for the next request.
    fn compact_if_fragmented(&mut self) {
        let core = &mut self.core;
        let before = std::mem::replace(&mut core.available, core.pool.available());
        if core.available > before && core.pool.view().fragmentation() > core.compact_above {
            self.compact();
        }
    }

    /// The operators of the next step; with any, sequences share no blocks.
    fn follow_operators(&mut self) -> Arc<[Arc<Registered>]> {
        let operators = self.shared.operators.snapshot();
        let Core {
            sharing,
            pool,
            scheduler,
            ..
        } = &mut self.core;
        sharing.follow(!operators.is_empty(), pool, scheduler);
        operators
    }

    /// One step. `false` when there was nothing to compute.
    fn step(&mut self) -> bool {
        let now = Instant::now();
        let mut recorded = self.record(now);
        self.drop_cancelled();
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
        }
        let computed = self.forward(&operators);
        self.drop_failed();
        match computed {
            Ok(()) => self.postprocess(),
            Err(ModelError::Aborted) => {} // the cancelled one goes at the next step; others are computed again
            Err(error) => self.fail_step(error),
        }
        if let Some(recorded) = recorded {
            self.book(recorded);
        }
        true
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
            Some(Wish {
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

    /// Sets the clock of the step that begins, where the engine is being profiled.
    fn record(&mut self, now: Instant) -> Option<RecordedStep> {
        let profiler = &self.shared.profiler;
        let profiled = profiler.is_recording();
        let observer = profiler.observer();
        let recording = profiled || observer.is_some();
        if profiled {
            profiler.caches.open(&self.lease);
        }
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
    fn count(&mut self, step: &mut Step) {
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
    fn book(&mut self, mut recorded: RecordedStep) {
        let mut profile = recorded.profiled.then(|| self.shared.profiler.lock());
        for (layer, activity) in self.state.take_activity().enumerate() {
            recorded.step.skipped_bytes += activity.skipped_bytes;
            if let Some(profile) = &mut profile {
                profile.add_activity(layer, activity);
            }
        }
        let read = &mut recorded.step.weight_bytes;
        *read = read.saturating_sub(recorded.step.skipped_bytes);
        let mut clock = self.state.clock();
        clock.lap(Phase::Schedule, None);
        recorded.step.wall = recorded.began.elapsed();
        if let Some(observer) = recorded.observer {
            observer.step(clock.operations());
        }
        match profile {
            Some(mut profile) => profile.add_step(recorded.step, &mut clock),
            None => clock.clear(),
        }
    }

    fn forward(&mut self, operators: &[Arc<Registered>]) -> Result<(), ModelError> {
        let core = &self.core;
        let alone = match core.step.as_slice() {
            [only] => only.id,
            _ => 0,
        };
        // In this order: a cancel either sees who is alone and stops the pass, or is seen here.
        self.shared.stop.store(false, Ordering::SeqCst);
        self.shared.alone.store(alone, Ordering::SeqCst);
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
            })
            .collect();
        debug_assert_eq!(batch.len(), core.step.len());
        let (lease, stop) = (&self.lease, &self.shared.stop);
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
        self.shared.alone.store(0, Ordering::SeqCst);
        result
    }

    /// Requests that the program's code failed for end; the others go on.
    fn drop_failed(&mut self) {
        let core = &mut self.core;
        for (id, error) in core.failed.drain(..) {
            core.scheduler.remove(id, &mut core.pool);
            if let Some(entry) = core.entries.remove(&id) {
                entry.fail(error, &self.shared);
            }
        }
    }

    fn postprocess(&mut self) {
        let core = &mut self.core;
        let counters = &self.shared.counters;
        counters.steps.fetch_add(1, Ordering::Relaxed);
        let logits = self.state.logits();
        let hidden = self.state.hidden();
        let clock = &mut *self.state.clock();
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
            match &mut entry.task {
                Task::Generate(generation) if count > 0 => {
                    let mut accepted = 0;
                    let longest = sequence.longest(self.context_length);
                    loop {
                        counters.generated_tokens.fetch_add(1, Ordering::Relaxed);
                        let row = logits.row(row + accepted);
                        let scratch = &mut core.candidates;
                        if generation.advance(sequence, row, scratch, longest, clock) {
                            core.ended.push(scheduled.id);
                            break;
                        }
                        if proposed.get(accepted) != sequence.tokens.last() {
                            break;
                        }
                        accepted += 1;
                        sequence.cached += 1;
                    }
                    counters.proposed(proposed.len(), accepted);
                    generation.verified(proposed.len(), accepted);
                    if accepted > 0 && core.sharing.is_on() {
                        sequence.share(&mut core.pool);
                    }
                    if core.ended.last() == Some(&scheduled.id) {
                        core.entries.remove(&scheduled.id);
                    } else if !proposed.is_empty() {
                        sequence.forget_ahead(&mut core.pool);
                    }
                }
                Task::Generate(_) => {}
                Task::Job(job) => {
                    let rows = Rows {
                        first: row,
                        count,
                        position: sequence.cached - count,
                    };
                    match job.advance(sequence, logits, hidden, rows, &self.cache) {
                        Progress::More => {}
                        Progress::Restart(tokens) => sequence.restart(tokens, &mut core.pool),
                        Progress::Done => {
                            core.ended.push(scheduled.id);
                            if let Some(Entry {
                                task: Task::Job(job),
                                ..
                            }) = core.entries.remove(&scheduled.id)
                            {
                                job.finish();
                            }
                        }
                    }
                }
            }
        }
        for id in core.ended.drain(..) {
            core.scheduler.remove(id, &mut core.pool);
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
                entry.fail(EngineError::Model(Arc::clone(&error)), &self.shared);
            }
        }
    }

    fn drop_cancelled(&mut self) {
        let core = &mut self.core;
        core.ended.clear();
        for (&id, entry) in &core.entries {
            if entry.control.cancelled.load(Ordering::SeqCst) {
                core.ended.push(id);
            }
        }
        for id in core.ended.drain(..) {
            core.scheduler.remove(id, &mut core.pool);
            if let Some(entry) = core.entries.remove(&id) {
                entry.abort(&self.shared);
            }
        }
    }

    /// Cancels every request.
    fn end_all(&mut self) {
        for (id, entry) in self.core.entries.drain() {
            self.core.scheduler.remove(id, &mut self.core.pool);
            entry.fail(EngineError::Disposed, &self.shared);
        }
        self.publish();
    }

    fn publish(&self) {
        let counters = &self.shared.counters;
        let core = &self.core;
        counters
            .running
            .store(core.scheduler.running(), Ordering::Relaxed);
        counters
            .kv_blocks
            .store(core.pool.capacity(), Ordering::Relaxed);
        counters
            .kv_blocks_free
            .store(core.pool.available(), Ordering::Relaxed);
        counters
            .preemptions
            .store(core.scheduler.preemptions(), Ordering::Relaxed);
        counters
            .evicted_blocks
            .store(core.scheduler.evicted(), Ordering::Relaxed);
        counters
            .kv_blocks_kept
            .store(core.pool.kept(), Ordering::Relaxed);
        let (asked, reused) = core.scheduler.prefix_tokens();
        counters.prefix_tokens.store(asked, Ordering::Relaxed);
        counters
            .prefix_tokens_reused
            .store(reused, Ordering::Relaxed);
    }
}
