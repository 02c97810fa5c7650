//! A sequence: its tokens, which of them are cached, and the blocks that hold them.

mod eviction;

use std::time::Instant;

use ryz_kvcache::{BLOCK_TOKENS, BlockId, BlockPool, PrefixCursor};

use crate::eviction::{Eviction, Retention, blocks_for};

/// Names a sequence for its whole life; never used twice by an engine.
pub type SequenceId = u64;

/// Which of a sequence's positions want logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitPositions {
    /// Only the last one, to choose the next token (or to pool an embedding).
    Last,
    /// Every one, for scoring.
    All,
}

/// One conversation or scoring job, as the scheduler sees it: numbers only, no tensors and no text.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    /// Who has more goes first.
    pub priority: i32,
    /// The prompt, then what was generated.
    pub tokens: Vec<u32>,
    /// How many of the tokens are the prompt.
    pub prompt_len: usize,
    /// How many tokens have their keys and values in the cache.
    pub cached: usize,
    /// The blocks of the cache, 16 positions each, in order; [`BlockId::EVICTED`] in the places of those that it gave back.
    pub block_table: Vec<BlockId>,
    /// How many of the blocks others may find, and as what.
    pub(crate) cursor: PrefixCursor,
    /// Its blocks are nobody else's.
    pub(crate) apart: bool,
    /// What it gives back before it ends.
    pub(crate) retention: Retention,
    /// The token that is due and those proposed to follow it, while they wait for a step or are in it; else empty.
    pub ahead: Vec<u32>,
    /// Which positions want logits.
    pub wanted: LogitPositions,
    /// Since when its consumer has taken no more; such a sequence is not scheduled.
    pub paused_since: Option<Instant>,
}

impl Sequence {
    /// A sequence of which nothing is cached yet.
    pub fn new(id: SequenceId, prompt: Vec<u32>, wanted: LogitPositions) -> Self {
        Self {
            id,
            priority: 0,
            prompt_len: prompt.len(),
            tokens: prompt,
            cached: 0,
            block_table: Vec::new(),
            cursor: PrefixCursor::default(),
            apart: false,
            retention: Retention::default(),
            ahead: Vec::new(),
            wanted,
            paused_since: None,
        }
    }

    /// It, with a policy, in an engine of this context.
    pub fn evicting(mut self, eviction: Eviction, context_length: usize) -> Self {
        self.retention = Retention::new(eviction, blocks_for(context_length));
        self
    }

    /// It, with a priority.
    pub fn prioritized(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Where it ends in an engine of this context.
    pub fn longest(&self, context_length: usize) -> usize {
        if self.retention.goes_on() {
            usize::MAX
        } else {
            context_length
        }
    }

    /// Tokens that are not cached yet: one while decoding, more in prefill.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// Tokens generated so far.
    #[cfg(test)]
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether its next step is one generated token on top of a full cache.
    pub fn is_decoding(&self) -> bool {
        self.wanted == LogitPositions::Last && self.cached >= self.prompt_len && self.pending() == 1
    }

    /// Takes blocks until all its tokens have a place, or, where it gives blocks back, as many as it needs to go on. `false` when
    /// the pool ran out; what was taken is kept.
    pub fn allocate(&mut self, pool: &mut BlockPool) -> bool {
        while self.block_table.len() < self.needed_blocks() {
            let Some(block) = pool.allocate() else {
                return false;
            };
            self.block_table.push(block);
        }
        true
    }

    /// Blocks that its table must have before the next step.
    pub fn needed_blocks(&self) -> usize {
        self.retention.blocks(self.tokens.len())
    }

    /// Takes blocks for what is proposed too, as far as `most` tokens and the pool allow: `spare` blocks of it are left for
    /// others. How many proposed tokens have a place.
    pub fn allocate_ahead(&mut self, pool: &mut BlockPool, most: usize, spare: usize) -> usize {
        let proposed = self.ahead.len().saturating_sub(1).min(most);
        let wanted = blocks_for(self.tokens.len() + proposed);
        while self.block_table.len() < wanted && pool.available() > spare {
            let Some(block) = pool.allocate() else {
                break;
            };
            self.block_table.push(block);
        }
        let places = self.block_table.len() * BLOCK_TOKENS - self.tokens.len();
        let proposed = proposed.min(places);
        self.ahead.truncate(1 + proposed);
        if proposed == 0 {
            self.ahead.clear();
        }
        proposed
    }

    /// Its next `count` tokens to compute, proposed ones included.
    pub fn next_tokens(&self, count: usize) -> &[u32] {
        if self.ahead.is_empty() {
            &self.tokens[self.cached..self.cached + count]
        } else {
            &self.ahead[..count]
        }
    }

    /// Gives back the blocks that only proposed tokens had.
    pub fn forget_ahead(&mut self, pool: &mut BlockPool) {
        self.ahead.clear();
        let needed = blocks_for(self.tokens.len()).min(self.block_table.len());
        self.block_table
            .drain(needed..)
            .for_each(|b| pool.release(b));
    }

    /// Gives all blocks back, the last one first, and forgets what was cached; a later prefill computes it again, but for what
    /// is still kept by then.
    pub fn release(&mut self, pool: &mut BlockPool) {
        let blocks = self.block_table.drain(..).rev();
        let held = blocks.filter(|block| !block.is_evicted());
        held.for_each(|b| pool.release(b));
        self.retention.reset();
        self.cached = 0;
        self.ahead.clear();
        self.cursor = PrefixCursor::default();
        self.apart = false;
    }

    /// The block in which it goes on, when that is begun.
    pub fn unfinished_block(&self) -> Option<BlockId> {
        let begun = !self.cached.is_multiple_of(BLOCK_TOKENS);
        begun.then(|| self.block_table[self.cached / BLOCK_TOKENS])
    }

    /// Begins anew with other tokens, not more than before, on the same blocks, which nobody shares: only those who want all
    /// logits begin anew. One that gives blocks back takes them anew.
    pub fn restart(&mut self, tokens: Vec<u32>, pool: &mut BlockPool) {
        debug_assert_eq!(self.cursor.blocks(), 0);
        self.prompt_len = tokens.len();
        self.tokens = tokens;
        if self.retention.is_rolling() {
            self.release(pool);
        }
        self.cached = 0;
        let keep = blocks_for(self.tokens.len()).min(self.block_table.len());
        self.block_table.drain(keep..).for_each(|b| pool.release(b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_follow_the_tokens() {
        let mut pool = BlockPool::new(4);
        let mut s = Sequence::new(1, vec![0; 17], LogitPositions::Last);
        assert!(s.allocate(&mut pool));
        assert_eq!((s.block_table.len(), pool.available()), (2, 2));
        s.tokens.extend([0; 15]); // 32: still two
        assert!(s.allocate(&mut pool));
        assert_eq!(pool.available(), 2);
        s.tokens.push(0);
        assert!(s.allocate(&mut pool));
        assert_eq!(pool.available(), 1);
        s.release(&mut pool);
        assert_eq!((pool.available(), s.cached), (4, 0));
    }

    #[test]
    fn running_out_keeps_what_was_taken() {
        let mut pool = BlockPool::new(1);
        let mut s = Sequence::new(1, vec![0; 17], LogitPositions::Last);
        assert!(!s.allocate(&mut pool));
        assert_eq!(s.block_table.len(), 1);
        s.release(&mut pool);
        assert_eq!(pool.available(), 1);
    }

    #[test]
    fn decoding_is_one_token_on_a_cache() {
        let mut s = Sequence::new(1, vec![0; 3], LogitPositions::Last);
        assert!(!s.is_decoding());
        s.cached = 3;
        s.tokens.push(9);
        assert!(s.is_decoding());
        assert_eq!((s.pending(), s.generated()), (1, 1));
        // A prompt of one token is prefill.
        assert!(!Sequence::new(2, vec![0], LogitPositions::Last).is_decoding());
    }

    #[test]
    fn a_restart_keeps_its_blocks_and_returns_the_rest() {
        let mut pool = BlockPool::new(3);
        let mut s = Sequence::new(1, vec![0; 48], LogitPositions::All);
        assert!(s.allocate(&mut pool));
        s.cached = 48;
        s.restart(vec![1; 5], &mut pool);
        assert_eq!(
            (s.block_table.len(), s.cached, s.pending(), pool.available()),
            (1, 0, 5, 2)
        );
    }
}
