//! The prefix cache: sequences begin on the blocks that others computed for the same tokens.
//!
//! A block enters the pool's tree when it is full and the step that filled it has succeeded. From then on nobody writes it, so
//! that sequences share it without a copy; and what it holds depends on its tokens and those before it alone (not on
//! threads, batches, chunks), so that a request that finds it says the same, bit for bit, as one that computes it. A
//! sequence begins at a block's boundary and always computes a token, because it wants logits.
//!
//! Where a sequence forgets ([`crate::eviction`]), blocks are shared as far as every position in them saw all before it.
//!
//! Two kinds of work keep apart: what wants the logits of all positions, and whatever runs while the program has operators,
//! which may look at every position and change it.

use ryz_kvcache::{BLOCK_TOKENS, BlockPool, BlockTokens};

use crate::scheduler::Scheduler;
use crate::sequence::{LogitPositions, Sequence};

/// Blocks that a sequence finds, after those that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PrefixMatch {
    pub blocks: usize,
    /// Of those, the ones that nobody uses now.
    pub kept: usize,
}

impl Sequence {
    /// What it could take over with [`Sequence::reuse`].
    pub fn find(&self, pool: &BlockPool) -> PrefixMatch {
        let mut found = PrefixMatch::default();
        let mut cursor = self.cursor;
        while let Some(tokens) = self.reusable(cursor.blocks()) {
            let Some((behind, kept)) = pool.find(cursor, tokens) else {
                break;
            };
            cursor = behind;
            found.blocks += 1;
            found.kept += usize::from(kept);
        }
        found
    }

    /// Goes on from its last full block on blocks that others have computed; its own in their places go back. How many
    /// tokens it need not compute.
    pub fn reuse(&mut self, pool: &mut BlockPool) -> usize {
        let before = self.cached;
        while let Some(tokens) = self.reusable(self.cursor.blocks()) {
            let at = self.cursor.blocks();
            let Some((block, behind)) = pool.reuse(self.cursor, tokens) else {
                break;
            };
            match self.block_table.get_mut(at) {
                Some(own) => pool.release(std::mem::replace(own, block)),
                None => self.block_table.push(block),
            }
            self.cursor = behind;
            self.cached += BLOCK_TOKENS;
        }
        self.cached - before
    }

    /// Lets others find the blocks that are full since it last did.
    pub fn share(&mut self, pool: &mut BlockPool) {
        if self.keeps_apart() {
            return;
        }
        loop {
            let at = self.cursor.blocks();
            let end = (at + 1) * BLOCK_TOKENS;
            let may = end <= self.cached && at < self.retention.intact_blocks();
            let Some(tokens) = self.block(at).filter(|_| may) else {
                return;
            };
            let shared = pool.share(self.cursor, tokens, self.block_table[at]);
            (self.block_table[at], self.cursor) = shared;
        }
    }

    /// Its blocks are nobody else's until they are computed anew.
    pub fn keep_apart(&mut self) {
        self.apart = true;
    }

    fn keeps_apart(&self) -> bool {
        self.apart || self.wanted == LogitPositions::All
    }

    /// The tokens of a block that it would otherwise compute, where it may take it over: it must come next, and be followed by
    /// a token to compute.
    fn reusable(&self, block: usize) -> Option<&BlockTokens> {
        let comes_next = block * BLOCK_TOKENS >= self.cached
            && self.cursor.blocks() * BLOCK_TOKENS == self.cached;
        let goes_on = (block + 1) * BLOCK_TOKENS < self.tokens.len();
        let may = !self.keeps_apart() && block < self.retention.intact_blocks();
        (comes_next && goes_on && may).then(|| self.block(block))?
    }

    /// The tokens of a block, if it has as many.
    fn block(&self, block: usize) -> Option<&BlockTokens> {
        let tokens = self.tokens.get(block * BLOCK_TOKENS..)?;
        tokens.first_chunk()
    }
}

/// Whether sequences share blocks.
#[derive(Debug)]
pub(crate) struct Sharing {
    wanted: bool,
    on: bool,
}

impl Sharing {
    /// As the engine's options have it.
    pub fn new(wanted: bool) -> Self {
        Self { wanted, on: wanted }
    }

    /// Whether sequences share blocks in the step that comes.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Between two steps: the next one has operators, or none.
    pub fn follow(&mut self, operators: bool, pool: &mut BlockPool, scheduler: &mut Scheduler) {
        let on = self.wanted && !operators;
        if on == self.on {
            return;
        }
        self.on = on;
        if on {
            // What was computed with operators stays with whom it was computed for.
            let begun = scheduler.iter_mut().filter(|s| s.cached > 0);
            begun.for_each(Sequence::keep_apart);
        } else {
            pool.drop_shared();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(id: u64, tokens: impl IntoIterator<Item = u32>) -> Sequence {
        Sequence::new(id, tokens.into_iter().collect(), LogitPositions::Last)
    }

    /// Computes all tokens, as steps would.
    fn computed(mut sequence: Sequence, pool: &mut BlockPool) -> Sequence {
        assert!(sequence.allocate(pool));
        sequence.cached = sequence.tokens.len();
        sequence.share(pool);
        sequence
    }

    #[test]
    fn the_longest_beginning_in_whole_blocks_is_taken_over_and_a_token_is_left() {
        let mut pool = BlockPool::new(20);
        let first = computed(sequence(1, 0..50), &mut pool);
        for (tokens, blocks) in [
            (50, 3),
            (49, 3),
            (48, 2),
            (33, 2),
            (32, 1),
            (17, 1),
            (16, 0),
        ] {
            let mut other = sequence(2, 0..tokens);
            assert_eq!(other.find(&pool), PrefixMatch { blocks, kept: 0 });
            assert_eq!(other.reuse(&mut pool), blocks * 16, "{tokens} tokens");
            assert_eq!(other.block_table, first.block_table[..blocks]);
            other.release(&mut pool);
        }
        let mut other = sequence(2, (0..20).chain(100..130));
        assert_eq!(other.reuse(&mut pool), 16);
        assert_eq!(sequence(2, 1..50).find(&pool).blocks, 0);
        other.release(&mut pool);
        drop(first);
    }

    #[test]
    fn blocks_that_two_have_computed_become_one() {
        let mut pool = BlockPool::new(20);
        let mut first = computed(sequence(1, 0..40), &mut pool);
        let mut second = computed(sequence(2, 0..40), &mut pool);
        assert_eq!(second.block_table[..2], first.block_table[..2]);
        assert_ne!(second.block_table[2], first.block_table[2]);
        assert_eq!(pool.available(), 20 - 4);
        first.release(&mut pool);
        assert_eq!(pool.kept(), 0);
        second.release(&mut pool);
        assert_eq!((pool.kept(), pool.available()), (2, 20));
        assert_eq!(
            sequence(3, 0..40).find(&pool),
            PrefixMatch { blocks: 2, kept: 2 }
        );
    }

    #[test]
    fn a_prefill_goes_on_where_another_is_by_now() {
        let mut pool = BlockPool::new(20);
        let mut late = sequence(1, 0..70);
        assert!(late.allocate(&mut pool));
        late.cached = 16;
        late.share(&mut pool);
        let own = late.block_table.clone();
        let fast = computed(sequence(2, 0..64), &mut pool);
        assert_eq!(late.reuse(&mut pool), 48);
        assert_eq!(late.block_table[..4], fast.block_table[..4]);
        assert_eq!(late.block_table[4], own[4]);
        assert_eq!((late.cached, late.pending(), pool.available()), (64, 6, 15));
        // Within a block nobody can take over.
        let mut within = sequence(3, 0..70);
        within.cached = 5;
        assert_eq!(within.reuse(&mut pool), 0);
    }

    #[test]
    fn who_wants_all_logits_keeps_apart() {
        let mut pool = BlockPool::new(20);
        drop(computed(sequence(1, 0..40), &mut pool));
        let mut all = Sequence::new(2, (0..40).collect(), LogitPositions::All);
        assert_eq!((all.find(&pool).blocks, all.reuse(&mut pool)), (0, 0));
        let mut all = computed(
            Sequence::new(2, (50..90).collect(), LogitPositions::All),
            &mut pool,
        );
        all.release(&mut pool);
        assert_eq!(pool.kept(), 0);
    }
}
