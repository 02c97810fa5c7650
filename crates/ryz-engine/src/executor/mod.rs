//! The engine thread's loop: commands, a step, what it keeps of its memory. It alone holds what changes.

mod recording;
mod step;

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};

use ryz_kvcache::{BlockPool, KvCache};
use ryz_model::{Model, RunState};
use ryz_numa::Lease;
use ryz_tokenizer::Tokenizer;

use self::recording::Sampling;
use crate::command::Command;
use crate::error::EngineError;
use crate::generation::Generation;
use crate::memory::{self, Compaction};
use crate::operators::OperatorEntry;
use crate::prefix::Sharing;
use crate::request::FinishReason;
use crate::sampler::Candidates;
use crate::scheduler::{Limits, ScheduledTokens, Scheduler};
use crate::sequence::{LogitPositions, Sequence, SequenceId};
use crate::speculation::Draft;
use crate::state::EngineState;
use crate::submission::{End, Entry, SchedulingOptions, Submission, Task, Work};
use crate::threads::panic_message;

/// Everything that changes while requests run.
struct Executor {
    model: Model,
    state: RunState,
    cache: KvCache,
    lease: Lease,
    draft: Option<Draft>,
    tokenizer: Tokenizer,
    context_length: usize,
    shared: Arc<EngineState>,
    sampling: Sampling,
    core: Core,
}

/// The part of the state that is not the model's.
struct Core {
    pool: BlockPool,
    sharing: Sharing,
    scheduler: Scheduler,
    entries: HashMap<SequenceId, Entry>,
    candidates: Candidates,
    step: Vec<ScheduledTokens>,
    ended: Vec<SequenceId>,
    /// How those ended that kept logits, in the order of `ended`.
    held_ends: Vec<Result<FinishReason, EngineError>>,
    /// Who is to be told of an end, once the step is in the profile.
    untold: VecDeque<End>,
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
    pub shared: Arc<EngineState>,
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
    let core = &mut executor.core;
    let live = core.entries.drain();
    let live = live.map(|(_, entry)| entry.end(Err(error()), &executor.shared));
    for end in core.untold.drain(..).chain(live) {
        // A consumer that panicked may do so again.
        drop(catch_unwind(AssertUnwindSafe(|| end.tell())));
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
            held_ends: Vec::new(),
            untold: VecDeque::new(),
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
            sampling: Sampling::default(),
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
            self.tell();
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
        let SchedulingOptions {
            eviction, priority, ..
        } = submission.terms;
        let (task, wanted) = match work {
            Work::Generate(parts) => {
                let generation =
                    Generation::new(*parts, &tokens, &self.tokenizer, Arc::clone(&control));
                (Task::Generate(Box::new(generation)), LogitPositions::Last)
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
    fn follow_operators(&mut self) -> Arc<[Arc<OperatorEntry>]> {
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
                core.untold.push_back(entry.abort(&self.shared));
            }
        }
    }

    /// Tells the consumers of requests that have ended, each out of the queue first: it may panic. Who hears of an end finds the
    /// step in the profile and the blocks given back in the counters.
    fn tell(&mut self) {
        if !self.core.untold.is_empty() {
            self.publish();
        }
        while let Some(end) = self.core.untold.pop_front() {
            end.tell();
        }
    }

    /// Cancels every request.
    fn end_all(&mut self) {
        for (id, entry) in self.core.entries.drain() {
            self.core.scheduler.remove(id, &mut self.core.pool);
            entry.end(Err(EngineError::Disposed), &self.shared).tell();
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
