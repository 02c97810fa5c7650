//! Decides what the next step computes; it computes nothing and holds no tensors.
//!
//! Sequences wait in the order of their priorities, equal ones in the order they came, and are admitted when there is a slot and blocks for all their tokens. A step
//! takes one token of every decoding sequence and fills up with chunks of prompts, so that a long prompt does not stall
//! the others; prompts of equal priority take turns at being first. A sequence whose consumer takes no more is left out.
//!
//! A sequence begins behind the blocks that others have computed for the same tokens ([`crate::prefix`]). Blocks that nobody
//! uses are kept for such sequences until they are wanted.
//!
//! Sequences that forget ([`crate::eviction`]) give back what they do not see any more before each of their steps, and take
//! blocks as they go on.
//!
//! When a sequence that goes on needs a block and none can be had, another gives all of its blocks back and waits at the front
//! to be computed again: first one that is paused, then the youngest of those with the least priority. The oldest of the
//! others can always go on, since the pool holds at least one full context. One with less priority makes room, too, for one
//! with more that waits.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ryz_kvcache::BlockPool;
use ryz_model::Outputs;

use crate::sequence::{LogitPositions, Sequence, SequenceId};

/// What bounds a step.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences that run at once.
    pub max_sequences: usize,
    /// Prompt tokens per step, on top of one per decoding sequence.
    pub prefill_chunk: usize,
    /// Positions per step of sequences that want the logits of all.
    pub score_chunk: usize,
    /// How long a paused sequence keeps its place while others wait for it.
    pub patience: Duration,
}

/// One sequence's part of a step: its next `tokens` pending tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduledTokens {
    /// The sequence.
    pub id: SequenceId,
    /// How many of its pending tokens.
    pub tokens: usize,
    /// Which of them want logits.
    pub outputs: Outputs,
}

/// Who waits, who runs, and how often someone had to make room.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// The greatest priority first.
    waiting: VecDeque<Sequence>,
    /// In the order of admission.
    running: Vec<Sequence>,
    /// Whose turn it is to be first among the prompts.
    turn: usize,
    preemptions: u64,
    /// Blocks that sequences gave back before they ended.
    evicted: u64,
    /// Tokens of admitted sequences, and those of them that were cached already.
    asked: u64,
    reused: u64,
}

impl Scheduler {
    /// An empty scheduler.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            running: Vec::with_capacity(limits.max_sequences),
            turn: 0,
            preemptions: 0,
            evicted: 0,
            asked: 0,
            reused: 0,
        }
    }

    /// Adds a sequence to the queue, behind those of its priority.
    pub fn add(&mut self, sequence: Sequence) {
        let priority = sequence.priority;
        let index = self.waiting.partition_point(|s| s.priority >= priority);
        self.waiting.insert(index, sequence);
    }

    /// Sequences that wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that run, paused ones included.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How often a sequence had to give its blocks back.
    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// Blocks that sequences gave back before they ended.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Tokens of the sequences that were admitted, each time that they were, and those of them that did not have to be
    /// computed.
    pub fn prefix_tokens(&self) -> (u64, u64) {
        (self.asked, self.reused)
    }

    /// A sequence that runs.
    pub fn get(&self, id: SequenceId) -> Option<&Sequence> {
        self.running.iter().find(|s| s.id == id)
    }

    /// A sequence that runs, to be advanced.
    pub fn get_mut(&mut self, id: SequenceId) -> Option<&mut Sequence> {
        self.running.iter_mut().find(|s| s.id == id)
    }

    /// Sequences that run, paused ones included.
    pub fn running_sequences(&self) -> impl Iterator<Item = &Sequence> + Clone {
        self.running.iter()
    }

    /// All sequences.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sequence> {
        self.running.iter_mut().chain(&mut self.waiting)
    }

    /// Takes a sequence out and frees its blocks.
    pub fn remove(&mut self, id: SequenceId, pool: &mut BlockPool) -> Option<Sequence> {
        let mut sequence = match self.running.iter().position(|s| s.id == id) {
            Some(index) => self.running.remove(index),
            None => {
                let index = self.waiting.iter().position(|s| s.id == id)?;
                self.waiting.remove(index)?
            }
        };
        sequence.release(pool);
        Some(sequence)
    }

    /// Whether a waiting sequence could go on once a paused one loses patience's protection, so that an idle engine
    /// must look again without being told.
    pub fn waits_for_paused(&self) -> bool {
        self.waiting.iter().any(|s| s.paused_since.is_none())
            && self.running.iter().any(|s| s.paused_since.is_some())
    }

    /// Fills `step` with what to compute next; empty when nothing can go on.
    pub fn schedule(
        &mut self,
        pool: &mut BlockPool,
        now: Instant,
        step: &mut Vec<ScheduledTokens>,
    ) {
        step.clear();
        let proposed = self.decode(pool, step);
        let admitted = self.admit(pool, now, step);
        self.prefill(admitted, proposed, pool, step);
    }

    /// One token of every decoding sequence, oldest first, with those proposed to follow it; and a block for every other that
    /// takes them as it goes on. How many are proposed.
    fn decode(&mut self, pool: &mut BlockPool, step: &mut Vec<ScheduledTokens>) -> usize {
        // Half of a step is left to prompts, or they might wait for as long as proposals hold.
        let most = self.limits.prefill_chunk.min(self.limits.score_chunk) / 2;
        let mut proposed = 0;
        let mut index = 0;
        while index < self.running.len() {
            let spare = self.running.len();
            let sequence = &mut self.running[index];
            let decodes = sequence.is_decoding();
            if sequence.paused_since.is_some() || !(decodes || sequence.retention.is_rolling()) {
                index += 1;
                continue;
            }
            self.evicted += sequence.evict(pool) as u64;
            if sequence.allocate(pool) {
                index += 1;
                if !decodes {
                    continue;
                }
                let ahead = sequence.allocate_ahead(pool, most - proposed, spare);
                proposed += ahead;
                step.push(ScheduledTokens {
                    id: sequence.id,
                    tokens: 1 + ahead,
                    outputs: if ahead > 0 {
                        Outputs::All
                    } else {
                        Outputs::Last
                    },
                });
                continue;
            }
            // Someone must make room: a paused one, else the youngest of the least priority, which may be this one.
            let paused = self.running.iter().rposition(|s| s.paused_since.is_some());
            let least = self.running.iter().map(|s| s.priority).min();
            let youngest = || self.running.iter().rposition(|s| Some(s.priority) == least);
            let victim = paused.or_else(youngest).unwrap_or(index);
            self.preempt(victim, pool, step);
            if victim < index {
                index -= 1;
            }
        }
        proposed
    }

    /// Admits waiting sequences while there are slots and blocks. Where in `running` those are that were.
    fn admit(
        &mut self,
        pool: &mut BlockPool,
        now: Instant,
        step: &mut Vec<ScheduledTokens>,
    ) -> usize {
        let mut index = 0;
        let mut admitted = self.running.len();
        while index < self.waiting.len() {
            if self.waiting[index].paused_since.is_some() {
                index += 1; // nobody reads it: the next may pass
                continue;
            }
            let found = self.waiting[index].find(pool);
            let needed = self.waiting[index].needed_blocks() - found.blocks;
            let available = pool.available() - found.kept;
            if self.running.len() >= self.limits.max_sequences || needed > available {
                let tired = |s: &Sequence| {
                    s.paused_since.is_some_and(|since| {
                        now.saturating_duration_since(since) >= self.limits.patience
                    })
                };
                let tired = self.running.iter().rposition(tired);
                let Some(victim) = tired.or_else(|| self.lesser(index, needed, available)) else {
                    return admitted; // in order: a later, smaller one must not starve this one
                };
                let place = self.preempt(victim, pool, step);
                admitted -= usize::from(victim < admitted);
                index += usize::from(place <= index);
                continue;
            }
            let Some(mut sequence) = self.waiting.remove(index) else {
                return admitted;
            };
            self.asked += sequence.tokens.len() as u64;
            self.reused += sequence.reuse(pool) as u64;
            let complete = sequence.allocate(pool);
            debug_assert!(complete);
            self.running.push(sequence);
        }
        admitted
    }

    /// Who makes room for the waiting one at `index`, which needs so many blocks of those available: the youngest of the least
    /// priority, if that is less than its own and all of those together have enough.
    fn lesser(&self, index: usize, needed: usize, available: usize) -> Option<usize> {
        let priority = self.waiting[index].priority;
        let least = self.running.iter().map(|s| s.priority).min()?;
        let lesser = self.running.iter().filter(|s| s.priority < priority);
        let theirs: usize = lesser.map(|s| s.block_table.len()).sum();
        let enough = least < priority && available + theirs >= needed;
        let youngest = || self.running.iter().rposition(|s| s.priority == least);
        enough.then(youngest)?
    }

    /// Chunks of prompts, the greatest priority first, in the room that `proposed` tokens leave. The order of equals rotates.
    /// Of those who were just `admitted` one may be decoding already: it found the rest of its tokens.
    fn prefill(
        &mut self,
        admitted: usize,
        proposed: usize,
        pool: &mut BlockPool,
        step: &mut Vec<ScheduledTokens>,
    ) {
        let mut budget = self.limits.prefill_chunk - proposed;
        let mut outputs = self.limits.score_chunk - proposed;
        let count = self.running.len();
        let mut level = self.running.iter().map(|s| s.priority).max();
        let mut offset = 0;
        while let Some(priority) = level {
            if offset == count {
                let below = |s: &Sequence| (s.priority < priority).then_some(s.priority);
                level = self.running.iter().filter_map(below).max();
                offset = 0;
                continue;
            }
            let index = (self.turn + offset) % count;
            offset += 1;
            let sequence = &mut self.running[index];
            if sequence.priority != priority {
                continue;
            }
            let decodes = index < admitted && sequence.is_decoding();
            if sequence.paused_since.is_some() || decodes || sequence.pending() == 0 {
                continue;
            }
            // Another may have computed more of it by now.
            self.reused += sequence.reuse(pool) as u64;
            let pending = sequence.pending();
            let mut tokens = match sequence.wanted {
                LogitPositions::Last => pending.min(budget),
                LogitPositions::All => pending.min(budget).min(outputs),
            };
            if sequence.retention.is_rolling() {
                tokens = sequence.allocate_chunk(pool, tokens, count);
            }
            if tokens == 0 {
                continue;
            }
            budget -= tokens;
            let wanted = match sequence.wanted {
                LogitPositions::All => {
                    outputs -= tokens;
                    Outputs::All
                }
                LogitPositions::Last if tokens == pending => Outputs::Last,
                LogitPositions::Last => Outputs::None,
            };
            step.push(ScheduledTokens {
                id: sequence.id,
                tokens,
                outputs: wanted,
            });
        }
        self.turn = self.turn.wrapping_add(1) % count.max(1);
    }

    /// Makes a running sequence wait, without blocks and without its part of the step, before the others of its priority. Its
    /// place among those who wait.
    fn preempt(
        &mut self,
        index: usize,
        pool: &mut BlockPool,
        step: &mut Vec<ScheduledTokens>,
    ) -> usize {
        let mut sequence = self.running.remove(index);
        step.retain(|scheduled| scheduled.id != sequence.id);
        sequence.release(pool);
        let priority = sequence.priority;
        let place = self.waiting.partition_point(|s| s.priority > priority);
        self.waiting.insert(place, sequence);
        self.preemptions += 1;
        place
    }
}

#[cfg(test)]
mod tests;
