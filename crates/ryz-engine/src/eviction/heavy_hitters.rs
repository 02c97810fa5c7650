//! Keeping the blocks that have had the most attention.
//!
//! At every 64th position the attention that each block has had from all queries before it decides, so that prompts are computed
//! in chunks that end there. What decides is a sum of integers ([`AttentionMass`]): it depends on nothing but the text.

use std::sync::Arc;

use ryz_kvcache::{AttentionMass, BLOCK_TOKENS, BlockId};

use super::blocks_for;

/// Blocks from one decision to the next.
const STRIDE: usize = 4;

/// What a sequence keeps.
#[derive(Debug, Clone)]
pub(crate) struct HeavyHitters {
    /// Blocks that are kept, those of the window included.
    kept: usize,
    /// The last ones, which are kept in any case.
    window: usize,
    mass: Arc<AttentionMass>,
    /// The program's numbers for older blocks, where it ranks them: for each block of the table.
    ranked: Option<Vec<f64>>,
}

impl HeavyHitters {
    /// Keeps `tokens` positions, among them the last `window`, of at most `blocks` blocks.
    pub fn new(tokens: usize, window: usize, blocks: usize) -> Self {
        Self {
            kept: blocks_for(tokens),
            window: blocks_for(window),
            mass: Arc::new(AttentionMass::new(blocks)),
            ranked: None,
        }
    }

    /// It, where the program ranks the blocks.
    pub fn ranked(mut self) -> Self {
        self.ranked = Some(Vec::new());
        self
    }

    /// Whether the program ranks its blocks and has not done so.
    pub fn is_unranked(&self) -> bool {
        self.ranked.as_ref().is_some_and(Vec::is_empty)
    }

    /// Takes the program's numbers for the blocks `old`, until the next choice.
    pub fn rank(&mut self, old: &[usize], scores: &[f64]) {
        let mut by_block = vec![0.0; self.mass.blocks()];
        for (&index, &score) in old.iter().zip(scores) {
            by_block[index] = score;
        }
        self.ranked = Some(by_block);
    }

    /// The sequence begins anew.
    pub fn reset(&mut self) {
        self.mass.clear();
        self.forget_ranking();
    }

    fn forget_ranking(&mut self) {
        if let Some(ranked) = &mut self.ranked {
            ranked.clear();
        }
    }

    /// The most positions that may be kept in a context: those that come until the next decision have room besides.
    pub fn most(context_length: usize) -> usize {
        blocks_for(context_length).saturating_sub(STRIDE + 1) * BLOCK_TOKENS
    }

    /// What attention the blocks have had.
    pub fn mass(&self) -> &AttentionMass {
        &self.mass
    }

    /// The most blocks that it holds.
    pub fn blocks(&self) -> usize {
        self.kept + STRIDE
    }

    /// Positions from `cached` to where it is decided next, at least one.
    pub fn until_next(&self, cached: usize) -> usize {
        let stride = STRIDE * BLOCK_TOKENS;
        // Before that there is nothing to decide.
        let first = self.kept / STRIDE + 1;
        (cached / stride + 1).max(first) * stride - cached
    }

    /// The older blocks when `cached` positions are there, and how many of them go; `None` when none does.
    pub fn choice(&self, table: &[BlockId], cached: usize) -> Option<(Vec<usize>, usize)> {
        let stride = STRIDE * BLOCK_TOKENS;
        if cached == 0 || !cached.is_multiple_of(stride) {
            return None;
        }
        let blocks = cached / BLOCK_TOKENS;
        let held = |&index: &usize| !table[index].is_evicted();
        let excess = (0..blocks).filter(held).count().saturating_sub(self.kept);
        if excess == 0 {
            return None;
        }
        Some(((0..blocks - self.window).filter(held).collect(), excess))
    }

    /// The blocks that go when `cached` positions are there; the next choice is ranked anew.
    pub fn lightest(&mut self, table: &[BlockId], cached: usize) -> Vec<usize> {
        let Some((mut old, excess)) = self.choice(table, cached) else {
            return Vec::new();
        };
        let ranked = self.ranked.as_deref().filter(|ranked| !ranked.is_empty());
        let weight = |index: usize| match ranked {
            Some(ranked) => ranked[index],
            None => self.mass.get(index),
        };
        // None is NaN; the older of equals goes first.
        old.sort_by(|&a, &b| weight(a).total_cmp(&weight(b)));
        old.truncate(excess);
        self.forget_ranking();
        old
    }
}

#[cfg(test)]
mod tests {
    use ryz_kvcache::BlockPool;

    use super::*;

    #[test]
    fn the_lightest_of_the_old_ones_go_at_every_64th_position() {
        let mut pool = BlockPool::new(16);
        let mut table: Vec<BlockId> = (0..16).filter_map(|_| pool.allocate()).collect();
        let mut heavy = HeavyHitters::new(90, 20, 16); // six blocks, the last two of them
        for (index, weight) in [0.9, 0.1, 0.5, 0.4, 0.3, 0.2, 0.0, 0.0].iter().enumerate() {
            heavy.mass().add(index, *weight);
        }
        assert_eq!(heavy.blocks(), 10);
        for none in [0, 64, 112, 127, 129] {
            assert!(heavy.lightest(&table, none).is_empty(), "{none}");
        }
        assert_eq!(heavy.lightest(&table, 128), [1, 5]);
        table[1] = BlockId::EVICTED;
        table[5] = BlockId::EVICTED;
        assert!(heavy.lightest(&table, 128).is_empty());
        // 8 and 9 have had none either, but are older than 10 and 11 only by their place; 6 and 7 are older still.
        assert_eq!(heavy.lightest(&table, 192), [6, 7, 8, 9]);
    }

    #[test]
    fn the_programs_numbers_decide_once() {
        let mut pool = BlockPool::new(16);
        let table: Vec<BlockId> = (0..16).filter_map(|_| pool.allocate()).collect();
        let mut heavy = HeavyHitters::new(90, 20, 16).ranked();
        (0..8).for_each(|index| heavy.mass().add(index, index as f32 / 10.0));
        assert!(heavy.is_unranked());
        let (old, excess) = heavy.choice(&table, 128).unwrap();
        assert_eq!((old.as_slice(), excess), (&[0, 1, 2, 3, 4, 5][..], 2));
        heavy.rank(&old, &[5.0, 1.0, 4.0, -7.0, 3.0, 2.0]);
        assert!(!heavy.is_unranked());
        assert_eq!(heavy.lightest(&table, 128), [3, 1]);
        assert!(heavy.is_unranked());
        assert_eq!(heavy.lightest(&table, 128), [0, 1], "by attention");
    }

    #[test]
    fn chunks_end_where_it_is_decided() {
        let heavy = HeavyHitters::new(90, 20, 16);
        assert_eq!(heavy.until_next(0), 128);
        assert_eq!(heavy.until_next(127), 1);
        assert_eq!(heavy.until_next(128), 64);
        assert_eq!(heavy.until_next(130), 62);
        // At 128 positions eight blocks are not more than eight.
        assert_eq!(HeavyHitters::new(128, 1, 16).until_next(0), 192);
        assert_eq!(HeavyHitters::most(160), 80);
        assert_eq!(HeavyHitters::most(16), 0);
    }
}
