//! Blocks also kept as f16 while sequences end in them, for caches whose blocks are written whole.
//!
//! Int4 quantizes a block's keys over its 16 positions, so a block can be written only when it is
//! full. Until then, its positions are stored here. A query reads its own block from here, or from
//! the step that computes it, even if the block is full by then; what it reads therefore does not
//! depend on how the prompt was split into steps. A sequence keeps the tails of the blocks in which
//! its last step began and ended. It can therefore be shortened by up to [`BACK`] positions and
//! extended again, which rewrites the block.

use ryz_tmac::Arena;

use crate::{BLOCK_TOKENS, BlockId, BlockMove, BlockPool, KvCache, KvCacheConfig, KvCacheError};

/// Positions by which a sequence may be shortened after a step.
const BACK: usize = BLOCK_TOKENS;

/// Storage of tails, and the block that each belongs to.
#[derive(Debug)]
pub(crate) struct Tails {
    /// One block per tail.
    pub cache: KvCache,
    pool: BlockPool,
    /// The block of each tail.
    of: Vec<Option<BlockId>>,
    /// Blocks that have a tail.
    owners: Vec<BlockId>,
}

impl Tails {
    pub fn new(arena: &Arena, config: &KvCacheConfig) -> Result<Self, KvCacheError> {
        let tails = config.tail();
        Ok(Self {
            cache: KvCache::new(&arena.labelled("unfinished keys and values"), tails)?,
            pool: BlockPool::new(tails.blocks),
            of: vec![None; config.blocks],
            owners: Vec::with_capacity(tails.blocks),
        })
    }

    /// The tail of a block.
    pub fn of(&self, block: BlockId) -> Option<BlockId> {
        self.of[block.index()]
    }

    /// Ensures tails for the blocks in which `steps` (each a sequence's table and its new
    /// positions) begin and end.
    pub fn prepare<'s>(
        &mut self,
        steps: impl Iterator<Item = StepBlocks<'s>> + Clone,
    ) -> Result<(), KvCacheError> {
        for step in steps.clone() {
            let (first, last) = step.ends();
            let done = step.table[..first].iter();
            let within = step.table.get(first + 1..last).unwrap_or_default();
            done.chain(within)
                .filter(|block| !block.is_evicted())
                .for_each(|&block| self.give_back(block));
        }
        for step in steps {
            let (first, last) = step.ends();
            let starts_within = !step.start.is_multiple_of(BLOCK_TOKENS);
            if starts_within && self.of(step.table[first]).is_none() {
                return Err(KvCacheError::TailMissing {
                    position: step.start,
                });
            }
            // Only a short step can be undone back into its first block.
            if step.end - step.start <= BACK + BLOCK_TOKENS {
                self.assign(step.table[first])?;
            }
            self.assign(step.table[last])?;
        }
        Ok(())
    }

    /// Frees the tails of all blocks except the given ones.
    pub fn keep(&mut self, blocks: impl Iterator<Item = BlockId> + Clone) {
        for index in (0..self.owners.len()).rev() {
            let owner = self.owners[index];
            if !blocks.clone().any(|block| block == owner) {
                self.give_back(owner);
            }
        }
    }

    /// Updates moved blocks; each keeps its tail.
    pub fn moved(&mut self, moves: &[BlockMove]) {
        for &BlockMove { from, to } in moves {
            // The previous content of the new index is gone.
            self.give_back(to);
            self.of[to.index()] = self.of[from.index()].take();
            self.owners
                .iter_mut()
                .filter(|owner| **owner == from)
                .for_each(|owner| *owner = to);
        }
    }

    fn assign(&mut self, block: BlockId) -> Result<(), KvCacheError> {
        if self.of(block).is_some() {
            return Ok(());
        }
        let expected = self.pool.capacity();
        let tail = self.pool.allocate();
        self.of[block.index()] = Some(tail.ok_or(KvCacheError::Tails { expected })?);
        self.owners.push(block);
        Ok(())
    }

    fn give_back(&mut self, block: BlockId) {
        if let Some(tail) = self.of[block.index()].take() {
            self.pool.release(tail);
            self.owners.retain(|owner| *owner != block);
        }
    }
}

/// The new positions of a sequence, `start .. end`, for which `table` has blocks.
#[derive(Clone, Copy, Debug)]
pub struct StepBlocks<'a> {
    /// The sequence's blocks.
    pub table: &'a [BlockId],
    /// The first new position.
    pub start: usize,
    /// The position after the last new one; greater than `start`.
    pub end: usize,
}

impl StepBlocks<'_> {
    /// The table indices of the first and the last new position.
    fn ends(&self) -> (usize, usize) {
        assert!(
            self.start < self.end && self.end <= self.table.len() * BLOCK_TOKENS,
            "positions {}..{} in {} blocks",
            self.start,
            self.end,
            self.table.len()
        );
        (self.start / BLOCK_TOKENS, (self.end - 1) / BLOCK_TOKENS)
    }
}
