//! What the engine thread shares with the threads that talk to it: flags and counters. No model state.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::EngineError;
use crate::eviction::Ranker;
use crate::operators::Operators;
use crate::profiler::Profiler;
use crate::sequence::SequenceId;

/// Counters of an engine, each a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait for their first step.
    pub waiting: usize,
    /// Blocks of the cache.
    pub kv_blocks: usize,
    /// Blocks that a new request can have, the kept ones included.
    pub kv_blocks_free: usize,
    /// Blocks that no request uses and the prefix cache keeps until they are wanted.
    pub kv_blocks_kept: usize,
    /// Tokens of the requests that were begun, each time that one was (after a pre-emption, again).
    pub prefix_tokens: u64,
    /// Of those, the ones that were in the prefix cache, and so not computed.
    pub prefix_tokens_reused: u64,
    /// Steps computed.
    pub steps: u64,
    /// Prompt tokens computed, recomputed ones included.
    pub prompt_tokens: u64,
    /// Tokens chosen.
    pub generated_tokens: u64,
    /// Tokens that were proposed ahead ([`GenerateRequest::prompt_lookup`](crate::GenerateRequest::prompt_lookup)).
    pub proposed_tokens: u64,
    /// Of those, the ones that were chosen: steps that were saved.
    pub accepted_tokens: u64,
    /// Sequences that had to give their blocks back and be computed again.
    pub preemptions: u64,
    /// Blocks that requests gave back before they ended ([`Eviction`](crate::Eviction)).
    pub evicted_blocks: u64,
    /// How often the holes in the cache were closed.
    pub compactions: u64,
    /// Blocks that moved then.
    pub kv_blocks_moved: u64,
    /// Masks of constrained requests that were waited for.
    pub masks: u64,
    /// Nanoseconds that computing them took, beside the forward pass.
    pub mask_nanos: u64,
    /// Nanoseconds that the engine's thread waited for them after the forward pass.
    pub mask_wait_nanos: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub running: AtomicUsize,
    pub kv_blocks: AtomicUsize,
    pub kv_blocks_free: AtomicUsize,
    pub kv_blocks_kept: AtomicUsize,
    pub prefix_tokens: AtomicU64,
    pub prefix_tokens_reused: AtomicU64,
    pub steps: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
    pub proposed_tokens: AtomicU64,
    pub accepted_tokens: AtomicU64,
    pub preemptions: AtomicU64,
    pub evicted_blocks: AtomicU64,
    pub compactions: AtomicU64,
    pub kv_blocks_moved: AtomicU64,
    pub masks: AtomicU64,
    pub mask_nanos: AtomicU64,
    pub mask_wait_nanos: AtomicU64,
}

impl Counters {
    /// Counts a proposal and what came of it.
    pub fn proposed(&self, proposed: usize, accepted: usize) {
        self.proposed_tokens
            .fetch_add(proposed as u64, Ordering::Relaxed);
        self.accepted_tokens
            .fetch_add(accepted as u64, Ordering::Relaxed);
    }
}

/// Stops a running step, and has the engine thread look at its flags again.
pub(crate) struct Interrupt {
    /// Looked at between the layers of a forward pass.
    pub stop: AtomicBool,
    /// The sequence that has the running step to itself; 0 when there is none.
    pub alone: AtomicU64,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Interrupt {
    /// Has the engine thread look at its flags again.
    pub fn wake(&self) {
        (self.wake)();
    }

    /// Stops the running step if `id` has it to itself. A stop that comes too late hits another step, which is then
    /// computed again: it changes nothing.
    pub fn stop_step_of(&self, id: SequenceId) {
        if self.alone.load(Ordering::SeqCst) == id {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").finish_non_exhaustive()
    }
}

pub(crate) struct EngineState {
    pub interrupt: Arc<Interrupt>,
    /// Requests that have not had their first step.
    pub queued: AtomicUsize,
    pub disposed: AtomicBool,
    /// The message of a panic that ended the engine thread's work.
    pub panicked: OnceLock<Arc<str>>,
    pub counters: Counters,
    pub profiler: Profiler,
    pub operators: Operators,
    pub ranker: Ranker,
}

impl std::fmt::Debug for EngineState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineState")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl EngineState {
    /// `wake` has the engine thread look at its flags again.
    pub fn new(wake: impl Fn() + Send + Sync + 'static, layers: usize) -> Self {
        Self {
            interrupt: Arc::new(Interrupt {
                stop: AtomicBool::new(false),
                alone: AtomicU64::new(0),
                wake: Box::new(wake),
            }),
            queued: AtomicUsize::new(0),
            disposed: AtomicBool::new(false),
            panicked: OnceLock::new(),
            counters: Counters::default(),
            profiler: Profiler::new(layers),
            operators: Operators::default(),
            ranker: Ranker::default(),
        }
    }

    /// Whether the engine still takes requests.
    pub fn check_alive(&self) -> Result<(), EngineError> {
        if self.disposed.load(Ordering::SeqCst) {
            return Err(EngineError::Disposed);
        }
        match self.panicked.get() {
            Some(message) => Err(EngineError::Panicked {
                message: Arc::clone(message),
            }),
            None => Ok(()),
        }
    }

    /// Takes a place in the queue, if one is left.
    pub fn enqueue(&self, limit: usize) -> Result<(), EngineError> {
        let take = |n: usize| (n < limit).then_some(n + 1);
        match self
            .queued
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(EngineError::QueueFull { limit }),
        }
    }

    /// Gives the place in the queue back.
    pub fn dequeue(&self) {
        self.queued.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn stats(&self) -> EngineStats {
        let c = &self.counters;
        EngineStats {
            running: c.running.load(Ordering::Relaxed),
            waiting: self.queued.load(Ordering::Relaxed),
            kv_blocks: c.kv_blocks.load(Ordering::Relaxed),
            kv_blocks_free: c.kv_blocks_free.load(Ordering::Relaxed),
            kv_blocks_kept: c.kv_blocks_kept.load(Ordering::Relaxed),
            prefix_tokens: c.prefix_tokens.load(Ordering::Relaxed),
            prefix_tokens_reused: c.prefix_tokens_reused.load(Ordering::Relaxed),
            steps: c.steps.load(Ordering::Relaxed),
            prompt_tokens: c.prompt_tokens.load(Ordering::Relaxed),
            generated_tokens: c.generated_tokens.load(Ordering::Relaxed),
            proposed_tokens: c.proposed_tokens.load(Ordering::Relaxed),
            accepted_tokens: c.accepted_tokens.load(Ordering::Relaxed),
            preemptions: c.preemptions.load(Ordering::Relaxed),
            evicted_blocks: c.evicted_blocks.load(Ordering::Relaxed),
            compactions: c.compactions.load(Ordering::Relaxed),
            kv_blocks_moved: c.kv_blocks_moved.load(Ordering::Relaxed),
            masks: c.masks.load(Ordering::Relaxed),
            mask_nanos: c.mask_nanos.load(Ordering::Relaxed),
            mask_wait_nanos: c.mask_wait_nanos.load(Ordering::Relaxed),
        }
    }
}
